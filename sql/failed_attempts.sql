-- Attempts that brought no answer, by the time of their requests: how many, how many of them may have
-- cost, and how much: what they did cost if that is known, else the estimate. Braces as in stats.sql.
SELECT
    {key},
    count(*) AS failed,
    count(*) FILTER (WHERE coalesce(money, '') <> 'free') AS possibly_spent,
    coalesce(sum({nanosats}) FILTER (WHERE coalesce(money, '') <> 'free'), 0) AS nanosats
FROM attempts
WHERE failure IS NOT NULL AND asked_at >= :since AND asked_at < :until {filters}
{group_by}
