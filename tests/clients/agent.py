"""What the agents have in common: each does a task with a tool `look(place)` and prints one line of
JSON: `{"text": ...}`, or `{"error": ...}` with what a person would read."""

import json
from collections.abc import Callable


def report(work: Callable[[], str]) -> None:
    """Prints what came of it."""
    try:
        print(json.dumps({"text": work()}))
    except Exception as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}))
