-- The last checkpoint of a provider's key, and whether the provider had none of another key since.
SELECT
    id, total_spent, total_requests, balance, after_request, taken_at,
    NOT EXISTS (
        SELECT * FROM checkpoints AS other
        WHERE other.provider = checkpoints.provider AND other.key_id <> checkpoints.key_id
            AND other.after_request >= checkpoints.after_request
    ) AS is_alone
FROM checkpoints WHERE provider = :provider AND key_id = :key_id
ORDER BY id DESC LIMIT 1
