SELECT id, total_spent, total_requests, balance, after_request, taken_at
FROM checkpoints
WHERE provider = :provider AND key_id = :key_id
ORDER BY id DESC LIMIT 1
