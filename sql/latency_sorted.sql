-- The latencies at two places in the order, by sorting: good where few rows are asked for. The plus
-- signs keep SQLite from the index of latency_walked.sql.
SELECT place, latency_ms
FROM (
    SELECT latency_ms, row_number() OVER (ORDER BY +latency_ms) AS place
    FROM requests
    WHERE +status IN ('ok', 'failed', 'client_disconnected', 'stream_incomplete')
        AND timestamp >= :since AND timestamp < :until {filters}
)
WHERE place IN (:p50, :p95)
