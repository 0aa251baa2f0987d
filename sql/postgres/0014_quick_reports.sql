-- As ../0014_quick_reports.sql.
ALTER TABLE attempts ADD COLUMN asked_at TEXT COLLATE "C";
ALTER TABLE attempts ADD COLUMN asked_policy TEXT COLLATE "C";
ALTER TABLE attempts ADD COLUMN asked_endpoint TEXT COLLATE "C";

UPDATE attempts SET asked_at = timestamp, asked_policy = policy, asked_endpoint = endpoint
FROM requests WHERE requests.correlation_id = attempts.correlation_id AND failure IS NOT NULL;

DROP INDEX attempts_failed;
DROP INDEX requests_with_failures;
CREATE INDEX attempts_failed ON attempts (
    asked_at, provider, model, asked_policy, asked_endpoint, failure, money, cost_sats,
    estimated_cost_sats
) WHERE failure IS NOT NULL;

-- Of a row at a time: who writes a request writes its attempts, so that two never wait for each other.
CREATE FUNCTION ask_its_request() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    SELECT timestamp, policy, endpoint INTO NEW.asked_at, NEW.asked_policy, NEW.asked_endpoint
    FROM requests WHERE correlation_id = NEW.correlation_id;
    RETURN NEW;
END $$;

CREATE TRIGGER attempt_failed BEFORE INSERT OR UPDATE OF failure ON attempts
FOR EACH ROW WHEN (NEW.failure IS NOT NULL AND NEW.asked_at IS NULL)
EXECUTE FUNCTION ask_its_request();

CREATE FUNCTION tell_its_failures() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE attempts SET
        asked_at = NEW.timestamp, asked_policy = NEW.policy, asked_endpoint = NEW.endpoint
    WHERE correlation_id = NEW.correlation_id AND failure IS NOT NULL;
    RETURN NULL;
END $$;

CREATE TRIGGER request_of_failures AFTER INSERT ON requests
FOR EACH ROW
WHEN (NEW.attempts > coalesce(NEW.answered, CASE WHEN NEW.status = 'ok' THEN 1 ELSE 0 END))
EXECUTE FUNCTION tell_its_failures();

CREATE TRIGGER request_asked_anew AFTER UPDATE OF timestamp, policy, endpoint ON requests
FOR EACH ROW
WHEN ((OLD.timestamp, OLD.policy, OLD.endpoint) IS DISTINCT FROM (NEW.timestamp, NEW.policy, NEW.endpoint))
EXECUTE FUNCTION tell_its_failures();

DROP INDEX requests_by_latency;
CREATE INDEX requests_by_latency ON requests (
    latency_ms, timestamp, model, provider, policy, endpoint, status, streaming
) INCLUDE (id);
CREATE INDEX requests_by_cost ON requests (
    cost_sats, timestamp, model, provider, policy, endpoint, status, streaming
) INCLUDE (id);

DROP TRIGGER requests_inserted ON requests;
DROP TRIGGER requests_changed ON requests;
DROP TRIGGER requests_deleted ON requests;
DROP FUNCTION tally_requests;
DROP FUNCTION measures_of;
DROP VIEW request_measures;
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
    CASE WHEN coalesce(answered <> 0, status = 'ok', FALSE)
        THEN floor(coalesce(cost_sats, 0.0) * 1e9::DOUBLE PRECISION + 0.5) ELSE 0.0 END
        AS cost_nanosats,
    coalesce(input_tokens, 0) AS input_tokens,
    coalesce(output_tokens, 0) AS output_tokens,
    latency_ms,
    CASE WHEN ttft_ms IS NOT NULL THEN 1::BIGINT ELSE 0::BIGINT END AS ttft_requests,
    coalesce(ttft_ms, 0) AS ttft_ms
FROM requests;

DROP TABLE request_hours;
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
    cost_nanosats DOUBLE PRECISION NOT NULL,
    input_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    latency_ms BIGINT NOT NULL,
    ttft_requests BIGINT NOT NULL,
    ttft_ms BIGINT NOT NULL,
    PRIMARY KEY (hour, model, provider, policy, endpoint, status, streaming)
);

DROP TABLE request_days;
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
    cost_nanosats DOUBLE PRECISION NOT NULL,
    input_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    latency_ms BIGINT NOT NULL,
    ttft_requests BIGINT NOT NULL,
    ttft_ms BIGINT NOT NULL,
    PRIMARY KEY (day, model, provider, policy, endpoint, status, streaming)
);

CREATE TABLE request_totals (
    hour TEXT COLLATE "C" NOT NULL,
    status TEXT COLLATE "C" NOT NULL,
    streaming BIGINT NOT NULL,
    requests BIGINT NOT NULL,
    unknown_cost BIGINT NOT NULL,
    cost_nanosats DOUBLE PRECISION NOT NULL,
    input_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    latency_ms BIGINT NOT NULL,
    ttft_requests BIGINT NOT NULL,
    ttft_ms BIGINT NOT NULL,
    PRIMARY KEY (hour, status, streaming)
);

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
            THEN floor(coalesce(r.cost_sats, 0.0) * 1e9::DOUBLE PRECISION + 0.5) ELSE 0.0 END,
        coalesce(r.input_tokens, 0),
        coalesce(r.output_tokens, 0),
        r.latency_ms,
        CASE WHEN r.ttft_ms IS NOT NULL THEN 1::BIGINT ELSE 0::BIGINT END,
        coalesce(r.ttft_ms, 0)
$$;

-- As before, and for the third of the sums.
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
        sum(sign * requests), sum(sign * unknown_cost), sum(sign * cost_nanosats), sum(sign * input_tokens),
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
        cost_nanosats = known.cost_nanosats + excluded.cost_nanosats,
        input_tokens = known.input_tokens + excluded.input_tokens,
        output_tokens = known.output_tokens + excluded.output_tokens,
        latency_ms = known.latency_ms + excluded.latency_ms,
        ttft_requests = known.ttft_requests + excluded.ttft_requests,
        ttft_ms = known.ttft_ms + excluded.ttft_ms;
    INSERT INTO request_days AS known SELECT
        day, model, provider, policy, endpoint, status, streaming,
        sum(sign * requests), sum(sign * unknown_cost), sum(sign * cost_nanosats), sum(sign * input_tokens),
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
        cost_nanosats = known.cost_nanosats + excluded.cost_nanosats,
        input_tokens = known.input_tokens + excluded.input_tokens,
        output_tokens = known.output_tokens + excluded.output_tokens,
        latency_ms = known.latency_ms + excluded.latency_ms,
        ttft_requests = known.ttft_requests + excluded.ttft_requests,
        ttft_ms = known.ttft_ms + excluded.ttft_ms;
    INSERT INTO request_totals AS known SELECT
        hour, status, streaming,
        sum(sign * requests), sum(sign * unknown_cost), sum(sign * cost_nanosats), sum(sign * input_tokens),
        sum(sign * output_tokens), sum(sign * latency_ms), sum(sign * ttft_requests), sum(sign * ttft_ms)
    FROM (
        SELECT 1 AS sign, a.* FROM unnest(added) AS a
        UNION ALL SELECT -1 AS sign, t.* FROM unnest(taken) AS t
    ) AS changes
    GROUP BY hour, status, streaming
    ORDER BY hour, status, streaming
    ON CONFLICT (hour, status, streaming) DO UPDATE SET
        requests = known.requests + excluded.requests,
        unknown_cost = known.unknown_cost + excluded.unknown_cost,
        cost_nanosats = known.cost_nanosats + excluded.cost_nanosats,
        input_tokens = known.input_tokens + excluded.input_tokens,
        output_tokens = known.output_tokens + excluded.output_tokens,
        latency_ms = known.latency_ms + excluded.latency_ms,
        ttft_requests = known.ttft_requests + excluded.ttft_requests,
        ttft_ms = known.ttft_ms + excluded.ttft_ms;
    -- With its last row goes a sum.
    DELETE FROM request_hours
    WHERE requests = 0 AND (hour, model, provider, policy, endpoint, status, streaming) IN (
        SELECT hour, model, provider, policy, endpoint, status, streaming FROM unnest(taken)
    );
    DELETE FROM request_days
    WHERE requests = 0 AND (day, model, provider, policy, endpoint, status, streaming) IN (
        SELECT day, model, provider, policy, endpoint, status, streaming FROM unnest(taken)
    );
    DELETE FROM request_totals
    WHERE requests = 0 AND (hour, status, streaming) IN (
        SELECT hour, status, streaming FROM unnest(taken)
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
