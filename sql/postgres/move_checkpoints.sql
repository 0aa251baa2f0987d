-- As ../move_checkpoints.sql, with the numbers they have there.
INSERT INTO checkpoints ({columns}) OVERRIDING SYSTEM VALUE {rows}
