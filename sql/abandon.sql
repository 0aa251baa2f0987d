-- After abandon_attempts.sql. Nobody saw how it ended. What may have cost are the attempts that ran, and
-- those that had failed so; each has a row, because it was offered when it started.
UPDATE requests SET
    status = 'abandoned',
    error_message = 'arbstr ended before this request did',
    possibly_spent = (
        SELECT count(*) FROM attempts
        WHERE attempts.correlation_id = requests.correlation_id
            AND failure IS NOT NULL AND coalesce(money, '') <> 'free'
    )
WHERE status = 'in_flight' AND coalesce(boot_id, '') = :boot_id
