"""The door itself: all that is asked of Messages, see `dialect.py`."""

from collections.abc import Mapping
from typing import Final, final

from arbstr.sansio.dialects.dialect import Asked, Dialect, Verdict
from arbstr.sansio.dialects.messages import answer, errors, request
from arbstr.sansio.dialects.messages.events import PING, MessagesReading
from arbstr.sansio.dialects.request import with_model
from arbstr.sansio.errors import ErrorReply


@final
class Messages:
    """POST /v1/messages."""

    __slots__ = ()

    name: Final = "messages"
    path: Final = "/messages"
    limit_member: Final = "max_tokens"
    id_header: Final = b"request-id"
    silence: Final = PING
    # A Routstr node's `event: cost` comes behind `message_stop`.
    price_follows: Final = True
    # Every client run raises for the event.
    ends_when_broken: Final = True

    def __reduce__(self) -> str:
        return "MESSAGES"

    def saying(self, text: str) -> dict[str, object]:
        """One message of the user's."""
        return {"max_tokens": 256, "messages": [{"role": "user", "content": text}]}

    def parse(self, body: bytes, headers: Mapping[str, str], query: bytes) -> Asked | ErrorReply:
        """Reads a request; the query and the headers of the protocol's versions go along."""
        return request.parse(self, body, headers, query)

    def outgoing(self, asked: Asked, *, model: str, ask_usage: bool, mirror_limit: bool) -> bytes:
        """The same bytes, or the model edited in place: usage always comes, and `max_tokens` is
        what a Routstr node reserves by."""
        return with_model(asked, model)

    def reading(self, asked: Asked) -> MessagesReading:
        """For one attempt's stream."""
        return MessagesReading()

    def judge(self, body: bytes, asked: Asked, content_type: str) -> Verdict:
        """What the whole body of a 2xx answer is."""
        return answer.judge(body, content_type)

    def as_stream(self, answer_body: bytes) -> bytes:
        """Each block with its text whole, between `message_start` and `message_stop`."""
        return answer.as_stream(answer_body)

    def error(self, error: ErrorReply, request_id: str) -> bytes:
        """Anthropic's shape."""
        return errors.error_body(error, request_id)

    def error_event(self, error: ErrorReply, request_id: str) -> bytes:
        """The end of a broken stream, of which nothing came before."""
        return errors.error_event(error, request_id)


MESSAGES: Final[Dialect] = Messages()
