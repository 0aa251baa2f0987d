-- Every name a filter may have because the log knows it. An attempt that failed counts for its
-- own provider, which may have no request to its name.
SELECT DISTINCT 'model', model FROM request_days
UNION SELECT DISTINCT 'provider', provider FROM request_days WHERE provider <> ''
UNION SELECT DISTINCT 'policy', policy FROM request_days WHERE policy <> ''
UNION SELECT 'model', model FROM requests WHERE status = 'in_flight'
UNION SELECT 'provider', provider FROM requests WHERE status = 'in_flight' AND provider <> ''
UNION SELECT 'policy', policy FROM requests WHERE status = 'in_flight' AND policy <> ''
UNION SELECT 'provider', provider FROM attempts WHERE failure IS NOT NULL AND provider IS NOT NULL
UNION SELECT 'model', model FROM attempts WHERE failure IS NOT NULL AND model IS NOT NULL
