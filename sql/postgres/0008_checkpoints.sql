-- As ../0008_checkpoints.sql.
CREATE TABLE checkpoints (
    provider TEXT COLLATE "C" NOT NULL,
    key_id TEXT COLLATE "C" NOT NULL,
    taken_at TEXT COLLATE "C" NOT NULL,
    total_spent BIGINT NOT NULL,
    total_requests BIGINT NOT NULL,
    balance BIGINT NOT NULL,
    after_request BIGINT NOT NULL,
    stated_sats DOUBLE PRECISION,
    charged_sats DOUBLE PRECISION,
    open_attempts BIGINT,
    verdict TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (provider, taken_at)
);

ALTER TABLE attempts ADD COLUMN settled TEXT COLLATE "C";
