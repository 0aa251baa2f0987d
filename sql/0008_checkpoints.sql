-- What a node said of a key while nothing was in flight on it: sansio/ledger/reconcile.py. Counters are
-- millisats; key_id tells keys apart and none of them. after_request is the last request that is in it.
CREATE TABLE checkpoints (
    provider TEXT NOT NULL,
    key_id TEXT NOT NULL,
    taken_at TEXT NOT NULL,
    total_spent BIGINT NOT NULL,
    total_requests BIGINT NOT NULL,
    balance BIGINT NOT NULL,
    after_request BIGINT NOT NULL,
    stated_sats REAL,           -- since the one before: what was known, and what was charged
    charged_sats REAL,
    open_attempts INTEGER,
    verdict TEXT NOT NULL,
    PRIMARY KEY (provider, taken_at)
);

-- How the price of an attempt that ended without word was learnt afterwards: 'checkpoint', 'shared' (with
-- others, of a known sum) or 'lane'. NULL: it was stated, or nobody knows.
ALTER TABLE attempts ADD COLUMN settled TEXT;
