-- As ../0011_stated_charges.sql.
CREATE INDEX attempts_stated ON attempts (
    started_at, provider, model, provider_cost_sats, expected_sats
) WHERE provider_cost_sats IS NOT NULL;
CREATE INDEX checkpoints_by_time ON checkpoints (taken_at);
