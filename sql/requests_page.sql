-- Braces as in stats.sql. What is sorted by another column than the time is given a plus sign, which keeps
-- SQLite from the index of that column: see requests_walked.sql.
SELECT *
FROM requests
WHERE timestamp >= :since AND timestamp < :until {filters}
ORDER BY {order}
LIMIT :limit OFFSET :offset
