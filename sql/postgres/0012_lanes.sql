-- As ../0012_lanes.sql.
ALTER TABLE attempts ADD COLUMN lane TEXT COLLATE "C";
CREATE INDEX attempts_on_lanes ON attempts (provider) WHERE lane IS NOT NULL AND provider_cost_sats IS NULL;
