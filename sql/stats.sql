-- The figures of one part of a span: from the sums of whole days or hours, or row by row. What the braces
-- name is filled in from constants of reports.py; every value that was asked for is bound.
SELECT
    {key},
    sum(requests) AS total,
    sum(requests) FILTER (WHERE status = 'ok') AS success,
    sum(requests) FILTER (WHERE status = 'rejected') AS rejected,
    sum(requests) FILTER (WHERE status = 'client_disconnected') AS client_disconnected,
    sum(requests) FILTER (WHERE status = 'in_flight') AS in_flight,
    sum(requests) FILTER (WHERE streaming <> 0) AS streaming,
    sum(unknown_cost) AS unknown_cost,
    sum(cost_nanosats) AS cost_nanosats,
    sum(input_tokens) AS input_tokens,
    sum(output_tokens) AS output_tokens,
    sum(requests) FILTER (
        WHERE status IN ('ok', 'failed', 'client_disconnected', 'stream_incomplete')
    ) AS timed,
    sum(latency_ms) FILTER (
        WHERE status IN ('ok', 'failed', 'client_disconnected', 'stream_incomplete')
    ) AS latency_ms,
    sum(ttft_requests) AS ttft_requests,
    sum(ttft_ms) AS ttft_ms
FROM {part}
WHERE {moment} >= :since AND {moment} < :until {filters}
{group_by}
