-- As spent_between.sql, of processes that have no lease of the day.
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
    AND coalesce(requests.boot_id, '') NOT IN (
        SELECT boot_id FROM budget_leases WHERE day = :day
    )
