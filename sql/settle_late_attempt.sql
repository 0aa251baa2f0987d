-- An attempt that was told to have cost nothing arrived after all. Before settle_request.sql.
UPDATE attempts SET cost_sats = :cost, money = :money, settled = :settled, provider_cost_sats = NULL
WHERE correlation_id = :correlation_id AND n = :n AND failure IS NOT NULL AND money = 'free'
