INSERT INTO checkpoints (
    provider, key_id, taken_at, total_spent, total_requests, balance, after_request,
    stated_sats, charged_sats, open_attempts, verdict
) VALUES (
    :provider, :key_id, :taken_at, :total_spent, :total_requests, :balance, :after_request,
    :stated_sats, :charged_sats, :open_attempts, :verdict
)
