"""Theory of operation: everything arbstr decides, and nothing it does.

A machine here is told what happened and says what follows. It owns no socket, no clock, no die, no
file and no logger, so it behaves the same in a test as at night with money in it. The runtime
(`arbstr.trio_runtime`) carries bytes and time in and does what comes out; where a subject has a
thinking and an acting half, both bear the same name.

The life of one request, left to right (bytes are drawn `==`, values `--`):

    client                                                                           provider
      == body ==> a door ---- Asked ----> routing -- RoutePlan --> retry -- Attempt --> ==
                                             ^                     ^  |
                    config --> catalog ------+                     |  +-- GiveUp --> ErrorReply
                                               board -- Skipped ---+
                                            classify -- Failure ---+
                                                                   |
      <== bytes == relay <-- Event, Facts -- sse, the door <========= a stream ============ ==
      <== bytes == the door <======================================= a whole answer ======= ==

    exchange  notes all of it as it happens, and closes with one Record: the row in the log

The machines, by what goes in and what comes out:

    sse        feed(bytes), finish()          server-sent events, whatever the cutting
    reading    one event                      Facts: output, end, usage, price, error
    relay      feed(bytes), end_input(), ...  the client's bytes
    retry      start(), handle(event, now)    exactly one command
    board      admit(..., now), settle(...)   may this model be asked there
    budget     reserve(most, now), settle()   may this be spent
    repeats    asked(fingerprint, now), ...   sent, joined to its answer, or refused
    exchange   note(event, now)               close(now): exactly one Record

Smaller ones only remember: rests, latency, ratios and holds (what answers took), gauge and alarms
(what was warned of). The others are functions: bytes or text in, a frozen value or what is wrong
with them out.

The rules:

1. A decision is a table or a pure function: MONEY (failure), VERDICTS (verdicts), LAST_WORDS
   (last_word), TRANSITIONS (life), STATUS (errors). What cannot be printed as rows is not done.
2. A machine is told everything: bytes, `now` in seconds, outcomes. It states a range, the runtime
   draws from it.
3. One event in and one command out where there is a decision; bytes in and facts or bytes out where
   there is a stream. No machine has both.
4. Facts are past tense, commands are imperatives, states are adjectives; frozen dataclasses in
   closed unions that are matched exhaustively.
5. Our bug raises `LocalProtocolError`; their bug is data. Nothing a client or a provider sends
   raises here, and how its bytes are cut changes nothing.
6. Bytes pass by identity where nothing must change.

The order of the modules; each imports only from those before it. A wing (a folder) lists its own
in its page:

    frozen, errors, secrets, money, moments, ids,   words everybody uses
      visible, heads, chunks, endpoints
    config/                                         the configuration: text -> Config
    callers                                         who may call
    dialects/                                       the doors: what is asked, what comes back
    routing/                                        whom to ask, and whether the day can pay
    failover/                                       what went wrong, what it cost, what follows
    ledger/                                         what is kept of a request, and told of many
    life, exchange                                  the life of a request, and its row
    fates, workers, combined                        several processes, and what they say as one

Start reading at `exchange`. What may be imported is held by `ruff.toml` here and by
`tests/test_layering.py`.
"""
