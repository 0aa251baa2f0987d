-- As ../lock_day.sql. A statement of its own, so that the next one sees what was committed meanwhile.
SELECT pg_advisory_xact_lock(1634886259, :day)
