SELECT DISTINCT coalesce(boot_id, '') FROM requests WHERE status = 'in_flight'
