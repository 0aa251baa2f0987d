-- As ../requests_ending.sql.
SELECT correlation_id FROM requests
WHERE right(correlation_id, length(:part)) = :part ORDER BY correlation_id DESC LIMIT 2
