-- What an attempt turned out to have cost: told once, by whoever is first. Before settle_request.sql.
UPDATE attempts SET cost_sats = :cost, money = :money, settled = :settled
WHERE correlation_id = :correlation_id AND n = :n
    AND settled IS NULL AND provider_cost_sats IS NULL
