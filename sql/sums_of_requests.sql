-- What a ledger adds up to: requests, those without a cost, sats, tokens, numbers; by the day.
SELECT
    substr(timestamp, 1, 10) AS day,
    count(*),
    count(*) - count(cost_sats),
    coalesce(sum(cost_sats), 0.0),
    CAST(sum(coalesce(input_tokens, 0) + coalesce(output_tokens, 0)) AS BIGINT),
    CAST(sum(id) AS BIGINT)
FROM requests
GROUP BY substr(timestamp, 1, 10)
