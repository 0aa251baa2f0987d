-- The measures of a few requests, as a table of stats.sql. CROSS, so that SQLite begins with those few.
({those}) AS those CROSS JOIN request_measures USING (id)
