"""The first door, /v1/chat/completions: what is known of its requests, chunks and answers.

Its older neighbour /v1/completions speaks almost the same, and lives here, too.

The order of the modules; each imports only from those before it:

    request     the request, and the copy of it that a provider gets
    glance      what bytes tell before any JSON is parsed
    facts       one event, or one plain body -> what it says
    ending      all that arbstr itself says in a stream
    reading     a stream of chunks, read for `relay`
    assembly    the events of a whole stream -> a plain answer
    answer      a plain answer: judged, put together, or turned into a stream
    door        all that is asked of a dialect
    completions the same of the older door, /v1/completions

Start reading at `door`.
"""
