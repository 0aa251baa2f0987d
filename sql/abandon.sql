-- It had been dispatched, and nobody saw how it ended: it may have cost.
UPDATE requests SET
    status = 'abandoned',
    error_message = 'arbstr ended before this request did',
    possibly_spent = max(coalesce(possibly_spent, 0), 1)
WHERE status = 'in_flight' AND boot_id IS :boot_id
