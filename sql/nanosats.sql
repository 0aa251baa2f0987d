-- An amount in sats, as a whole number of nanosats in a double: part of questions that add such up.
CAST(CAST({sats} * 1e9 + 0.5 AS INTEGER) AS REAL)
