-- How many requests the days of a span have, of all and of some names. Braces as in stats.sql.
SELECT {counts}
FROM request_days
WHERE day >= :since AND day <= :until
