"""Towards the clients: sockets to requests, and answers to sockets.

Every workaround of a bug in Hypercorn stands in `connection` or `server`, with its version and its
test.
Nothing here knows a provider or the database.

The order of the modules; each imports only from those before it:

    framing          where a request ends, and how its answer is delimited
    request          one request and its answer
    asgi             the same for an application that speaks ASGI
    http11           the bytes of a connection to requests, and answers to bytes
    client_socket    a client's socket, beneath Trio
    listener         accepts, as many in one turn as there are
    connection       one client's socket: what it owns, how long it may take, how it ends
    server           all of them: accepting, their time, the end
    bodies           requests' bodies: read whole, and not too many at once
    responder        what a chat answers: heads, events, comments, errors
    silences         when a stream gets a comment

Start reading at `connection`.
"""
