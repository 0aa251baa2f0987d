-- The API a request came in by, and whether its conversation was answered by another provider than
-- before: 1 or 0, NULL where no answer before it is known. Rows of before this migration are chats.
ALTER TABLE requests ADD COLUMN endpoint TEXT NOT NULL DEFAULT 'chat';
ALTER TABLE requests ADD COLUMN moved INTEGER;

-- The sums and the indexes that answer for a filter get the column. The sums are copied, not made
-- anew, which would take minutes of a large ledger.
DROP VIEW request_tally;        -- and with it its trigger, which names the tables
CREATE TABLE hours_before AS SELECT * FROM request_hours;
CREATE TABLE days_before AS SELECT * FROM request_days;
DROP TABLE request_hours;
DROP TABLE request_days;

DROP VIEW request_measures;
CREATE VIEW request_measures AS SELECT
    id,
    timestamp,
    substr(timestamp, 1, 13) AS hour,           -- 2026-02-03T04
    substr(timestamp, 1, 10) AS day,            -- 2026-02-03
    model,
    coalesce(provider, '') AS provider,
    coalesce(policy, '') AS policy,
    endpoint,
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

CREATE TABLE request_hours (
    hour TEXT NOT NULL,
    model TEXT NOT NULL,
    provider TEXT NOT NULL,
    policy TEXT NOT NULL,
    endpoint TEXT NOT NULL,
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
    PRIMARY KEY (hour, model, provider, policy, endpoint, status, streaming)
) WITHOUT ROWID;

CREATE TABLE request_days (
    day TEXT NOT NULL,
    model TEXT NOT NULL,
    provider TEXT NOT NULL,
    policy TEXT NOT NULL,
    endpoint TEXT NOT NULL,
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
    PRIMARY KEY (day, model, provider, policy, endpoint, status, streaming)
) WITHOUT ROWID;

INSERT INTO request_hours SELECT
    hour, model, provider, policy, 'chat', status, streaming,
    requests, unknown_cost, cost_sats, input_tokens, output_tokens,
    latency_ms, ttft_requests, ttft_ms
FROM hours_before;

INSERT INTO request_days SELECT
    day, model, provider, policy, 'chat', status, streaming,
    requests, unknown_cost, cost_sats, input_tokens, output_tokens,
    latency_ms, ttft_requests, ttft_ms
FROM days_before;

DROP TABLE hours_before;
DROP TABLE days_before;

-- As before, and by the endpoint as well.
CREATE VIEW request_tally AS SELECT id, 1 AS sign FROM requests;

CREATE TRIGGER tally_request INSTEAD OF INSERT ON request_tally BEGIN
    INSERT INTO request_hours SELECT
        hour, model, provider, policy, endpoint, status, streaming,
        new.sign * requests, new.sign * unknown_cost, new.sign * cost_sats,
        new.sign * input_tokens, new.sign * output_tokens,
        new.sign * latency_ms, new.sign * ttft_requests, new.sign * ttft_ms
    FROM request_measures WHERE id = new.id
    ON CONFLICT (hour, model, provider, policy, endpoint, status, streaming) DO UPDATE SET
        requests = requests + excluded.requests,
        unknown_cost = unknown_cost + excluded.unknown_cost,
        cost_sats = cost_sats + excluded.cost_sats,
        input_tokens = input_tokens + excluded.input_tokens,
        output_tokens = output_tokens + excluded.output_tokens,
        latency_ms = latency_ms + excluded.latency_ms,
        ttft_requests = ttft_requests + excluded.ttft_requests,
        ttft_ms = ttft_ms + excluded.ttft_ms;
    INSERT INTO request_days SELECT
        day, model, provider, policy, endpoint, status, streaming,
        new.sign * requests, new.sign * unknown_cost, new.sign * cost_sats,
        new.sign * input_tokens, new.sign * output_tokens,
        new.sign * latency_ms, new.sign * ttft_requests, new.sign * ttft_ms
    FROM request_measures WHERE id = new.id
    ON CONFLICT (day, model, provider, policy, endpoint, status, streaming) DO UPDATE SET
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
        AND (hour, model, provider, policy, endpoint, status, streaming) = (
            SELECT hour, model, provider, policy, endpoint, status, streaming
            FROM request_measures WHERE id = new.id
        );
    DELETE FROM request_days
    WHERE new.sign < 0 AND requests = 0
        AND (day, model, provider, policy, endpoint, status, streaming) = (
            SELECT day, model, provider, policy, endpoint, status, streaming
            FROM request_measures WHERE id = new.id
        );
END;

DROP INDEX requests_by_latency;
CREATE INDEX requests_by_latency ON requests (
    latency_ms, timestamp, model, provider, policy, endpoint
) WHERE status IN ('ok', 'failed', 'client_disconnected', 'stream_incomplete');

DROP INDEX requests_with_failures;
CREATE INDEX requests_with_failures ON requests (
    timestamp, correlation_id, policy, endpoint, status, attempts, answered
) WHERE attempts > coalesce(answered, status = 'ok', 0);
