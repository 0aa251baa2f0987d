-- What the key of each provider held free at its last checkpoint, in millisats.
SELECT provider, balance, taken_at FROM checkpoints
WHERE id IN (SELECT max(id) FROM checkpoints GROUP BY provider)
