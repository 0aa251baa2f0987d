-- As ../0015_keys.sql.
ALTER TABLE attempts ADD COLUMN key_id TEXT COLLATE "C";
