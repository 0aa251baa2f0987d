-- What lets a question about a million rows be answered at once: sums by the hour and by the day,
-- kept by triggers and so in the transaction of the row itself, and an index in the order of the
-- percentiles.

-- What each row adds to the sums. Unknown is not zero: a cost that is NULL adds nothing, and is
-- counted if the request was answered or may have been paid for. '' is no provider, no policy.
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
        AND (coalesce(status IN ('ok', 'stream_incomplete'), 0)
            OR coalesce(status, '') <> 'in_flight' AND coalesce(possibly_spent, 0) > 0)
        AS unknown_cost,
    coalesce(cost_sats, 0.0) AS cost_sats,
    coalesce(input_tokens, 0) AS input_tokens,
    coalesce(output_tokens, 0) AS output_tokens,
    latency_ms,
    ttft_ms IS NOT NULL AS ttft_requests,
    coalesce(ttft_ms, 0) AS ttft_ms
FROM requests;

CREATE TABLE request_hours (
    hour TEXT NOT NULL,
    model TEXT NOT NULL,
    provider TEXT NOT NULL,
    policy TEXT NOT NULL,
    status TEXT NOT NULL,
    streaming INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    unknown_cost INTEGER NOT NULL,
    cost_sats REAL NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    latency_ms INTEGER NOT NULL,
    ttft_requests INTEGER NOT NULL,
    ttft_ms INTEGER NOT NULL,
    PRIMARY KEY (hour, model, provider, policy, status, streaming)
) WITHOUT ROWID;

CREATE TABLE request_days (
    day TEXT NOT NULL,
    model TEXT NOT NULL,
    provider TEXT NOT NULL,
    policy TEXT NOT NULL,
    status TEXT NOT NULL,
    streaming INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    unknown_cost INTEGER NOT NULL,
    cost_sats REAL NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    latency_ms INTEGER NOT NULL,
    ttft_requests INTEGER NOT NULL,
    ttft_ms INTEGER NOT NULL,
    PRIMARY KEY (day, model, provider, policy, status, streaming)
) WITHOUT ROWID;

INSERT INTO request_hours SELECT
    hour, model, provider, policy, status, streaming,
    sum(requests), sum(unknown_cost), sum(cost_sats), sum(input_tokens), sum(output_tokens),
    sum(latency_ms), sum(ttft_requests), sum(ttft_ms)
FROM request_measures WHERE status <> 'in_flight'
GROUP BY hour, model, provider, policy, status, streaming;

INSERT INTO request_days SELECT
    day, model, provider, policy, status, streaming,
    sum(requests), sum(unknown_cost), sum(cost_sats), sum(input_tokens), sum(output_tokens),
    sum(latency_ms), sum(ttft_requests), sum(ttft_ms)
FROM request_measures WHERE status <> 'in_flight'
GROUP BY day, model, provider, policy, status, streaming;

-- To write (id, 1) here adds the row with that id to the sums, (id, -1) takes it out.
CREATE VIEW request_tally AS SELECT id, 1 AS sign FROM requests;

CREATE TRIGGER tally_request INSTEAD OF INSERT ON request_tally BEGIN
    INSERT INTO request_hours SELECT
        hour, model, provider, policy, status, streaming,
        new.sign * requests, new.sign * unknown_cost, new.sign * cost_sats,
        new.sign * input_tokens, new.sign * output_tokens,
        new.sign * latency_ms, new.sign * ttft_requests, new.sign * ttft_ms
    FROM request_measures WHERE id = new.id
    ON CONFLICT (hour, model, provider, policy, status, streaming) DO UPDATE SET
        requests = requests + excluded.requests,
        unknown_cost = unknown_cost + excluded.unknown_cost,
        cost_sats = cost_sats + excluded.cost_sats,
        input_tokens = input_tokens + excluded.input_tokens,
        output_tokens = output_tokens + excluded.output_tokens,
        latency_ms = latency_ms + excluded.latency_ms,
        ttft_requests = ttft_requests + excluded.ttft_requests,
        ttft_ms = ttft_ms + excluded.ttft_ms;
    INSERT INTO request_days SELECT
        day, model, provider, policy, status, streaming,
        new.sign * requests, new.sign * unknown_cost, new.sign * cost_sats,
        new.sign * input_tokens, new.sign * output_tokens,
        new.sign * latency_ms, new.sign * ttft_requests, new.sign * ttft_ms
    FROM request_measures WHERE id = new.id
    ON CONFLICT (day, model, provider, policy, status, streaming) DO UPDATE SET
        requests = requests + excluded.requests,
        unknown_cost = unknown_cost + excluded.unknown_cost,
        cost_sats = cost_sats + excluded.cost_sats,
        input_tokens = input_tokens + excluded.input_tokens,
        output_tokens = output_tokens + excluded.output_tokens,
        latency_ms = latency_ms + excluded.latency_ms,
        ttft_requests = ttft_requests + excluded.ttft_requests,
        ttft_ms = ttft_ms + excluded.ttft_ms;
    -- With the last row of a sum go the rounding errors of the others.
    DELETE FROM request_hours
    WHERE new.sign < 0 AND requests = 0
        AND (hour, model, provider, policy, status, streaming) = (
            SELECT hour, model, provider, policy, status, streaming
            FROM request_measures WHERE id = new.id
        );
    DELETE FROM request_days
    WHERE new.sign < 0 AND requests = 0
        AND (day, model, provider, policy, status, streaming) = (
            SELECT day, model, provider, policy, status, streaming
            FROM request_measures WHERE id = new.id
        );
END;

-- A request in flight is in no sum: it would be taken out again a moment later, and of them there
-- are so few that they can be looked up.
CREATE TRIGGER request_inserted AFTER INSERT ON requests WHEN new.status IS NOT 'in_flight'
BEGIN INSERT INTO request_tally VALUES (new.id, 1); END;

CREATE TRIGGER request_will_change BEFORE UPDATE ON requests WHEN old.status IS NOT 'in_flight'
BEGIN INSERT INTO request_tally VALUES (old.id, -1); END;

CREATE TRIGGER request_changed AFTER UPDATE ON requests WHEN new.status IS NOT 'in_flight'
BEGIN INSERT INTO request_tally VALUES (new.id, 1); END;

CREATE TRIGGER request_will_be_deleted BEFORE DELETE ON requests WHEN old.status IS NOT 'in_flight'
BEGIN INSERT INTO request_tally VALUES (old.id, -1); END;

-- Latencies in order: a percentile is found by walking here, without sorting a million of them.
CREATE INDEX requests_by_latency ON requests (latency_ms, timestamp, model, provider, policy)
WHERE status IN ('ok', 'failed', 'client_disconnected', 'stream_incomplete');

-- Few rows each, and what one looks for.
CREATE INDEX requests_possibly_spent ON requests (timestamp, correlation_id, policy)
WHERE possibly_spent > 0;
CREATE INDEX attempts_possibly_spent ON attempts (
    correlation_id, provider, model, failure, money,
    cost_sats, provider_cost_sats, estimated_cost_sats
) WHERE failure IS NOT NULL AND money IS NOT 'free';
CREATE INDEX requests_without_success ON requests (status, timestamp) WHERE status <> 'ok';
