"""How a line of arbstr's own log looks. One event, one line, on standard error.

Every line of a request bears its id. Known secrets and anything that looks like ecash are taken
out of the finished line, whoever wrote it.
"""

import json
import logging
import sys
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Final, final

from arbstr.sansio.catalog import redact
from arbstr.sansio.secrets import Secret

NOISY: Final = ("httpx", "httpcore", "quart", "hypercorn", "hpack", "asyncio")
"""Libraries whose INFO lines name URLs or repeat what arbstr says itself."""


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _Formatter(logging.Formatter):
    def __init__(self, secrets: Collection[Secret]) -> None:
        super().__init__()
        self._secrets = secrets

    def message(self, record: logging.LogRecord) -> str:
        """The sentence, with a traceback behind it if the record carries one."""
        text = record.getMessage()
        if record.exc_info:
            text = f"{text}\n{self.formatException(record.exc_info)}"
        return redact(text, self._secrets)


@final
class TextFormatter(_Formatter):
    """For a person: time, level, sentence, and the request's id at the end."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        request_id = getattr(record, "request_id", None)
        tail = f" request_id={request_id}" if request_id is not None else ""
        return f"{_time(record)} {record.levelname:<7} {self.message(record)}{tail}"


@final
class JsonFormatter(_Formatter):
    """For a machine: one JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self.message(record),
        }
        request_id = getattr(record, "request_id", None)
        if request_id is not None:
            line["request_id"] = request_id
        return json.dumps(line, ensure_ascii=False)


def configure_logging(level: str, style: str, secrets: Collection[Secret]) -> None:
    """Sets up the process's log: level debug, info, warning or error; style text or json."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(secrets) if style == "json" else TextFormatter(secrets))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
