-- As ../unfinished_move.sql.
SELECT count(*) FROM pg_tables WHERE schemaname = 'arbstr' AND tablename = 'moving'
