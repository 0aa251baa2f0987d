-- The ledger: one row per chat request, one per attempt at a provider.
-- Text of prompts and answers has no column here on purpose.
CREATE TABLE requests (
    id INTEGER PRIMARY KEY,
    correlation_id TEXT NOT NULL UNIQUE,
    timestamp TEXT NOT NULL,        -- UTC, fixed width, so that text order is time order
    model TEXT NOT NULL,            -- what answered or was to answer
    requested_model TEXT,
    provider TEXT,
    policy TEXT,
    streaming INTEGER,
    input_tokens INTEGER,
    output_tokens INTEGER,
    cached_tokens INTEGER,
    reasoning_tokens INTEGER,
    cost_sats REAL,                 -- NULL is unknown, which is not zero
    estimated_cost_sats REAL,
    provider_cost_sats REAL,
    latency_ms INTEGER NOT NULL,    -- 0 while in flight
    ttft_ms INTEGER,
    stream_duration_ms INTEGER,
    success INTEGER NOT NULL,       -- 1 for status 'ok' alone
    status TEXT,
    error_status INTEGER,
    error_message TEXT,
    attempts INTEGER,
    possibly_spent INTEGER,         -- attempts that may have cost without an answer
    boot_id TEXT                    -- the process that wrote the row
);

CREATE INDEX requests_by_time ON requests (timestamp);
CREATE INDEX requests_by_model ON requests (model, timestamp);
CREATE INDEX requests_by_provider ON requests (provider, timestamp);
CREATE INDEX requests_by_policy ON requests (policy, timestamp);
-- Holds a handful of entries however long the ledger is; every start reads it.
CREATE INDEX requests_in_flight ON requests (boot_id) WHERE status = 'in_flight';

CREATE TABLE attempts (
    correlation_id TEXT NOT NULL,
    n INTEGER NOT NULL,
    provider TEXT,
    model TEXT,
    started_at TEXT,
    duration_ms INTEGER,
    failure TEXT,                   -- NULL is success
    http_status INTEGER,
    money TEXT,                     -- 'free', 'spent' or 'unknown'
    input_tokens INTEGER,
    output_tokens INTEGER,
    cost_sats REAL,
    estimated_cost_sats REAL,
    provider_cost_sats REAL,
    upstream_request_id TEXT,
    PRIMARY KEY (correlation_id, n)
) WITHOUT ROWID;

CREATE TABLE token_ratios (
    policy TEXT NOT NULL PRIMARY KEY,   -- '' for requests without a policy
    avg_ratio REAL NOT NULL,            -- moving average of output tokens per input token
    sample_count INTEGER NOT NULL
);
