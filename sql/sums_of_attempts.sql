-- As sums_of_requests.sql: attempts, those without a cost, sats, what was set aside.
SELECT
    coalesce(substr(started_at, 1, 10), '') AS day,
    count(*),
    count(*) - count(cost_sats),
    coalesce(sum(cost_sats), 0.0),
    coalesce(sum(set_aside_sats), 0.0)
FROM attempts
GROUP BY coalesce(substr(started_at, 1, 10), '')
