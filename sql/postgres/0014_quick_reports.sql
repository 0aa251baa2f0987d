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

CREATE TABLE request_totals (
    hour TEXT COLLATE "C" NOT NULL,
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
    PRIMARY KEY (hour, status, streaming)
);

INSERT INTO request_totals SELECT
    hour, status, streaming,
    sum(requests), sum(unknown_cost), sum(cost_sats), sum(input_tokens), sum(output_tokens),
    sum(latency_ms), sum(ttft_requests), sum(ttft_ms)
FROM request_hours GROUP BY hour, status, streaming;

-- As before, and for the third of the sums.
CREATE OR REPLACE FUNCTION tally_requests() RETURNS trigger LANGUAGE plpgsql AS $$
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
    INSERT INTO request_totals AS known SELECT
        hour, status, streaming,
        sum(sign * requests), sum(sign * unknown_cost), sum(sign * cost_sats), sum(sign * input_tokens),
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
    DELETE FROM request_totals
    WHERE requests = 0 AND (hour, status, streaming) IN (
        SELECT hour, status, streaming FROM unnest(taken)
    );
    RETURN NULL;
END $$;
