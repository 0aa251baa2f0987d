-- Every name a filter may have because the log knows it. An attempt that failed counts for its
-- own provider, which may have no request to its name.
SELECT DISTINCT 'model', model FROM request_days
UNION SELECT DISTINCT 'provider', provider FROM request_days WHERE provider <> ''
UNION SELECT DISTINCT 'policy', policy FROM request_days WHERE policy <> ''
UNION SELECT 'model', model FROM requests WHERE status = 'in_flight'
UNION SELECT 'provider', provider FROM requests WHERE status = 'in_flight' AND provider <> ''
UNION SELECT 'policy', policy FROM requests WHERE status = 'in_flight' AND policy <> ''
UNION SELECT 'provider', attempts.provider
    FROM requests INDEXED BY requests_with_failures
    CROSS JOIN attempts USING (correlation_id)
    WHERE requests.attempts > coalesce(requests.answered, requests.status = 'ok', 0) AND attempts.provider IS NOT NULL
UNION SELECT 'model', attempts.model
    FROM requests INDEXED BY requests_with_failures
    CROSS JOIN attempts USING (correlation_id)
    WHERE requests.attempts > coalesce(requests.answered, requests.status = 'ok', 0) AND attempts.model IS NOT NULL
