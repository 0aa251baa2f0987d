"""Towards the providers: one request out, and what was seen of its answer.

What it may never lose is how much of a request was written: that decides whether it can have cost.
Nothing here knows a client or the database.

The order of the modules; each imports only from those before it:

    pipe               a connected socket, with or without TLS
    deadlines          until when providers are waited for: one clock for all attempts
    tunnel             what is said to a proxy: SOCKS5 and CONNECT, no I/O
    connect            from an origin to an open pipe
    readers            the bytes of an answer -> its head and its body, no I/O
    http11             one request and its answer on a pipe
    content_coding     compression nobody asked for, undone
    transport          idle connections, handed out for one exchange each, never leaked
    ask                a question that costs nothing, and its whole answer
    node               what a Routstr node is asked beside chats
    websocket          a conversation in texts, for relays
    discovery          where nodes are, and which of them are there
    target             the heads of the requests to a provider, prepared once for each path
    pieces             a body that comes in pieces, and is wanted in one
    witness            what was seen of a call, and what it means
    answering          its answer, read to a verdict; exceptions become facts
    call               one request to one provider: sent, read, its connection given back

Start reading at `call`.
"""
