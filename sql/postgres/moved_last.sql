-- As ../moved_last.sql: the next rows have the next numbers.
SELECT
    (SELECT setval(pg_get_serial_sequence('requests', 'id'), coalesce(max(id), 0) + 1, FALSE) FROM requests),
    (SELECT setval(pg_get_serial_sequence('checkpoints', 'id'), coalesce(max(id), 0) + 1, FALSE)
     FROM checkpoints)
