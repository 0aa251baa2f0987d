-- As ../measures_of.sql, without words for SQLite's planner.
({those}) AS those JOIN request_measures USING (id)
