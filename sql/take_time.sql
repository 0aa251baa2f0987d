-- What comes may take as long as it takes. Here nothing ends it.
SELECT 1
