SELECT * FROM attempts WHERE correlation_id = :correlation_id ORDER BY n
