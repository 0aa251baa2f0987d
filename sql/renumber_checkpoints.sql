-- After forget_requests.sql: where all requests are gone, the numbers of new ones may begin anew.
UPDATE checkpoints SET after_request = :last WHERE after_request > :last
