"""The door itself: all that is asked of chat, see `dialect.py`."""

from collections.abc import Mapping
from typing import Final, final

from arbstr.sansio.dialects.chat import answer
from arbstr.sansio.dialects.chat.ending import KEEP_ALIVE, error_event
from arbstr.sansio.dialects.chat.reading import ChatReading
from arbstr.sansio.dialects.chat.request import ChatMembers, outgoing_body, parse_chat
from arbstr.sansio.dialects.dialect import Asked, Dialect, Verdict
from arbstr.sansio.errors import ErrorReply


@final
class Chat:
    """POST /v1/chat/completions."""

    __slots__ = ()

    name: Final = "chat"
    path: Final = "/chat/completions"
    limit_member: Final = "max_tokens"
    id_header: Final = None
    silence: Final = KEEP_ALIVE
    price_follows: Final = False
    # aichat takes a body that ends for the whole answer.
    ends_when_broken: Final = False

    def __reduce__(self) -> str:
        return "CHAT"

    def saying(self, text: str) -> dict[str, object]:
        """One message of the user's."""
        return {"messages": [{"role": "user", "content": text}]}

    def parse(self, body: bytes, headers: Mapping[str, str], query: bytes) -> Asked | ErrorReply:
        """Reads a chat; headers and query decide nothing."""
        return parse_chat(body, self)

    def outgoing(self, asked: Asked, *, model: str, ask_usage: bool, mirror_limit: bool) -> bytes:
        """The same bytes, or edited in place."""
        return outgoing_body(
            asked, model=model, include_usage=ask_usage, mirror_max_tokens=mirror_limit
        )

    def reading(self, asked: Asked) -> ChatReading:
        """For one attempt's stream."""
        members: ChatMembers = asked.own
        return ChatReading(choices=asked.choices, asks_usage=members.asks_usage)

    def judge(self, body: bytes, asked: Asked, content_type: str) -> Verdict:
        """What the whole body of a 2xx answer is."""
        return answer.judge(body, content_type=content_type, choices=asked.choices)

    def as_stream(self, answer_body: bytes) -> bytes:
        """One chunk with everything, the usage, `[DONE]`."""
        return answer.as_stream(answer_body)

    def error(self, error: ErrorReply, request_id: str) -> bytes:
        """OpenAI's shape, which is the one errors have here anyway."""
        return error.body()

    def error_event(self, error: ErrorReply, request_id: str) -> bytes:
        """An event without a choice, which every SDK raises for."""
        return error_event(error)


CHAT: Final[Dialect] = Chat()
