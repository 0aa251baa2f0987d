-- As requests_page.sql, in the order of an index that is walked: good where many rows are asked for.
-- {index} has the rest of what is asked for as well, so that only rows of the page are looked up.
SELECT * FROM requests WHERE id IN (
    SELECT id
    FROM requests INDEXED BY {index}
    WHERE timestamp >= :since AND timestamp < :until {filters}
    ORDER BY {column} {order} NULLS LAST, id {order}
    LIMIT :limit OFFSET :offset
)
ORDER BY +{column} {order} NULLS LAST, id {order}
