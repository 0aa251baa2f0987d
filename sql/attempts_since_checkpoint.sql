-- What attempts with a provider's key cost since a checkpoint, as far as the node said or was asked; unknown where
-- both are NULL. A request that came before it may have got to the provider after it; so long ago that ten
-- thousand others came since, it did not. What has not begun yet did so before the clock was put back.
-- Rows of an older arbstr do not say which key they were sent with: it may have been this one.
SELECT
    attempts.correlation_id, attempts.n, attempts.money, attempts.cost_sats,
    attempts.provider_cost_sats, attempts.settled,
    coalesce(attempts.set_aside_sats, attempts.estimated_cost_sats) AS set_aside_sats,
    attempts.started_at, attempts.duration_ms, attempts.lane, attempts.key_id, requests.boot_id,
    requests.status
FROM requests JOIN attempts ON attempts.correlation_id = requests.correlation_id
WHERE requests.id > :after - 10000 AND requests.id <= :until AND attempts.provider = :provider
    AND (requests.id > :after OR attempts.started_at BETWEEN :since AND :now)
    AND (attempts.key_id = :key_id OR attempts.key_id IS NULL)
    AND (attempts.money IS NULL OR attempts.money <> 'free')
