"""The providers of `arbstr run --mock`: servers on loopback, no network, no money.

Nothing here knows the rest of the runtime: it is the other side of it.

The order of the modules; each imports only from those before it:

    said               words, counts of tokens, calls of tools
    chat               what is answered at each door ...
    completions
    responses
    messages
    embeddings
    answers            ... by path
    providers          a server for each
"""
