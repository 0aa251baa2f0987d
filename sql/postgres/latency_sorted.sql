-- As ../latency_sorted.sql, without words for SQLite's planner.
SELECT place, latency_ms
FROM (
    SELECT latency_ms, row_number() OVER (ORDER BY latency_ms) AS place
    FROM requests
    WHERE status IN ('ok', 'failed', 'client_disconnected', 'stream_incomplete')
        AND timestamp >= :since AND timestamp < :until {filters}
) AS placed
WHERE place IN (:p50, :p95)
