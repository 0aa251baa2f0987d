-- The last price of each model of a provider at a moment: what it is compared with a day later.
SELECT model, input, output, max(fetched_at) AS fetched_at
FROM node_prices
WHERE provider = :provider AND fetched_at <= :before
GROUP BY model
