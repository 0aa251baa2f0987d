-- The request whose answer this one got as well, by its correlation id: the same was asked again, and
-- the cost stays with the first. NULL in all others. Of such rows there are few, so they are counted.
ALTER TABLE requests ADD COLUMN joined TEXT;
CREATE INDEX requests_joined ON requests (joined) WHERE joined IS NOT NULL;
