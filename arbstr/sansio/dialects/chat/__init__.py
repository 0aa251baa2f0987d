"""The first door, /v1/chat/completions: what is known of its requests, chunks and answers.

The order of the modules; each imports only from those before it:

    request     the request, and the copy of it that a provider gets
    glance      what bytes tell before any JSON is parsed
    facts       one event, or one plain body -> what it says
    ending      all that arbstr itself says in a stream
    reading     a stream of chunks, read for `relay`
    assembly    the events of a whole stream -> a plain answer
    answer      a plain answer: judged, put together, or turned into a stream
    door        all that is asked of a dialect

Start reading at `door`.
"""
