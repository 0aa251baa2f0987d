-- An attempt that was under way when its request was first written is replaced. Braces as in
-- upsert_request.sql; {updates} sets each column to what is new.
INSERT INTO attempts ({columns}) {rows}
ON CONFLICT (correlation_id, n) DO UPDATE SET {updates}
