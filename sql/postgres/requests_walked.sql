-- As ../requests_walked.sql. An index has its NULLs at one end, whichever way it is walked, so that those
-- without a value follow by themselves. The planner finds the index.
SELECT * FROM requests WHERE id IN (
    SELECT id FROM (
        SELECT id FROM (
            SELECT id FROM requests
            WHERE {column} IS NOT NULL AND timestamp >= :since AND timestamp < :until {filters}
            ORDER BY {column} {order}, id {order}
            LIMIT :reach
        ) AS valued
        UNION ALL SELECT id FROM (
            SELECT id FROM requests
            WHERE {column} IS NULL AND timestamp >= :since AND timestamp < :until {filters}
            ORDER BY id {order}
            LIMIT :reach
        ) AS others
        LIMIT :limit OFFSET :offset
    ) AS page
)
ORDER BY {column} {order} NULLS LAST, id {order}
