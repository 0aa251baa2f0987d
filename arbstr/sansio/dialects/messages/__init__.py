"""The door /v1/messages: what is known of its requests, events and answers.

The order of the modules; each imports only from those before it:

    errors    the shape of an error, and the types it may have
    events    the events of a stream: what each is, how they are read, how the stream ends
    answer    a plain answer: judged, put together, or turned into a stream
    request   the request, and the copy of it that a provider gets
    door      all of it, as a door is asked for it
"""
