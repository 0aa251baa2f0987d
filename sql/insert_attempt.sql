-- An attempt that was under way when its request was first written is replaced. Braces as in
-- upsert_request.sql; {updates} sets each column to what is new. Of a process that was taken for dead, and
-- wakes: a price that was learnt meanwhile stays, but for what the provider stated.
INSERT INTO attempts ({columns}) {rows}
ON CONFLICT (correlation_id, n) DO UPDATE SET {updates}
WHERE attempts.settled IS NULL OR excluded.settled IS NOT NULL OR excluded.provider_cost_sats IS NOT NULL
