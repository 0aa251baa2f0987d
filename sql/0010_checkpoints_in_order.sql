-- Checkpoints in the order they were taken. The moment of one is only what the clock said, which may say
-- the same twice, or go back.
ALTER TABLE checkpoints RENAME TO checkpoints_by_time;
CREATE TABLE checkpoints (
    id INTEGER PRIMARY KEY,
    provider TEXT NOT NULL,
    key_id TEXT NOT NULL,
    taken_at TEXT NOT NULL,
    total_spent BIGINT NOT NULL,
    total_requests BIGINT NOT NULL,
    balance BIGINT NOT NULL,
    after_request BIGINT NOT NULL,
    stated_sats REAL,
    charged_sats REAL,
    open_attempts INTEGER,
    verdict TEXT NOT NULL
);
INSERT INTO checkpoints (
    provider, key_id, taken_at, total_spent, total_requests, balance, after_request,
    stated_sats, charged_sats, open_attempts, verdict
)
SELECT
    provider, key_id, taken_at, total_spent, total_requests, balance, after_request,
    stated_sats, charged_sats, open_attempts, verdict
FROM checkpoints_by_time ORDER BY taken_at;
DROP TABLE checkpoints_by_time;
CREATE INDEX checkpoints_by_key ON checkpoints (provider, key_id, id);
