-- As ../take_time.sql, until the end of the transaction.
SELECT set_config('statement_timeout', '0', TRUE), set_config('idle_in_transaction_session_timeout', '0', TRUE)
