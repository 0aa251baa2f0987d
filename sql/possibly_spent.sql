-- What attempts that brought no answer may have cost: their own tokens at our prices, else what the
-- provider says, else the estimate. Braces as in stats.sql.
SELECT
    {key},
    count(*) AS attempts,
    total(coalesce(
        attempts.cost_sats, attempts.provider_cost_sats, attempts.estimated_cost_sats
    )) AS sats
FROM requests INDEXED BY requests_possibly_spent
CROSS JOIN attempts INDEXED BY attempts_possibly_spent ON attempts.correlation_id = requests.correlation_id
WHERE requests.possibly_spent > 0
    AND requests.timestamp >= :since AND requests.timestamp < :until
    AND attempts.failure IS NOT NULL AND attempts.money IS NOT 'free' {filters}
{group_by}
