"""What the drivers have in common: `python -m tests.clients.drive_NAME BASE_URL` asks every case of
cases.json and prints a JSON object, case -> what the client made of it.

A driver uses its client as that client's own documentation says, and catches nothing: an exception
is noted by its class, with the classes it is derived from, and what a person would read.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, final

TOOLS: Final[list[dict[str, Any]]] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Tells the weather.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]


@final
@dataclass(frozen=True)
class Case:
    """One way to ask."""

    model: str
    stream: bool = False
    usage: bool = False
    tools: bool = False


@final
@dataclass(frozen=True)
class Said:
    """What came back: text, calls as [name, arguments], tokens as [input, output]."""

    text: str
    tools: list[list[Any]]
    usage: list[int | None] | None


def drive(ask: Callable[[str, Case], Said]) -> None:
    cases = json.loads((Path(__file__).parent / "cases.json").read_text("utf-8"))
    found: dict[str, dict[str, Any]] = {}
    for name, case in cases.items():
        try:
            found[name] = asdict(ask(sys.argv[1], Case(**case)))
        except Exception as error:
            classes = [kind.__name__ for kind in type(error).__mro__]
            found[name] = {"error": classes, "message": str(error)}
    print(json.dumps(found))
