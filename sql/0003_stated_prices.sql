-- What was charged outranks what was computed: cost_sats is what the provider stated, else the
-- formula. Sums go over attempts, each that was not free once: what brought an answer was spent, the
-- rest was paid for nothing.
ALTER TABLE requests ADD COLUMN expected_sats REAL;     -- by the formula, whatever was stated
ALTER TABLE requests ADD COLUMN answered INTEGER;       -- 1 if the last attempt brought an answer
ALTER TABLE attempts ADD COLUMN expected_sats REAL;

-- The sums are made anew below; kept row by row they would take minutes of a large ledger.
DROP TRIGGER request_will_change;
DROP TRIGGER request_changed;

-- A stated charge outranks the class of a failure, too.
UPDATE attempts SET
    expected_sats = cost_sats,
    cost_sats = CASE
        WHEN provider_cost_sats IS NOT NULL THEN provider_cost_sats
        WHEN money IS NOT 'free' THEN cost_sats
    END,
    money = CASE WHEN money = 'free' AND provider_cost_sats > 0 THEN 'spent' ELSE money END;

-- Of a request that was answered at once the row itself says all; of the others their attempts do.
UPDATE requests SET
    expected_sats = cost_sats,
    cost_sats = CASE
        WHEN provider_cost_sats IS NOT NULL THEN provider_cost_sats
        WHEN status = 'ok' OR NOT EXISTS (
            SELECT * FROM attempts
            WHERE attempts.correlation_id = requests.correlation_id
                AND n = requests.attempts AND money = 'free'
        ) THEN cost_sats
    END,
    answered = status IS 'ok' OR EXISTS (
        SELECT * FROM attempts
        WHERE attempts.correlation_id = requests.correlation_id
            AND n = requests.attempts AND failure IS NULL AND money = 'spent'
    ),
    possibly_spent = CASE
        WHEN status = 'ok' AND attempts = 1 THEN possibly_spent
        ELSE max(coalesce(possibly_spent, 0), (
            SELECT count(*) FROM attempts
            WHERE attempts.correlation_id = requests.correlation_id
                AND failure IS NOT NULL AND money IS NOT 'free'
        ))
    END;

-- What each row adds to the sums, as before but for unknown_cost and cost_sats. An older arbstr that
-- still writes this file knows nothing of answered.
DROP VIEW request_measures;
CREATE VIEW request_measures AS SELECT
    id,
    timestamp,
    substr(timestamp, 1, 13) AS hour,           -- 2026-02-03T04
    substr(timestamp, 1, 10) AS day,            -- 2026-02-03
    model,
    coalesce(provider, '') AS provider,
    coalesce(policy, '') AS policy,
    coalesce(status, '') AS status,
    coalesce(streaming, 0) AS streaming,
    1 AS requests,
    cost_sats IS NULL
        AND coalesce(status, '') <> 'in_flight'
        AND (coalesce(answered, status = 'ok', 0) OR coalesce(possibly_spent, 0) > 0)
        AS unknown_cost,
    CASE WHEN coalesce(answered, status = 'ok', 0) THEN coalesce(cost_sats, 0.0) ELSE 0.0 END
        AS cost_sats,
    coalesce(input_tokens, 0) AS input_tokens,
    coalesce(output_tokens, 0) AS output_tokens,
    latency_ms,
    ttft_ms IS NOT NULL AS ttft_requests,
    coalesce(ttft_ms, 0) AS ttft_ms
FROM requests;

DELETE FROM request_hours;
INSERT INTO request_hours SELECT
    hour, model, provider, policy, status, streaming,
    sum(requests), sum(unknown_cost), sum(cost_sats), sum(input_tokens), sum(output_tokens),
    sum(latency_ms), sum(ttft_requests), sum(ttft_ms)
FROM request_measures WHERE status <> 'in_flight'
GROUP BY hour, model, provider, policy, status, streaming;

DELETE FROM request_days;
INSERT INTO request_days SELECT
    day, model, provider, policy, status, streaming,
    sum(requests), sum(unknown_cost), sum(cost_sats), sum(input_tokens), sum(output_tokens),
    sum(latency_ms), sum(ttft_requests), sum(ttft_ms)
FROM request_measures WHERE status <> 'in_flight'
GROUP BY day, model, provider, policy, status, streaming;

CREATE TRIGGER request_will_change BEFORE UPDATE ON requests WHEN old.status IS NOT 'in_flight'
BEGIN INSERT INTO request_tally VALUES (old.id, -1); END;

CREATE TRIGGER request_changed AFTER UPDATE ON requests WHEN new.status IS NOT 'in_flight'
BEGIN INSERT INTO request_tally VALUES (new.id, 1); END;

-- Attempts that failed, whether they cost or not, and the requests that can have some: all but those
-- that were answered at once or sent to nobody.
DROP INDEX requests_possibly_spent;
DROP INDEX attempts_possibly_spent;
CREATE INDEX requests_with_failures ON requests (
    timestamp, correlation_id, policy, status, attempts, answered
) WHERE attempts > coalesce(answered, status = 'ok', 0);
CREATE INDEX attempts_failed ON attempts (
    correlation_id, provider, model, failure, money, cost_sats, estimated_cost_sats
) WHERE failure IS NOT NULL;
