DELETE FROM budget_leases WHERE day < :day
