-- After forget_attempts.sql, in the same transaction: the same requests.
DELETE FROM requests WHERE id IN (
    SELECT id FROM requests
    WHERE timestamp < :before AND status IS NOT 'in_flight'
    ORDER BY timestamp, id LIMIT :rows
)
