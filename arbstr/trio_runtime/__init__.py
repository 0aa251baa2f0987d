"""The acting half: nurseries, sockets, clocks, the database. What it does, `arbstr.sansio` decided.

The nursery tree of `arbstr run`; every task stands under who waits for it, and the order of opening
is the order of closing, backwards (`main`):

    main
    |- the signals                         watched until everything below is closed
    |- database, log_writer                opened first, closed last: no record is lost
    |    `- the writer                     takes what was offered in batches, in a thread
    |- retention                           removes old rows, in small batches
    |- transport                           idle connections, closed at the end
    |- drains                              answers whose request is over, read on for their price
    |    `- one per drain                  at most 200, for `drain_seconds` or 5 s each
    |- mock providers (`--mock`)           real servers on loopback
    `- server                              accepts until the first signal
         |- the stall watch                closes sockets of clients that take nothing
         |- the clock of the connections   ends those that are idle, or send too slowly
         `- one per client connection      Hypercorn's protocol over one socket
              `- its requests, in turn     app -> exchange -> run -> attempts -> upstream
                                           or app -> exchange -> joined, which waits for another's
                                           or app -> counting, kept: free questions, passed on
    beside the server: SIGHUP, which reads the configuration again; the turn of the budget's day;
    the clocks of the idle connections, of the attempts (`deadlines`), of streams in which nothing
    is said (`silences`), and of the answers that are kept (`repeats`); the prices of nodes. Once
    stopping: a thread that ends a process that hangs

A client that leaves does not end the task of its request at once. Where its answer is paid for
anyway, or the client may be back in a moment, the run goes on in that task, for `drain_seconds` or
`linger`, writes to nobody, and is the source of whoever asks for the same again: they read what it
keeps, each in the task of its own request. It counts among the 200 drains. When the last reader
leaves, too, it goes on as if its own client had just left; when arbstr stops, no longer than there
are others to wait for. So a connection whose socket is closed may last as long as its run.

With `--workers N` there are N such trees, in forks of a parent that runs none of it (`workers`);
each has one task more, which reads and writes its post to the parent (`worker`).

One request, top to bottom: `connection`, `http11` (the client's socket, and HTTP on it) -> `app`
(who may call; which route) -> `exchange` (what it is, and whose answer it gets) -> `run` (its own,
which others may get by `sharing`) or `joined` (another's) -> `delivery` (what its client is told)
and `attempts` (retry's commands, deadlines; `permit`, the breaker's leave and the budget's) ->
`upstream` (one request to one provider; exceptions become facts) -> `transport`, `http11`,
`readers`, `connect`, `pipe`, `tunnel` (what was written and read, through which proxy). `hub` is
what requests share, `snapshot` what one keeps from its first line to its last.

The rules: a resource has an owner in the line that opens it. A cleanup that may wait has a shield
and a deadline. Between two awaits the world is ours, so what is shared is read, decided and written
in one synchronous stretch. No `yield` but under `@asynccontextmanager`. Functions take no timeout:
the caller opens a scope, and `grep 'move_on\\|fail_after\\|within('` finds every deadline.

The order of the modules; each imports only from those before it. A wing (a folder) lists its own
in its page:

    lines, logs, change, heavy, descriptors, groups what is left behind, what the machine allows
    ledger/                                         the ledger on disk
    upstream/                                       towards the providers
    server/                                         towards the clients
    mock/                                           providers without network and money
    snapshot, packed, repeats, nodes, accounts,     what requests share, what is told of it
      lane_file, lane_keys, lane_words, lanes,
      left_lanes, hub, reload, status
    whom, drains, permit, attempts, cutting,        one request, from its parts ...
      relaying, books, delivery
      sharing, run, joined, exchange                ... to its whole
      free, counting, kept                          free questions beside it
    stopping                                        how the process ends
    worker                                          one process of several, and its siblings
    unrouted, quart_routes, app                     the routes ...
    main, workers                                   ... the process, and several of it
"""
