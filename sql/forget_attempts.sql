DELETE FROM attempts WHERE correlation_id IN (
    SELECT correlation_id FROM requests
    WHERE timestamp < :before AND coalesce(status, '') <> 'in_flight'
    ORDER BY timestamp, id LIMIT :rows
)
