-- Before abandon.sql. Without a failure they would read as successes. What stated a price above
-- nothing before the end is spent, as in any other failure.
UPDATE attempts SET
    failure = 'shutdown',
    money = CASE WHEN provider_cost_sats > 0 THEN 'spent' ELSE 'unknown' END
WHERE money IS NULL AND correlation_id IN (
    SELECT correlation_id FROM requests WHERE status = 'in_flight' AND coalesce(boot_id, '') = :boot_id
)
