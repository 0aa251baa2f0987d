-- As sums_of_requests.sql, of the sums that are kept: what questions are answered from.
SELECT
    day,
    CAST(sum(requests) AS BIGINT),
    CAST(sum(unknown_cost) AS BIGINT),
    sum(cost_nanosats)
FROM request_days
GROUP BY day
