INSERT INTO node_listings (provider, url, fetched_at, version, listing)
VALUES (:provider, :url, :fetched_at, :version, :listing)
ON CONFLICT (provider) DO UPDATE SET
    url = excluded.url,
    fetched_at = excluded.fetched_at,
    version = excluded.version,
    listing = excluded.listing
