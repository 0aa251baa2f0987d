-- As ../latency_walked.sql, without words for SQLite's planner.
SELECT latency_ms
FROM requests
WHERE (status = 'ok' OR status IN ('failed', 'client_disconnected', 'stream_incomplete'))
    AND timestamp >= :since AND timestamp < :until {filters}
ORDER BY latency_ms {order}
LIMIT 1 OFFSET :skip
