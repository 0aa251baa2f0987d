-- As ../move_requests.sql: the numbers, too, which others refer to.
INSERT INTO requests ({columns}) OVERRIDING SYSTEM VALUE {rows}
