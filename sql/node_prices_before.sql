-- The last price of each model of a provider at a moment: what it is compared with a day later.
SELECT model, input, output, fetched_at
FROM node_prices AS price
WHERE provider = :provider AND fetched_at = (
    SELECT max(earlier.fetched_at) FROM node_prices AS earlier
    WHERE earlier.provider = price.provider AND earlier.model = price.model
        AND earlier.fetched_at <= :before
)
