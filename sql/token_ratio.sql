SELECT avg_ratio, sample_count FROM token_ratios WHERE policy = :policy
