-- As ../recorded_names.sql, without words for SQLite's planner.
SELECT DISTINCT 'model', model FROM request_days
UNION SELECT DISTINCT 'provider', provider FROM request_days WHERE provider <> ''
UNION SELECT DISTINCT 'policy', policy FROM request_days WHERE policy <> ''
UNION SELECT 'model', model FROM requests WHERE status = 'in_flight'
UNION SELECT 'provider', provider FROM requests WHERE status = 'in_flight' AND provider <> ''
UNION SELECT 'policy', policy FROM requests WHERE status = 'in_flight' AND policy <> ''
UNION SELECT 'provider', attempts.provider
    FROM requests
    JOIN attempts USING (correlation_id)
    WHERE requests.attempts > coalesce(requests.answered, CASE WHEN requests.status = 'ok' THEN 1 ELSE 0 END) AND attempts.provider IS NOT NULL
UNION SELECT 'model', attempts.model
    FROM requests
    JOIN attempts USING (correlation_id)
    WHERE requests.attempts > coalesce(requests.answered, CASE WHEN requests.status = 'ok' THEN 1 ELSE 0 END) AND attempts.model IS NOT NULL
