-- After abandon_attempts.sql. It had been dispatched, and nobody saw how it ended: it may have cost,
-- and so may attempts that had failed by the time the row was written.
UPDATE requests SET
    status = 'abandoned',
    error_message = 'arbstr ended before this request did',
    possibly_spent = max(1, (
        SELECT count(*) FROM attempts
        WHERE attempts.correlation_id = requests.correlation_id
            AND failure IS NOT NULL AND money IS NOT 'free'
    ))
WHERE status = 'in_flight' AND boot_id IS :boot_id
