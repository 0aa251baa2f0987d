-- The ledger as SQLite's migrations 0001 to 0006 make it. Text is compared byte by byte (COLLATE "C"),
-- so that its order is the same on both engines, and of moments that of time. Sums are kept by triggers
-- a statement, grouped and in the order of their keys: row triggers of several writers deadlock.
CREATE TABLE requests (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    correlation_id TEXT COLLATE "C" NOT NULL UNIQUE,
    timestamp TEXT COLLATE "C" NOT NULL,
    model TEXT COLLATE "C" NOT NULL,
    requested_model TEXT COLLATE "C",
    provider TEXT COLLATE "C",
    policy TEXT COLLATE "C",
    streaming BIGINT,
    input_tokens BIGINT,
    output_tokens BIGINT,
    cached_tokens BIGINT,
    reasoning_tokens BIGINT,
    cost_sats DOUBLE PRECISION,
    estimated_cost_sats DOUBLE PRECISION,
    provider_cost_sats DOUBLE PRECISION,
    latency_ms BIGINT NOT NULL,
    ttft_ms BIGINT,
    stream_duration_ms BIGINT,
    success BIGINT NOT NULL,
    status TEXT COLLATE "C",
    error_status BIGINT,
    error_message TEXT COLLATE "C",
    attempts BIGINT,
    possibly_spent BIGINT,
    boot_id TEXT COLLATE "C",
    expected_sats DOUBLE PRECISION,
    answered BIGINT,
    endpoint TEXT COLLATE "C" NOT NULL DEFAULT 'chat',
    moved BIGINT,
    joined TEXT COLLATE "C"
);

CREATE INDEX requests_by_time ON requests (timestamp);
CREATE INDEX requests_by_model ON requests (model, timestamp);
CREATE INDEX requests_by_provider ON requests (provider, timestamp);
CREATE INDEX requests_by_policy ON requests (policy, timestamp);
CREATE INDEX requests_in_flight ON requests (boot_id) WHERE status = 'in_flight';
CREATE INDEX requests_without_success ON requests (status, timestamp) WHERE status <> 'ok';
CREATE INDEX requests_joined ON requests (joined) WHERE joined IS NOT NULL;
CREATE INDEX requests_by_latency ON requests (
    latency_ms, timestamp, model, provider, policy, endpoint
) WHERE status IN ('ok', 'failed', 'client_disconnected', 'stream_incomplete');
CREATE INDEX requests_with_failures ON requests (
    timestamp, correlation_id, policy, endpoint, status, attempts, answered
) WHERE attempts > coalesce(answered, CASE WHEN status = 'ok' THEN 1 ELSE 0 END);

CREATE TABLE attempts (
    correlation_id TEXT COLLATE "C" NOT NULL,
    n BIGINT NOT NULL,
    provider TEXT COLLATE "C",
    model TEXT COLLATE "C",
    started_at TEXT COLLATE "C",
    duration_ms BIGINT,
    failure TEXT COLLATE "C",
    http_status BIGINT,
    money TEXT COLLATE "C",
    input_tokens BIGINT,
    output_tokens BIGINT,
    cost_sats DOUBLE PRECISION,
    estimated_cost_sats DOUBLE PRECISION,
    provider_cost_sats DOUBLE PRECISION,
    upstream_request_id TEXT COLLATE "C",
    expected_sats DOUBLE PRECISION,
    set_aside_sats DOUBLE PRECISION,
    PRIMARY KEY (correlation_id, n)
);
CREATE INDEX attempts_failed ON attempts (
    correlation_id, provider, model, failure, money, cost_sats, estimated_cost_sats
) WHERE failure IS NOT NULL;

CREATE TABLE token_ratios (
    policy TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    avg_ratio DOUBLE PRECISION NOT NULL,
    sample_count BIGINT NOT NULL
);

-- Who lives: seen_at is the server's clock, in seconds since 1970.
CREATE TABLE boots (
    boot_id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    seen_at DOUBLE PRECISION NOT NULL
);

-- What each row adds to the sums; see SQLite's 0003 and 0005.
CREATE VIEW request_measures AS SELECT
    id,
    timestamp,
    substr(timestamp, 1, 13) AS hour,
    substr(timestamp, 1, 10) AS day,
    model,
    coalesce(provider, '') AS provider,
    coalesce(policy, '') AS policy,
    endpoint,
    coalesce(status, '') AS status,
    coalesce(streaming, 0) AS streaming,
    1::BIGINT AS requests,
    CASE WHEN cost_sats IS NULL
        AND coalesce(status, '') <> 'in_flight'
        AND (coalesce(answered <> 0, status = 'ok', FALSE) OR coalesce(possibly_spent, 0) > 0)
        THEN 1::BIGINT ELSE 0::BIGINT END AS unknown_cost,
    CASE WHEN coalesce(answered <> 0, status = 'ok', FALSE) THEN coalesce(cost_sats, 0.0) ELSE 0.0 END
        AS cost_sats,
    coalesce(input_tokens, 0) AS input_tokens,
    coalesce(output_tokens, 0) AS output_tokens,
    latency_ms,
    CASE WHEN ttft_ms IS NOT NULL THEN 1::BIGINT ELSE 0::BIGINT END AS ttft_requests,
    coalesce(ttft_ms, 0) AS ttft_ms
FROM requests;

CREATE TABLE request_hours (
    hour TEXT COLLATE "C" NOT NULL,
    model TEXT COLLATE "C" NOT NULL,
    provider TEXT COLLATE "C" NOT NULL,
    policy TEXT COLLATE "C" NOT NULL,
    endpoint TEXT COLLATE "C" NOT NULL,
    status TEXT COLLATE "C" NOT NULL,
    streaming BIGINT NOT NULL,
    requests BIGINT NOT NULL,
    unknown_cost BIGINT NOT NULL,
    cost_sats DOUBLE PRECISION NOT NULL,
    input_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    latency_ms BIGINT NOT NULL,
    ttft_requests BIGINT NOT NULL,
    ttft_ms BIGINT NOT NULL,
    PRIMARY KEY (hour, model, provider, policy, endpoint, status, streaming)
);

CREATE TABLE request_days (
    day TEXT COLLATE "C" NOT NULL,
    model TEXT COLLATE "C" NOT NULL,
    provider TEXT COLLATE "C" NOT NULL,
    policy TEXT COLLATE "C" NOT NULL,
    endpoint TEXT COLLATE "C" NOT NULL,
    status TEXT COLLATE "C" NOT NULL,
    streaming BIGINT NOT NULL,
    requests BIGINT NOT NULL,
    unknown_cost BIGINT NOT NULL,
    cost_sats DOUBLE PRECISION NOT NULL,
    input_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    latency_ms BIGINT NOT NULL,
    ttft_requests BIGINT NOT NULL,
    ttft_ms BIGINT NOT NULL,
    PRIMARY KEY (day, model, provider, policy, endpoint, status, streaming)
);

-- The same of a row that is in no table, or not any more.
CREATE FUNCTION measures_of(r requests) RETURNS request_measures LANGUAGE sql IMMUTABLE AS $$
    SELECT
        r.id,
        r.timestamp,
        substr(r.timestamp, 1, 13),
        substr(r.timestamp, 1, 10),
        r.model,
        coalesce(r.provider, ''),
        coalesce(r.policy, ''),
        r.endpoint,
        coalesce(r.status, ''),
        coalesce(r.streaming, 0),
        1::BIGINT,
        CASE WHEN r.cost_sats IS NULL
            AND coalesce(r.status, '') <> 'in_flight'
            AND (coalesce(r.answered <> 0, r.status = 'ok', FALSE)
                OR coalesce(r.possibly_spent, 0) > 0)
            THEN 1::BIGINT ELSE 0::BIGINT END,
        CASE WHEN coalesce(r.answered <> 0, r.status = 'ok', FALSE)
            THEN coalesce(r.cost_sats, 0.0) ELSE 0.0 END,
        coalesce(r.input_tokens, 0),
        coalesce(r.output_tokens, 0),
        r.latency_ms,
        CASE WHEN r.ttft_ms IS NOT NULL THEN 1::BIGINT ELSE 0::BIGINT END,
        coalesce(r.ttft_ms, 0)
$$;

-- A request in flight is in no sum: it would be taken out again a moment later, and of them there are
-- so few that they can be looked up.
CREATE FUNCTION tally_requests() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    added request_measures[] := '{}';
    taken request_measures[] := '{}';
BEGIN
    IF TG_OP <> 'DELETE' THEN
        SELECT coalesce(array_agg(measures_of(ROW(r.*)::requests)), '{}') INTO added
        FROM new_rows AS r WHERE r.status IS DISTINCT FROM 'in_flight';
    END IF;
    IF TG_OP <> 'INSERT' THEN
        SELECT coalesce(array_agg(measures_of(ROW(r.*)::requests)), '{}') INTO taken
        FROM old_rows AS r WHERE r.status IS DISTINCT FROM 'in_flight';
    END IF;
    INSERT INTO request_hours AS known SELECT
        hour, model, provider, policy, endpoint, status, streaming,
        sum(sign * requests), sum(sign * unknown_cost), sum(sign * cost_sats), sum(sign * input_tokens),
        sum(sign * output_tokens), sum(sign * latency_ms), sum(sign * ttft_requests), sum(sign * ttft_ms)
    FROM (
        SELECT 1 AS sign, a.* FROM unnest(added) AS a
        UNION ALL SELECT -1 AS sign, t.* FROM unnest(taken) AS t
    ) AS changes
    GROUP BY hour, model, provider, policy, endpoint, status, streaming
    ORDER BY hour, model, provider, policy, endpoint, status, streaming
    ON CONFLICT (hour, model, provider, policy, endpoint, status, streaming) DO UPDATE SET
        requests = known.requests + excluded.requests,
        unknown_cost = known.unknown_cost + excluded.unknown_cost,
        cost_sats = known.cost_sats + excluded.cost_sats,
        input_tokens = known.input_tokens + excluded.input_tokens,
        output_tokens = known.output_tokens + excluded.output_tokens,
        latency_ms = known.latency_ms + excluded.latency_ms,
        ttft_requests = known.ttft_requests + excluded.ttft_requests,
        ttft_ms = known.ttft_ms + excluded.ttft_ms;
    INSERT INTO request_days AS known SELECT
        day, model, provider, policy, endpoint, status, streaming,
        sum(sign * requests), sum(sign * unknown_cost), sum(sign * cost_sats), sum(sign * input_tokens),
        sum(sign * output_tokens), sum(sign * latency_ms), sum(sign * ttft_requests), sum(sign * ttft_ms)
    FROM (
        SELECT 1 AS sign, a.* FROM unnest(added) AS a
        UNION ALL SELECT -1 AS sign, t.* FROM unnest(taken) AS t
    ) AS changes
    GROUP BY day, model, provider, policy, endpoint, status, streaming
    ORDER BY day, model, provider, policy, endpoint, status, streaming
    ON CONFLICT (day, model, provider, policy, endpoint, status, streaming) DO UPDATE SET
        requests = known.requests + excluded.requests,
        unknown_cost = known.unknown_cost + excluded.unknown_cost,
        cost_sats = known.cost_sats + excluded.cost_sats,
        input_tokens = known.input_tokens + excluded.input_tokens,
        output_tokens = known.output_tokens + excluded.output_tokens,
        latency_ms = known.latency_ms + excluded.latency_ms,
        ttft_requests = known.ttft_requests + excluded.ttft_requests,
        ttft_ms = known.ttft_ms + excluded.ttft_ms;
    -- With the last row of a sum go the rounding errors of the others.
    DELETE FROM request_hours
    WHERE requests = 0 AND (hour, model, provider, policy, endpoint, status, streaming) IN (
        SELECT hour, model, provider, policy, endpoint, status, streaming FROM unnest(taken)
    );
    DELETE FROM request_days
    WHERE requests = 0 AND (day, model, provider, policy, endpoint, status, streaming) IN (
        SELECT day, model, provider, policy, endpoint, status, streaming FROM unnest(taken)
    );
    RETURN NULL;
END $$;

CREATE TRIGGER requests_inserted AFTER INSERT ON requests
REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION tally_requests();

CREATE TRIGGER requests_changed AFTER UPDATE ON requests
REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
FOR EACH STATEMENT EXECUTE FUNCTION tally_requests();

CREATE TRIGGER requests_deleted AFTER DELETE ON requests
REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION tally_requests();
