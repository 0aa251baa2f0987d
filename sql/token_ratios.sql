SELECT policy, avg_ratio, sample_count FROM token_ratios
