-- As ../nanosats.sql: a cast to a whole number rounds here, and cuts off there.
floor({sats} * 1e9::DOUBLE PRECISION + 0.5)
