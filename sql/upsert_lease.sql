INSERT INTO budget_leases (day, boot_id, cap, seq, seen_at)
VALUES (:day, :boot_id, :cap, :seq, :seen_at)
ON CONFLICT (day, boot_id) DO UPDATE SET
    cap = excluded.cap,
    seq = excluded.seq,
    seen_at = excluded.seen_at
