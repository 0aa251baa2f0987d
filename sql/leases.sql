SELECT boot_id, cap, seq, seen_at FROM budget_leases WHERE day = :day
