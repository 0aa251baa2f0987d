-- As ../0007_node_prices.sql.
CREATE TABLE node_prices (
    id BIGINT PRIMARY KEY,
    provider TEXT COLLATE "C" NOT NULL,
    model TEXT COLLATE "C" NOT NULL,
    input DOUBLE PRECISION,
    output DOUBLE PRECISION,
    cached DOUBLE PRECISION,
    max_cost DOUBLE PRECISION,
    fetched_at TEXT COLLATE "C" NOT NULL,
    version TEXT COLLATE "C"
);
CREATE INDEX node_prices_by_model ON node_prices (provider, model, fetched_at);

CREATE TABLE node_listings (
    provider TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    url TEXT COLLATE "C" NOT NULL,
    fetched_at TEXT COLLATE "C" NOT NULL,
    version TEXT COLLATE "C",
    listing TEXT COLLATE "C" NOT NULL
);

ALTER TABLE attempts ADD COLUMN price_id BIGINT;
