-- What nodes stated, by time: a span of it is read without the rows. With what the rates give.
CREATE INDEX attempts_stated ON attempts (
    started_at, provider, model, provider_cost_sats, expected_sats
) WHERE provider_cost_sats IS NOT NULL;
CREATE INDEX checkpoints_by_time ON checkpoints (taken_at);
