-- As spent_between.sql, of one process.
SELECT coalesce(
    attempts.cost_sats,
    nullif(attempts.provider_cost_sats, 0),
    attempts.set_aside_sats,
    attempts.estimated_cost_sats
)
FROM requests JOIN attempts USING (correlation_id)
WHERE requests.timestamp >= :asked_since
    AND attempts.started_at >= :since
    AND attempts.started_at < :until
    AND coalesce(attempts.money, '') <> 'free'
    AND requests.boot_id = :boot_id
