SELECT provider, url, fetched_at, version, listing FROM node_listings
