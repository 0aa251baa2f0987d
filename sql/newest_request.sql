-- Not of this process, whose rows bear the clock that is in question.
SELECT timestamp FROM requests WHERE coalesce(boot_id, '') <> :boot_id ORDER BY timestamp DESC LIMIT 1
