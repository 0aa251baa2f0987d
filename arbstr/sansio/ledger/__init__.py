"""What is kept of a request: its attempts, its row, and what is told of many rows.

Unknown is not zero, and what a provider states it charged goes before what its rates give. No text
of a prompt or an answer has a place here. `exchange`, one floor up, makes the record.

The order of the modules; each imports only from those before it:

    record       the row of a request with the rows of its attempts; nobody changes it
    intents      what is on disk before a provider sees a request
    dropped      a row that could not be kept, as a line of the log and back
    alarms       whether a provider charges what its rates give
    reconcile    what attempts without word cost, by the counters of their key
    lanes        child keys whose own counters tell the price of one request
    attempt      one request to one provider: its money, its tokens, its price
    periods      days, weeks and months of a zone
    reports      questions about rows: query parameters -> a query, or why not
    retention    which rows are too old, if the clock may be wrong

Start reading at `record`.
"""
