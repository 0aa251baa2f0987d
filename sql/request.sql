SELECT * FROM requests WHERE correlation_id = :correlation_id
