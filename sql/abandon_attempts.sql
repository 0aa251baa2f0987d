-- Before abandon.sql. Without a failure they would read as successes.
UPDATE attempts SET failure = 'shutdown', money = 'unknown'
WHERE money IS NULL AND correlation_id IN (
    SELECT correlation_id FROM requests WHERE status = 'in_flight' AND coalesce(boot_id, '') = :boot_id
)
