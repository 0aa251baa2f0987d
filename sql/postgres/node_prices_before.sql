-- As ../node_prices_before.sql; the row beside a max() has to be asked for in another way.
SELECT DISTINCT ON (model) model, input, output, fetched_at
FROM node_prices
WHERE provider = :provider AND fetched_at <= :before
ORDER BY model, fetched_at DESC
