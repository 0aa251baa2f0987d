-- What an attempt turned out to have cost. Before settle_request.sql.
UPDATE attempts SET cost_sats = :cost, money = :money, settled = :settled
WHERE correlation_id = :correlation_id AND n = :n
