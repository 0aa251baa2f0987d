-- An attempt that was under way when its request was first written is replaced. Braces as in
-- upsert_request.sql.
INSERT OR REPLACE INTO attempts ({columns}) VALUES {rows}
