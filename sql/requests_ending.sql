-- As requests_beginning. Newest first; every id is looked at unless two end so.
SELECT correlation_id FROM requests
WHERE substr(correlation_id, -length(:part)) = :part ORDER BY correlation_id DESC LIMIT 2
