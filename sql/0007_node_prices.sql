-- What Routstr nodes ask for their models, in sats per 1000 tokens: a row for each price that somebody paid
-- or that moved by 1 %, from fetched_at on; never changed afterwards. Without a price: not listed any more.
-- max_cost is in sats, what a key must hold free for a request without a limit.
CREATE TABLE node_prices (
    id BIGINT PRIMARY KEY,
    provider TEXT NOT NULL,
    model TEXT NOT NULL,            -- the node's own id
    input REAL,
    output REAL,
    cached REAL,
    max_cost REAL,
    fetched_at TEXT NOT NULL,
    version TEXT                    -- of the node's software, if it says so
);
CREATE INDEX node_prices_by_model ON node_prices (provider, model, fetched_at);

-- The last listing of each node as a whole, so that a start without network knows it. The text is that
-- of sansio/routing/prices.py.
CREATE TABLE node_listings (
    provider TEXT NOT NULL PRIMARY KEY,
    url TEXT NOT NULL,
    fetched_at TEXT NOT NULL,
    version TEXT,
    listing TEXT NOT NULL
);

-- The price an attempt was routed by; NULL where rates are typed.
ALTER TABLE attempts ADD COLUMN price_id BIGINT;
