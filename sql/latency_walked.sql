-- The latency at a place in the order, by walking the index: good where many rows are asked for. What nearly
-- all have is looked for first.
SELECT latency_ms
FROM requests INDEXED BY requests_by_latency
WHERE (status = 'ok' OR status IN ('failed', 'client_disconnected', 'stream_incomplete'))
    AND timestamp >= :since AND timestamp < :until {filters}
ORDER BY latency_ms {order}
LIMIT 1 OFFSET :skip
