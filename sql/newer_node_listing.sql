-- What another process was told of a provider's node since.
SELECT provider, url, fetched_at, version, listing FROM node_listings
WHERE provider = :provider AND url = :url AND fetched_at > :since
