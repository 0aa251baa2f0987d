-- Attempts of which nobody knows what they cost, by provider, and what was set aside for them.
SELECT attempts.provider, count(*), min(attempts.started_at), coalesce(sum(coalesce(
    attempts.set_aside_sats, attempts.estimated_cost_sats
)), 0.0)
FROM attempts
WHERE attempts.money <> 'free' AND attempts.provider_cost_sats IS NULL
    AND attempts.settled IS NULL
GROUP BY attempts.provider
