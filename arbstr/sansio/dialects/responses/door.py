"""The door itself: all that is asked of Responses, see `dialect.py`."""

from collections.abc import Mapping
from typing import Final, final

from arbstr.sansio.dialects.dialect import Asked, Dialect, Verdict
from arbstr.sansio.dialects.request import with_model
from arbstr.sansio.dialects.responses import answer, request
from arbstr.sansio.dialects.responses.events import Reading, broken_end
from arbstr.sansio.errors import ErrorReply


@final
class Responses:
    """POST /v1/responses."""

    __slots__ = ()

    name: Final = "responses"
    path: Final = "/responses"
    limit_member: Final = "max_output_tokens"
    id_header: Final = None
    silence: Final = b": keep-alive\n\n"
    price_follows: Final = False
    # Every client run sees the two events at the end.
    ends_when_broken: Final = True

    def __reduce__(self) -> str:
        return "RESPONSES"

    def saying(self, text: str) -> dict[str, object]:
        """A text of the user's."""
        return {"input": text}

    def parse(self, body: bytes, headers: Mapping[str, str], query: bytes) -> Asked | ErrorReply:
        """Reads a request; headers and query decide nothing."""
        return request.parse(self, body)

    def outgoing(self, asked: Asked, *, model: str, ask_usage: bool, mirror_limit: bool) -> bytes:
        """The same bytes, or the model edited in place: usage always comes, and a Routstr node
        reserves by `max_output_tokens` itself."""
        return with_model(asked, model)

    def reading(self, asked: Asked) -> Reading:
        """For one attempt's stream."""
        return Reading()

    def judge(self, body: bytes, asked: Asked, content_type: str) -> Verdict:
        """What the whole body of a 2xx answer is."""
        return answer.judge(body, content_type)

    def as_stream(self, answer_body: bytes) -> bytes:
        """Each item with its texts whole, between `response.created` and the last event."""
        return answer.as_stream(answer_body)

    def error(self, error: ErrorReply, request_id: str) -> bytes:
        """OpenAI's shape, which is the one errors have here anyway."""
        return error.body()

    def error_event(self, error: ErrorReply, request_id: str) -> bytes:
        """The end of a broken stream, of which nothing came before."""
        return broken_end(error, 0)


RESPONSES: Final[Dialect] = Responses()
