-- The latencies at two places in the order, by sorting: good where few rows are looked at. The plus
-- sign keeps SQLite from the index of latency_walked.sql; {index} says which one has the few.
SELECT place, latency_ms
FROM (
    SELECT latency_ms, row_number() OVER (ORDER BY +latency_ms) AS place
    FROM requests {index}
    WHERE status IN ('ok', 'failed', 'client_disconnected', 'stream_incomplete')
        AND timestamp >= :since AND timestamp < :until {filters}
)
WHERE place IN (:p50, :p95)
