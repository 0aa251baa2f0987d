-- What nodes stated in a span, and what their rates give for the same attempts. Braces as in stats.sql.
SELECT provider, count(*), sum({stated}), coalesce(sum({expected}), 0)
FROM attempts
WHERE provider_cost_sats IS NOT NULL AND started_at >= :since AND started_at < :until {filters}
GROUP BY provider
