-- A row is finalised once: only one still in flight, or taken for dead, may change. store.py fills in
-- the braces: its columns, and the rows it writes at once, as the engine gives them. Of one that was taken
-- for dead the price that was learnt meanwhile stays if its own end has none: insert_attempt.sql.
INSERT INTO requests ({columns}) {rows}
ON CONFLICT (correlation_id) DO UPDATE SET
    timestamp = excluded.timestamp,
    model = excluded.model,
    requested_model = excluded.requested_model,
    provider = excluded.provider,
    policy = excluded.policy,
    endpoint = excluded.endpoint,
    moved = excluded.moved,
    joined = excluded.joined,
    streaming = excluded.streaming,
    input_tokens = excluded.input_tokens,
    output_tokens = excluded.output_tokens,
    cached_tokens = excluded.cached_tokens,
    reasoning_tokens = excluded.reasoning_tokens,
    cost_sats = coalesce(
        excluded.cost_sats,
        CASE WHEN requests.status = 'abandoned' AND requests.attempts = excluded.attempts THEN requests.cost_sats END
    ),
    expected_sats = excluded.expected_sats,
    estimated_cost_sats = excluded.estimated_cost_sats,
    provider_cost_sats = excluded.provider_cost_sats,
    latency_ms = excluded.latency_ms,
    ttft_ms = excluded.ttft_ms,
    stream_duration_ms = excluded.stream_duration_ms,
    success = excluded.success,
    answered = excluded.answered,
    status = excluded.status,
    error_status = excluded.error_status,
    error_message = excluded.error_message,
    attempts = excluded.attempts,
    possibly_spent = CASE
        WHEN requests.status = 'abandoned' AND requests.attempts = excluded.attempts
            AND requests.cost_sats IS NOT NULL AND excluded.cost_sats IS NULL
        THEN requests.possibly_spent ELSE excluded.possibly_spent
    END,
    boot_id = excluded.boot_id
WHERE requests.status IN ('in_flight', 'abandoned')
