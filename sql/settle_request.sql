-- Its request bears the cost of its last attempt, and counts those that may have been paid for nothing.
UPDATE requests SET
    cost_sats = CASE WHEN attempts = :n THEN :cost ELSE cost_sats END,
    possibly_spent = (
        SELECT count(*) FROM attempts
        WHERE attempts.correlation_id = requests.correlation_id
            AND attempts.failure IS NOT NULL AND attempts.money <> 'free'
    )
WHERE correlation_id = :correlation_id
