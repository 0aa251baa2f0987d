SELECT total_spent, total_requests, balance, after_request
FROM checkpoints
WHERE provider = :provider AND key_id = :key_id
ORDER BY taken_at DESC LIMIT 1
