"""A small question to a provider, one that costs nothing, and its whole answer.

    what = await ask(transport, url, proxy=provider.proxy, headers=(...), most_bytes=...)
    what = await told(transport, origin, head, body, most_bytes)    # whatever is sent
    Replied(status, headers, body)  |  Unanswered(sentence, own)

For prices, balances, and what a node says of itself. A chat is `call`'s: there it counts what was
written before something broke; here a question that broke on a kept connection is asked again on
another. It goes the same way as a chat, over the same idle connections and through the same proxy.
Redirects are not followed, cookies not kept. How long it may take is the caller's scope; one that
is cancelled leaves nothing open.

Why not httpx, which could be put on top of `transport`: it brings 8 MB and 70 ms (measured) to a
process that needs a GET, its timeouts are reset by every byte where ours are deadlines, and an
answer without end must be counted by its caller all the same. What is used of it are its URLs and
certificates (`connect`), when they are needed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Final, TypeAlias, final

from arbstr import __version__
from arbstr.sansio.callers import fold_headers
from arbstr.sansio.config.addresses import Proxy
from arbstr.sansio.frozen import dataclass
from arbstr.trio_runtime.upstream.content_coding import Decoder
from arbstr.trio_runtime.upstream.transport import (
    AnswerBroken,
    ConnectFailed,
    Connection,
    Origin,
    RequestHead,
    SendFailed,
    Transport,
    target_of,
)

USER_AGENT: Final = f"arbstr/{__version__}".encode()
"""How arbstr calls itself, also in a chat (`target`)."""

Headers: TypeAlias = Sequence[tuple[bytes, bytes]]


@final
@dataclass(frozen=True, slots=True)
class Replied:
    """A whole answer, of whatever status. Header names are lower-case."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


@final
@dataclass(frozen=True, slots=True)
class Unanswered:
    """What went wrong, in our words, as the rest of a sentence that begins with the provider.

    own    nothing was learnt of the provider: this machine, or arbstr's own limit, was in the way
    """

    sentence: str
    own: bool = False


async def ask(
    transport: Transport,
    url: str,
    *,
    proxy: Proxy | None = None,
    headers: Headers = (),
    most_bytes: int,
    posted: bytes | None = None,
    method: bytes = b"GET",
) -> Replied | Unanswered:
    """GETs `url` (or another `method` without a body), or POSTs a JSON body to it, which may then
    be done twice; an answer of at most
    `most_bytes` (undone of a compression).

    `headers` go out beside host, user-agent and accept-encoding; a key is among them as it would be
    for a chat. Raises ValueError for a URL or a header that cannot be sent.
    """
    origin = Origin.of(url, proxy)
    if posted is not None:
        headers = (*headers, (b"content-type", b"application/json"))
    head = RequestHead.prepare(
        method if posted is None else b"POST",
        target_of(url),
        [
            (b"host", origin.authority),
            (b"user-agent", USER_AGENT),
            (b"accept-encoding", b"identity"),
            *headers,
        ],
    )
    return await told(transport, origin, head, posted or b"", most_bytes)


async def told(
    transport: Transport, origin: Origin, head: RequestHead, body: bytes, most_bytes: int
) -> Replied | Unanswered:
    """What is answered to a request that may be sent twice."""
    while True:
        try:
            connection = await transport.connect(origin)
        except ConnectFailed as error:
            return Unanswered(f"could not be reached: {error.sentence}", own=error.own)
        good = False
        try:
            answer = await _exchange(connection, head, body, most_bytes)
            good = isinstance(answer, Replied)
            return answer
        except (AnswerBroken, SendFailed) as error:
            if not connection.reused or connection.bytes_received:
                return Unanswered(f"broke off: {error.sentence}")
        finally:
            connection.release(keep=good)


async def _exchange(
    connection: Connection, head: RequestHead, sent: bytes, most_bytes: int
) -> Replied | Unanswered:
    await connection.send(head, sent)
    answer = await connection.receive_head()
    codings = b",".join(value for name, value in answer.headers if name == b"content-encoding")
    decoder = Decoder.of(codings.decode("latin-1"))
    body = bytearray()
    while data := await connection.receive_some():
        if decoder is None:
            body += data
        else:
            decoder.feed(data)
            while len(body) <= most_bytes and (data := decoder.read()):
                body += data
        if len(body) > most_bytes:
            return Unanswered(f"answered with more than {most_bytes} bytes", own=True)
    return Replied(answer.status, fold_headers(answer.headers), bytes(body))
