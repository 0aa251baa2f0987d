-- Which process has a request in its books.
SELECT boot_id FROM requests WHERE correlation_id = :correlation_id
