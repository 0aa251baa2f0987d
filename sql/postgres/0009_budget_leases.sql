-- As ../0009_budget_leases.sql.
CREATE TABLE budget_leases (
    day BIGINT NOT NULL,
    boot_id TEXT COLLATE "C" NOT NULL,
    cap BIGINT NOT NULL,
    seq BIGINT NOT NULL,
    seen_at DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (day, boot_id)
);
