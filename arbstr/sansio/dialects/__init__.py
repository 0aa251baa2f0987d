"""What a request and an answer say: the only place that knows what a chat is.

    the client's bytes --chat--> ChatRequest, and where its body may be edited
    a provider's bytes --sse--> events --facts--> output, finish, tokens, price, error
      a stream --relay--> the client's bytes: held until output, flowing, ended honestly
      a whole answer --answer--> Answer, BadAnswer or ErrorAnswer

What is an error in one place is an error in every other: one judgement for plain answers, for
streams, and for one in the form of the other. Bytes pass by identity where nothing must change.

The order of the modules; each imports only from those before it:

    members     the members of a JSON object, and where their values stand
    chat        the request, and the copy of it that a provider gets
    glance      what bytes tell before any JSON is parsed
    usage       token counts and stated prices
    facts       one event, or one plain body -> what it says
    sse         bytes -> server-sent events, whatever the cutting
    dialect     what is asked of a door: the one interface
    ending      all that arbstr itself says in a stream
    relay       a stream of chunks -> the client's bytes
    assembly    the events of a whole stream -> a plain answer
    answer      a plain answer: judged, put together, or turned into a stream

Start reading at `chat` for the way in, at `relay` for the way out.
"""
