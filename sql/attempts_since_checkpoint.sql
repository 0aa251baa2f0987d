-- What attempts at a provider cost since a checkpoint, as far as the node said or was asked; unknown where
-- both are NULL.
SELECT
    attempts.correlation_id, attempts.n, attempts.money, attempts.cost_sats,
    attempts.provider_cost_sats, attempts.settled,
    coalesce(attempts.set_aside_sats, attempts.estimated_cost_sats) AS set_aside_sats,
    attempts.started_at, attempts.duration_ms
FROM requests JOIN attempts ON attempts.correlation_id = requests.correlation_id
WHERE requests.id > :after AND requests.id <= :until AND attempts.provider = :provider
    AND (attempts.money IS NULL OR attempts.money <> 'free')
