-- One exchange of a day's leases after the other. SQLite has begun with a lock on everything.
SELECT :day
