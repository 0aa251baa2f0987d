"""The APIs arbstr speaks, by name, and which paths belong to one that it does not.

They are refused in a way that ends the matter: on a 404 Codex asks six times and Claude Code shows
another message, on a 400 whose body is right for OpenAI's and for Anthropic's clients both ask once
and show it. An unknown path that is nobody's stays a 404.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

CHAT: Final = "chat"
PATHS: Final[Mapping[str, str]] = MappingProxyType(
    {
        CHAT: "/chat/completions",
        "responses": "/responses",
        "messages": "/messages",
        "embeddings": "/embeddings",
        "completions": "/completions",
    }
)
"""Where each door is, behind a provider's base URL."""
ENDPOINTS: Final = tuple(PATHS)
"""The names of the doors: in the configuration, in the ledger and in what is told of both."""

OURS: Final = frozenset(
    {"", "chat", "cost", "health", "livez", "models", "providers", "requests", "stats"}
)
"""First segments of arbstr's own routes. What is wrong behind them is a misspelling of ours."""

FOREIGN_PREFIXES: Final = frozenset({"anthropic", "api", "openai", "v1alpha", "v1beta", "v2"})
"""First segments below which another API is, whole: a gateway's, Ollama's, Azure's, Gemini's,
Cohere's."""

RESOURCES: Final = frozenset(
    {
        *("responses", "conversations", "completions", "embeddings", "moderations", "edits"),
        *("audio", "images", "videos", "realtime", "files", "uploads", "batches"),
        *("assistants", "threads", "vector_stores", "containers", "fine_tuning", "fine-tunes"),
        *("engines", "evals", "organization", "skills", "messages", "complete"),
        *("rerank", "score", "tokenize", "detokenize", "infill", "completion", "embedding"),
    }
)
"""First segments, behind `/v1` or without it, of OpenAI's, Anthropic's and the usual servers' own
routes. They are asked with any method, and by clients whose base URL has no `/v1`."""


def is_foreign(method: str, path: str) -> bool:
    """Whether a request would be right for another API; never for a route of ours.

    `path` is decoded and begins with a slash. What is posted below `/v1` is for some API, so there
    the table need not know the name.
    """
    segments = path.removeprefix("/").split("/")
    versioned = len(segments) > 1 and segments[0] == "v1"
    first, *rest = segments[versioned:]
    if not versioned and first in FOREIGN_PREFIXES:
        return True
    match first, rest:
        case "chat", ["completions", stored, *_] if stored:  # not a slash too many
            return True
        case "models", [*_, last]:  # Gemini's, which has a /v1, too
            return method == "POST" and ":" in last
        case _:
            return first in RESOURCES or (versioned and method == "POST" and first not in OURS)
