-- What has to follow the rows of another ledger. Nothing here.
SELECT 1
