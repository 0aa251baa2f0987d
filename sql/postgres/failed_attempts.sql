-- As ../failed_attempts.sql, without words for SQLite's planner.
SELECT
    {key},
    count(*) AS failed,
    count(*) FILTER (WHERE attempts.money IS DISTINCT FROM 'free') AS possibly_spent,
    coalesce(sum(coalesce(attempts.cost_sats, attempts.estimated_cost_sats))
        FILTER (WHERE attempts.money IS DISTINCT FROM 'free'), 0.0) AS sats
FROM requests JOIN attempts ON attempts.correlation_id = requests.correlation_id
WHERE requests.attempts > coalesce(requests.answered, CASE WHEN requests.status = 'ok' THEN 1 ELSE 0 END)
    AND requests.timestamp >= :since AND requests.timestamp < :until
    AND attempts.failure IS NOT NULL {filters}
{group_by}
