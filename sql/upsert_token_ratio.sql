-- The arithmetic is that of sansio/routing/ratios.py, done in the same transaction.
INSERT INTO token_ratios (policy, avg_ratio, sample_count)
VALUES (:policy, :avg_ratio, :sample_count)
ON CONFLICT (policy) DO UPDATE SET
    avg_ratio = excluded.avg_ratio,
    sample_count = excluded.sample_count
