-- Braces as in upsert_request.sql. A price that is there stays as it is.
INSERT INTO node_prices ({columns}) {rows}
ON CONFLICT (id) DO NOTHING
