-- What a budget held for an attempt (sansio/holds.py), which is what it counts as while nobody knows its
-- price. The estimate orders candidates, and says nothing of that: an agent's max_tokens makes it huge,
-- a short question tiny. NULL in rows of before, where the estimate has to do.
ALTER TABLE attempts ADD COLUMN set_aside_sats REAL;
