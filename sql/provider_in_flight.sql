SELECT count(*) FROM requests JOIN attempts ON attempts.correlation_id = requests.correlation_id
WHERE requests.status = 'in_flight' AND attempts.provider = :provider
