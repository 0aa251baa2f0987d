-- As ../clock.sql: of several machines it is the server's, in seconds since 1970.
SELECT extract(epoch FROM clock_timestamp())::DOUBLE PRECISION
