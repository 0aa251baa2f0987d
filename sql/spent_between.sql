-- What each attempt from :since on and before :until may have cost, in sats, as sansio/routing/budget.py books
-- it: what nobody knows counts as what was set aside. The rows are added up outside, exactly. An attempt
-- begins hours after its request at most, so the index on requests finds it. {whose}: of which processes.
SELECT coalesce(
    attempts.cost_sats,
    nullif(attempts.provider_cost_sats, 0),     -- 0 before the last word is no price
    attempts.set_aside_sats,
    attempts.estimated_cost_sats        -- rows of an older arbstr
)
FROM requests JOIN attempts USING (correlation_id)
WHERE requests.timestamp >= :asked_since
    AND attempts.started_at >= :since
    AND attempts.started_at < :until
    AND coalesce(attempts.money, '') <> 'free'
    AND {whose}
