-- Braces as in stats.sql.
SELECT *
FROM requests
WHERE timestamp >= :since AND timestamp < :until {filters}
ORDER BY {order}
LIMIT :limit OFFSET :offset
