-- What keys were charged by their counters, between checkpoints in a span, and what is known of the same
-- attempts: what was stated, and what those without word turned out to have cost. Braces as in stats.sql.
SELECT
    provider, sum({charged}),
    sum(CASE WHEN verdict IN ('settled', 'shared') THEN {charged} ELSE {stated} END),
    max(taken_at)
FROM checkpoints
WHERE verdict NOT IN ('first', 'fell') AND taken_at >= :since AND taken_at < :until {filters}
GROUP BY provider
