SELECT count(*) FROM requests JOIN attempts ON attempts.correlation_id = requests.correlation_id
WHERE requests.status = 'in_flight' AND attempts.provider = :provider
    AND (attempts.key_id = :key_id OR attempts.key_id IS NULL)
