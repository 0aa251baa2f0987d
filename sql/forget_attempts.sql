DELETE FROM attempts WHERE correlation_id IN (
    SELECT correlation_id FROM requests
    WHERE timestamp < :before AND status IS NOT 'in_flight'
    ORDER BY timestamp, id LIMIT :rows
)
