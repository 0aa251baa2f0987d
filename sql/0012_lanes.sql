-- The lane an attempt ran on, by what tells its key from another, and what that lane had counted before
-- (sansio/ledger/lanes.py): NULL without one, or once its counters can tell no more. What is left open by
-- a process that is gone is found by it.
ALTER TABLE attempts ADD COLUMN lane TEXT;
CREATE INDEX attempts_on_lanes ON attempts (provider) WHERE lane IS NOT NULL AND provider_cost_sats IS NULL;
