-- The last of each key stays: the next one is compared with it.
DELETE FROM checkpoints
WHERE taken_at < :before AND id < (
    SELECT max(later.id) FROM checkpoints AS later
    WHERE later.provider = checkpoints.provider AND later.key_id = checkpoints.key_id
)
