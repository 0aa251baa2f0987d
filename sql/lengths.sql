-- What the latest answers took, in output tokens, the oldest of them first: see sansio/routing/holds.py. Looks
-- at so many rows and no more, however long the ledger is, and of a policy and a model gives only those
-- that are remembered: to sort through the others keeps a process from serving, 2 ms for a thousand (measured).
-- The ledger does not have the number of choices, so that several count as one: too long, on the safe side.
SELECT policy, model, output_tokens
FROM (
    SELECT id, policy, model, output_tokens,
        row_number() OVER (PARTITION BY coalesce(policy, ''), model ORDER BY id DESC) AS place
    FROM (SELECT id, policy, model, output_tokens, status FROM requests ORDER BY id DESC LIMIT :rows) AS latest
    WHERE status = 'ok' AND output_tokens > 0
) AS placed
WHERE place <= :kept
ORDER BY id
