-- Attempts of which no provider said what they cost, by provider, what was set aside for them, and
-- how many of them the formula has no price for either.
SELECT attempts.provider, count(*), min(attempts.started_at), coalesce(sum(coalesce(
    attempts.set_aside_sats, attempts.estimated_cost_sats
)), 0.0), sum(CASE WHEN attempts.cost_sats IS NULL THEN 1 ELSE 0 END)
FROM attempts
WHERE attempts.money <> 'free' AND attempts.provider_cost_sats IS NULL
    AND attempts.settled IS NULL
GROUP BY attempts.provider
