-- Attempts that brought no answer: how many, how many of them may have cost, and how much: what they
-- did cost if that is known, else the estimate. Braces as in stats.sql.
SELECT
    {key},
    count(*) AS failed,
    count(*) FILTER (WHERE attempts.money IS NOT 'free') AS possibly_spent,
    total(coalesce(attempts.cost_sats, attempts.estimated_cost_sats))
        FILTER (WHERE attempts.money IS NOT 'free') AS sats
FROM requests INDEXED BY requests_with_failures
CROSS JOIN attempts INDEXED BY attempts_failed ON attempts.correlation_id = requests.correlation_id
WHERE requests.attempts > coalesce(requests.answered, requests.status = 'ok', 0)
    AND requests.timestamp >= :since AND requests.timestamp < :until
    AND attempts.failure IS NOT NULL {filters}
{group_by}
