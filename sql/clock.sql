-- The moment by which all who share the ledger go. A file's processes have one clock, their own.
SELECT NULL
