-- How much of a UTC day (its number from 1970 on) each process may use without asking, in millisats, and
-- the number of its last exchange: see sansio/routing/lease.py. The row '-' holds what was spent by
-- processes without one; its seen_at is until when somebody found no room. seen_at is in seconds since 1970.
CREATE TABLE budget_leases (
    day INTEGER NOT NULL,
    boot_id TEXT NOT NULL,
    cap INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    seen_at REAL NOT NULL,
    PRIMARY KEY (day, boot_id)
) WITHOUT ROWID;
