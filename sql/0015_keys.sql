-- Which key of a node an attempt was sent with, as checkpoints tell keys apart: by a digest that does not
-- tell the key. NULL of other providers, and of an arbstr that did not write it.
ALTER TABLE attempts ADD COLUMN key_id TEXT;
