"""The ledger on disk: rows that wait, rows that are written, questions that are asked.

Nothing here may delay or fail an answer: `offer` never waits, a database that is locked, full or
gone costs rows that are counted, and what cost money is printed before it is dropped.

The order of the modules; each imports only from those before it:

    port                what a ledger is to all below: two Protocols and one exception
    statements          the SQL of `sql/`, read
    boot_lock           which process lives, so that rows of one that is gone are known
    sqlite_session      a connection to SQLite
    sqlite_soundness    whether the file still holds what was written
    sqlite_readers      the file for who only reads
    sqlite              the file: found, checked, migrated, written by one thread
    sqlite_backup       a copy of it, while it is in use
    postgres_session    a connection to PostgreSQL
    postgres_readers    a ledger there for who only reads
    postgres            a ledger there, shared by machines: found, migrated, kept alive
    database            which ledger, and the engine for it
    budget              what was spent today, read at the start and when the day turns
    lease_rows          a day's leases as rows: exchanged, inherited
    ratios              what was learnt of answers, kept between two runs
    prices              what nodes asked, and the last listing of each
    on_lanes            what a killed process had running on lanes
    checkpoints         what a key was charged, compared with the rows
    store               records made into rows, inside a transaction
    intents             the file that outlives kill -9
    leases              a day's budget shared by all who share a ledger
    log_writer          a bounded queue, batches, a drop counter, a drain
    put_back            rows that were dropped, read back from the log
    move                a ledger into another engine
    retention           old rows removed, in small batches
    sums                what /v1/stats adds up, as it is read
    walks               the order of an index: percentiles, the dearest and the slowest
    stats               the figures of /v1/stats
    charges             what nodes stated, should have, and charged
    zones               zones by their names, as this machine knows them
    reports             questions to the log

An engine is the only one to import its library: `sqlite...` alone knows sqlite3, `postgres...`
alone psycopg.

Start reading at `log_writer`, then `port` and `sqlite`.
"""
