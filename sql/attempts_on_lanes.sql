-- Attempts at a provider whose lane may still tell what they cost: those nobody knows of, those that still
-- run, and those it told to have cost nothing a while ago, which may have come after all.
SELECT
    correlation_id, n, lane, started_at, duration_ms, money, settled,
    coalesce(cost_sats, set_aside_sats, estimated_cost_sats, 0.0) AS counted
FROM attempts
WHERE provider = :provider AND lane IS NOT NULL AND provider_cost_sats IS NULL
    AND (
        (settled IS NULL AND (money IS NULL OR money <> 'free'))
        OR (settled = 'lane' AND money = 'free' AND started_at >= :since)
    )
