DELETE FROM attempts WHERE correlation_id = :correlation_id
