-- As ../0010_checkpoints_in_order.sql. Nothing was ever removed from the table, so its rows lie in order.
ALTER TABLE checkpoints DROP CONSTRAINT checkpoints_pkey;
ALTER TABLE checkpoints ADD COLUMN id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY;
CREATE INDEX checkpoints_by_key ON checkpoints (provider, key_id, id);
