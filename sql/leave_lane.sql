-- The counters of its lane tell no more of it.
UPDATE attempts SET lane = NULL WHERE correlation_id = :correlation_id AND n = :n
