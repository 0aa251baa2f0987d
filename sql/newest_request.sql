-- Not of this process, whose rows bear the clock that is in question.
SELECT timestamp FROM requests WHERE boot_id IS NOT :boot_id ORDER BY timestamp DESC LIMIT 1
