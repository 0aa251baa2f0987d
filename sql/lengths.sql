-- What the latest answers took, in output tokens, the oldest of them first: see sansio/routing/holds.py. Looks
-- at so many rows and no more, however long the ledger is. The ledger does not have the number of
-- choices, so that several count as one: too long, on the safe side.
SELECT policy, model, output_tokens
FROM (SELECT id, policy, model, output_tokens, status FROM requests ORDER BY id DESC LIMIT :rows) AS latest
WHERE status = 'ok' AND output_tokens > 0
ORDER BY id
