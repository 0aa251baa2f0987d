"""What went wrong, what it may have cost, and what may follow.

    a provider's no --refusal--> its codes, its words, how long to wait --classify--> Failure
    an end on the wire --watch--> ENDINGS: what it is called
    an end of ours --cut_off--> CUTS, FOLLOWS: what its client reads
    Failure --failure--> MONEY: free, spent or unknown, by kind of provider
    Failure --retry--> one command           VERDICTS: the same again, the next one, or nothing
    nothing follows --last_word--> ErrorReply   LAST_WORDS: the most useful of all that went wrong
    every verdict --board--> may this model be asked of this provider now
    the same again --repeats--> send it, join its answer, or refuse     ANSWERS

This is where money is kept safe: after an attempt that may have cost nothing follows without
consent, and with it at most one more that may cost. What the tables say is printed into the manual
by the functions that end in `_table`.

The order of the modules; each imports only from those before it:

    kinds        what a provider of a kind does otherwise than others
    refusal      what an error answer says
    capable      a no that is about this model here: another may
    rests        who is left alone, until when, and why
    failure      what went wrong, and what it may have cost
    statuses     what a complete answer is called, by its status and what it says
    classify     status, headers and body of a complete answer -> Failure
    watch        what an attempt is called that ended on the wire
    cut_off      what follows where arbstr itself ends the work for a request
    evidence     all of that as the manual's table
    verdicts     what may follow a failed attempt
    breaker      one circuit: its states, and what changes them
    board        the circuits and rests of all
    last_word    what the client reads when there is no answer
    retry        one request's walk over its candidates
    repeats      the same request again: sent, joined to its answer, or refused

Start reading at `retry`, then `failure`.
"""
