-- Two, to see whether the beginning of an id that a person typed is enough.
SELECT correlation_id FROM requests
WHERE correlation_id >= :part ORDER BY correlation_id LIMIT 2
