-- Braces as in upsert_request.sql. Rows of another ledger, as they are there: see ledger/move.py.
INSERT INTO requests ({columns}) {rows}
