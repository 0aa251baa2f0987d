-- Whether another ledger is being moved into this one (ledger/move.py).
SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'moving'
