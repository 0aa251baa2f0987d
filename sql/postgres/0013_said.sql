-- As in SQLite's.
ALTER TABLE attempts ADD COLUMN said TEXT COLLATE "C";
