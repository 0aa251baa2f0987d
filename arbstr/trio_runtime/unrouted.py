"""What is said, and logged, where no route takes a request."""

import json
import logging
from typing import Final

from arbstr.sansio.dialects.doors import DOORS
from arbstr.sansio.errors import ErrorReply

log = logging.getLogger("arbstr.app")

REQUEST_ID_KEY: Final = "arbstr.request_id"
"""Key in the `state` of the ASGI scope of what Quart serves."""
MOST_OF_A_PATH: Final = 200
"""Characters of a refused path in the log: a client may send 64 kB of them; picked."""


NO_ROUTE: Final = ErrorReply(
    "not_found",
    "There is no such route here. Models are asked by "
    f"{', '.join(f'POST /v1{door.path}' for door in DOORS.values())}. "
    "The others are GET /v1/models, /v1/stats, /v1/requests, /providers, /health and /livez, "
    "and POST /v1/cost.",
)
UNSUPPORTED: Final = ErrorReply(
    "unsupported_endpoint",
    "arbstr does not speak this API. Point the client at one of those it speaks: "
    f"{', '.join(f'POST /v1{door.path}' for door in DOORS.values())}.",
)


def in_both_shapes(error: ErrorReply, request_id: str) -> bytes:
    """A body that OpenAI's clients read as theirs and Anthropic's as theirs."""
    both = {"type": "error", "error": error.error_object(), "request_id": request_id}
    return json.dumps(both, separators=(",", ":")).encode()


def log_refusal(request_id: str, method: str, path: str, refusal: ErrorReply) -> None:
    """One line for a request that no route takes; it has no row. A query may hold a key."""
    path = path if len(path) <= MOST_OF_A_PATH else f"{path[:MOST_OF_A_PATH]}..."
    extra = {"request_id": request_id, "code": refusal.code}
    log.info("refused: %s for %s %s", refusal.code, method, path, extra=extra)
