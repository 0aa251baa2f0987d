-- The last checkpoint of a provider's key, unless the provider had another one since: rows do not say which
-- key they were on, so what lies between is compared with neither.
SELECT id, total_spent, total_requests, balance, after_request, taken_at
FROM (SELECT * FROM checkpoints WHERE provider = :provider ORDER BY id DESC LIMIT 1) AS newest
WHERE key_id = :key_id
