"""What a request and an answer say: the only place that knows the protocols of the doors.

    the client's bytes --Dialect.parse--> Asked --Dialect.outgoing--> a provider's bytes
    a provider's bytes --sse--> events --Reading.read--> Facts: output, end, tokens, price, error
      a stream --relay--> the client's bytes: held until output, flowing, ended honestly
      a whole answer --Dialect.judge--> Answer, BadAnswer or ErrorAnswer

A door is a dialect: one file, or a folder where it would be long. What it is asked is one page,
`dialect`. What is an error in one place is an error in every other: one judgement for plain
answers, for streams, and for one in the form of the other. Bytes pass by identity where nothing
must change.

The order of the modules; each imports only from those before it. A door does not know another:

    flat          JSON objects with nothing nested, as parts of regular expressions
    members       the members of a JSON object, and where their values stand
    usage         token counts and stated prices
    sse           bytes -> server-sent events, whatever the cutting
    dialect       what is asked of a door, and what everybody else knows of a request and an event
    complaints    errors, words and signs of life, where an event or an answer should be
    request       what the bodies of all requests have in common
    relay_states  how far a stream has come, and what follows what
    relay         a stream of events -> the client's bytes
    whole         a stream in place of a whole answer, and the reverse
    chat/         the first door
    responses/    the second
    messages/     the third
    embeddings    the door without streams
    doors         all doors by name

Start reading at `dialect`, then at `chat/door` for one that is there, at `relay` for the way out.
"""
