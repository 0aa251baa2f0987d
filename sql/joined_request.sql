-- The request whose last attempt brought an answer after all. How it ended for its own client stays.
UPDATE requests SET
    answered = 1,
    possibly_spent = (
        SELECT count(*) FROM attempts
        WHERE attempts.correlation_id = requests.correlation_id
            AND attempts.failure IS NOT NULL AND attempts.money <> 'free'
    )
WHERE correlation_id = :first AND status = 'client_disconnected' AND answered = 0
    AND EXISTS (
        SELECT * FROM attempts
        WHERE attempts.correlation_id = :first AND attempts.n = requests.attempts
            AND attempts.failure IS NULL
    )
