-- Whoever asked the same again has the whole answer that a client had left: so the attempt brought one,
-- as it says itself where they had joined before its end. Before joined_request.sql.
UPDATE attempts SET failure = NULL
WHERE correlation_id = :first AND failure = 'client_left' AND money = 'spent'
    AND n = (
        SELECT requests.attempts FROM requests
        WHERE requests.correlation_id = :first AND requests.status = 'client_disconnected'
    )
    AND EXISTS (SELECT * FROM requests WHERE joined = :first AND status = 'ok')
