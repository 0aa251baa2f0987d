-- An attempt that was under way when its request was first written is replaced.
INSERT OR REPLACE INTO attempts (
    correlation_id, n, provider, model, started_at, duration_ms, failure, http_status, money,
    input_tokens, output_tokens, cost_sats, estimated_cost_sats, provider_cost_sats,
    upstream_request_id
) VALUES (
    :correlation_id, :n, :provider, :model, :started_at, :duration_ms, :failure, :http_status, :money,
    :input_tokens, :output_tokens, :cost_sats, :estimated_cost_sats, :provider_cost_sats,
    :upstream_request_id
)
