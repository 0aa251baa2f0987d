-- What a report about a million rows still looked up or added up row by row, kept beside them: sums of
-- an hour whatever was asked for and of whom, attempts that failed in the order of time, and costs in theirs.

-- When, by which policy and over which API its request asked: of an attempt that failed, NULL in others.
ALTER TABLE attempts ADD COLUMN asked_at TEXT;
ALTER TABLE attempts ADD COLUMN asked_policy TEXT;
ALTER TABLE attempts ADD COLUMN asked_endpoint TEXT;

UPDATE attempts SET (asked_at, asked_policy, asked_endpoint) = (
    SELECT timestamp, policy, endpoint FROM requests
    WHERE requests.correlation_id = attempts.correlation_id
) WHERE failure IS NOT NULL;

DROP INDEX attempts_failed;
DROP INDEX requests_with_failures;
CREATE INDEX attempts_failed ON attempts (
    asked_at, provider, model, asked_policy, asked_endpoint, failure, money, cost_sats,
    estimated_cost_sats
) WHERE failure IS NOT NULL;

CREATE TRIGGER attempt_inserted AFTER INSERT ON attempts
WHEN new.failure IS NOT NULL AND new.asked_at IS NULL
BEGIN
    UPDATE attempts SET (asked_at, asked_policy, asked_endpoint) = (
        SELECT timestamp, policy, endpoint FROM requests WHERE correlation_id = new.correlation_id
    ) WHERE correlation_id = new.correlation_id AND n = new.n;
END;

CREATE TRIGGER attempt_failed AFTER UPDATE OF failure ON attempts
WHEN new.failure IS NOT NULL AND new.asked_at IS NULL
BEGIN
    UPDATE attempts SET (asked_at, asked_policy, asked_endpoint) = (
        SELECT timestamp, policy, endpoint FROM requests WHERE correlation_id = new.correlation_id
    ) WHERE correlation_id = new.correlation_id AND n = new.n;
END;

-- Its request may be written after it, and may be written anew.
CREATE TRIGGER request_of_failures AFTER INSERT ON requests
WHEN new.attempts > coalesce(new.answered, new.status = 'ok', 0)
BEGIN
    UPDATE attempts SET
        asked_at = new.timestamp, asked_policy = new.policy, asked_endpoint = new.endpoint
    WHERE correlation_id = new.correlation_id AND failure IS NOT NULL;
END;

CREATE TRIGGER request_asked_anew AFTER UPDATE OF timestamp, policy, endpoint ON requests
WHEN (old.timestamp, old.policy, old.endpoint) IS NOT (new.timestamp, new.policy, new.endpoint)
BEGIN
    UPDATE attempts SET
        asked_at = new.timestamp, asked_policy = new.policy, asked_endpoint = new.endpoint
    WHERE correlation_id = new.correlation_id AND failure IS NOT NULL;
END;

-- Every status has a place among the latencies, and every cost one of its own.
DROP INDEX requests_by_latency;
CREATE INDEX requests_by_latency ON requests (
    latency_ms, timestamp, model, provider, policy, endpoint, status, streaming
);
CREATE INDEX requests_by_cost ON requests (
    cost_sats, timestamp, model, provider, policy, endpoint, status, streaming
);

-- What a request adds to the sums, as before; its cost in nanosats, a whole number in a double: up to 9
-- million sats a sum is exact, and the same in whatever order it was added up. 0.1 + 0.2 is not 0.3 in sats.
DROP TRIGGER request_inserted;
DROP TRIGGER request_will_change;
DROP TRIGGER request_changed;
DROP TRIGGER request_will_be_deleted;
DROP VIEW request_tally;        -- and with it its trigger
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
    CASE WHEN coalesce(answered, status = 'ok', 0)
        THEN CAST(CAST(coalesce(cost_sats, 0.0) * 1e9 + 0.5 AS INTEGER) AS REAL) ELSE 0.0 END
        AS cost_nanosats,
    coalesce(input_tokens, 0) AS input_tokens,
    coalesce(output_tokens, 0) AS output_tokens,
    latency_ms,
    ttft_ms IS NOT NULL AS ttft_requests,
    coalesce(ttft_ms, 0) AS ttft_ms
FROM requests;

DROP TABLE request_hours;
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
    cost_nanosats REAL NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    latency_ms INTEGER NOT NULL,
    ttft_requests INTEGER NOT NULL,
    ttft_ms INTEGER NOT NULL,
    PRIMARY KEY (hour, model, provider, policy, endpoint, status, streaming)
) WITHOUT ROWID;

DROP TABLE request_days;
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
    cost_nanosats REAL NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    latency_ms INTEGER NOT NULL,
    ttft_requests INTEGER NOT NULL,
    ttft_ms INTEGER NOT NULL,
    PRIMARY KEY (day, model, provider, policy, endpoint, status, streaming)
) WITHOUT ROWID;

-- As request_hours, of all models, providers, policies and APIs together.
CREATE TABLE request_totals (
    hour TEXT NOT NULL,
    status TEXT NOT NULL,
    streaming INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    unknown_cost INTEGER NOT NULL,
    cost_nanosats REAL NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    latency_ms INTEGER NOT NULL,
    ttft_requests INTEGER NOT NULL,
    ttft_ms INTEGER NOT NULL,
    PRIMARY KEY (hour, status, streaming)
) WITHOUT ROWID;

INSERT INTO request_hours SELECT
    hour, model, provider, policy, endpoint, status, streaming,
    sum(requests), sum(unknown_cost), sum(cost_nanosats), sum(input_tokens), sum(output_tokens),
    sum(latency_ms), sum(ttft_requests), sum(ttft_ms)
FROM request_measures WHERE status <> 'in_flight'
GROUP BY hour, model, provider, policy, endpoint, status, streaming;

INSERT INTO request_days SELECT
    substr(hour, 1, 10), model, provider, policy, endpoint, status, streaming,
    sum(requests), sum(unknown_cost), sum(cost_nanosats), sum(input_tokens), sum(output_tokens),
    sum(latency_ms), sum(ttft_requests), sum(ttft_ms)
FROM request_hours GROUP BY 1, model, provider, policy, endpoint, status, streaming;

INSERT INTO request_totals SELECT
    hour, status, streaming,
    sum(requests), sum(unknown_cost), sum(cost_nanosats), sum(input_tokens), sum(output_tokens),
    sum(latency_ms), sum(ttft_requests), sum(ttft_ms)
FROM request_hours GROUP BY hour, status, streaming;

-- The triggers of the sums, as before and for the third of them. A row is told as it is, so that it need
-- not be looked up: for three tables they take no more than they took for two.
-- To write a row here with 1 adds it to the sums, with -1 takes it out.
CREATE VIEW request_tally AS SELECT
    1 AS sign, timestamp, model, provider, policy, endpoint, status, streaming, cost_sats, answered,
    possibly_spent, input_tokens, output_tokens, latency_ms, ttft_ms
FROM requests;

-- The same, once it is known what it adds.
CREATE VIEW request_sums AS SELECT
    1 AS sign, hour, day, model, provider, policy, endpoint, status, streaming,
    requests, unknown_cost, cost_nanosats, input_tokens, output_tokens, latency_ms, ttft_requests, ttft_ms
FROM request_measures;

-- As request_measures has it.
CREATE TRIGGER tally_request INSTEAD OF INSERT ON request_tally BEGIN
    INSERT INTO request_sums VALUES (
        new.sign,
        substr(new.timestamp, 1, 13),
        substr(new.timestamp, 1, 10),
        new.model,
        coalesce(new.provider, ''),
        coalesce(new.policy, ''),
        new.endpoint,
        coalesce(new.status, ''),
        coalesce(new.streaming, 0),
        new.sign,
        new.sign * (
            new.cost_sats IS NULL
            AND coalesce(new.status, '') <> 'in_flight'
            AND (coalesce(new.answered, new.status = 'ok', 0) OR coalesce(new.possibly_spent, 0) > 0)
        ),
        CASE WHEN coalesce(new.answered, new.status = 'ok', 0)
            THEN new.sign * CAST(coalesce(new.cost_sats, 0.0) * 1e9 + 0.5 AS INTEGER) ELSE 0 END,
        new.sign * coalesce(new.input_tokens, 0),
        new.sign * coalesce(new.output_tokens, 0),
        new.sign * new.latency_ms,
        new.sign * (new.ttft_ms IS NOT NULL),
        new.sign * coalesce(new.ttft_ms, 0)
    );
END;

CREATE TRIGGER add_request INSTEAD OF INSERT ON request_sums BEGIN
    INSERT INTO request_hours VALUES (
        new.hour, new.model, new.provider, new.policy, new.endpoint, new.status, new.streaming,
        new.requests, new.unknown_cost, new.cost_nanosats, new.input_tokens, new.output_tokens,
        new.latency_ms, new.ttft_requests, new.ttft_ms
    )
    ON CONFLICT (hour, model, provider, policy, endpoint, status, streaming) DO UPDATE SET
        requests = requests + excluded.requests,
        unknown_cost = unknown_cost + excluded.unknown_cost,
        cost_nanosats = cost_nanosats + excluded.cost_nanosats,
        input_tokens = input_tokens + excluded.input_tokens,
        output_tokens = output_tokens + excluded.output_tokens,
        latency_ms = latency_ms + excluded.latency_ms,
        ttft_requests = ttft_requests + excluded.ttft_requests,
        ttft_ms = ttft_ms + excluded.ttft_ms;
    INSERT INTO request_days VALUES (
        new.day, new.model, new.provider, new.policy, new.endpoint, new.status, new.streaming,
        new.requests, new.unknown_cost, new.cost_nanosats, new.input_tokens, new.output_tokens,
        new.latency_ms, new.ttft_requests, new.ttft_ms
    )
    ON CONFLICT (day, model, provider, policy, endpoint, status, streaming) DO UPDATE SET
        requests = requests + excluded.requests,
        unknown_cost = unknown_cost + excluded.unknown_cost,
        cost_nanosats = cost_nanosats + excluded.cost_nanosats,
        input_tokens = input_tokens + excluded.input_tokens,
        output_tokens = output_tokens + excluded.output_tokens,
        latency_ms = latency_ms + excluded.latency_ms,
        ttft_requests = ttft_requests + excluded.ttft_requests,
        ttft_ms = ttft_ms + excluded.ttft_ms;
    INSERT INTO request_totals VALUES (
        new.hour, new.status, new.streaming, new.requests, new.unknown_cost, new.cost_nanosats,
        new.input_tokens, new.output_tokens, new.latency_ms, new.ttft_requests, new.ttft_ms
    )
    ON CONFLICT (hour, status, streaming) DO UPDATE SET
        requests = requests + excluded.requests,
        unknown_cost = unknown_cost + excluded.unknown_cost,
        cost_nanosats = cost_nanosats + excluded.cost_nanosats,
        input_tokens = input_tokens + excluded.input_tokens,
        output_tokens = output_tokens + excluded.output_tokens,
        latency_ms = latency_ms + excluded.latency_ms,
        ttft_requests = ttft_requests + excluded.ttft_requests,
        ttft_ms = ttft_ms + excluded.ttft_ms;
    -- With its last row goes a sum.
    DELETE FROM request_hours
    WHERE new.sign < 0 AND requests = 0
        AND (hour, model, provider, policy, endpoint, status, streaming) = (
            new.hour, new.model, new.provider, new.policy, new.endpoint, new.status, new.streaming
        );
    DELETE FROM request_days
    WHERE new.sign < 0 AND requests = 0
        AND (day, model, provider, policy, endpoint, status, streaming) = (
            new.day, new.model, new.provider, new.policy, new.endpoint, new.status, new.streaming
        );
    DELETE FROM request_totals
    WHERE new.sign < 0 AND requests = 0
        AND (hour, status, streaming) = (
            new.hour, new.status, new.streaming
        );
END;

-- A request in flight is in no sum.
CREATE TRIGGER request_inserted AFTER INSERT ON requests WHEN new.status IS NOT 'in_flight'
BEGIN
    INSERT INTO request_tally VALUES (
        1, new.timestamp, new.model, new.provider, new.policy, new.endpoint, new.status,
        new.streaming, new.cost_sats, new.answered, new.possibly_spent, new.input_tokens,
        new.output_tokens, new.latency_ms, new.ttft_ms
    );
END;

CREATE TRIGGER request_will_change BEFORE UPDATE ON requests WHEN old.status IS NOT 'in_flight'
BEGIN
    INSERT INTO request_tally VALUES (
        -1, old.timestamp, old.model, old.provider, old.policy, old.endpoint, old.status,
        old.streaming, old.cost_sats, old.answered, old.possibly_spent, old.input_tokens,
        old.output_tokens, old.latency_ms, old.ttft_ms
    );
END;

CREATE TRIGGER request_changed AFTER UPDATE ON requests WHEN new.status IS NOT 'in_flight'
BEGIN
    INSERT INTO request_tally VALUES (
        1, new.timestamp, new.model, new.provider, new.policy, new.endpoint, new.status,
        new.streaming, new.cost_sats, new.answered, new.possibly_spent, new.input_tokens,
        new.output_tokens, new.latency_ms, new.ttft_ms
    );
END;

CREATE TRIGGER request_will_be_deleted BEFORE DELETE ON requests WHEN old.status IS NOT 'in_flight'
BEGIN
    INSERT INTO request_tally VALUES (
        -1, old.timestamp, old.model, old.provider, old.policy, old.endpoint, old.status,
        old.streaming, old.cost_sats, old.answered, old.possibly_spent, old.input_tokens,
        old.output_tokens, old.latency_ms, old.ttft_ms
    );
END;

