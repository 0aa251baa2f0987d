-- After forget_attempts.sql, in the same transaction: the same requests.
DELETE FROM requests WHERE id IN (
    SELECT id FROM requests
    WHERE timestamp < :before AND coalesce(status, '') <> 'in_flight'
    ORDER BY timestamp, id LIMIT :rows
)
