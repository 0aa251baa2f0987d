-- Attempts with a provider's key whose lane told that they took nothing, and that began so short a while
-- ago that they may come after all. What has not begun yet did so before the clock was put back.
SELECT started_at, duration_ms FROM attempts
WHERE provider = :provider AND lane IS NOT NULL AND provider_cost_sats IS NULL
    AND (key_id = :key_id OR key_id IS NULL)
    AND settled = 'lane' AND money = 'free' AND started_at BETWEEN :since AND :now
