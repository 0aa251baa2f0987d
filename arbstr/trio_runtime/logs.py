"""How a line of arbstr's own log looks. One event, one line, on standard error.

    log.info(...) --formatter: time, level, sentence, nothing secret--> line --lines.py--> stderr

Every line of a request bears its id. Known secrets and anything that looks like ecash are taken
out of the finished line, whoever wrote it. Who logs never waits for standard error; `flush_logging`
does, before something else is printed there and before the process ends.
"""

import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Collection, Mapping
from decimal import Decimal
from typing import Final, TypeAlias, final

from arbstr.sansio.moments import format_moment
from arbstr.sansio.routing.catalog import redactor
from arbstr.sansio.secrets import Secret
from arbstr.sansio.visible import escaped
from arbstr.trio_runtime.lines import LineWriter, LogFile, is_journal

log = logging.getLogger(__name__)

FLUSH_SECONDS: Final = 1.0
"""How long a standard error that takes nothing may hold up the end of the process; picked."""

NOISY: Final = ("httpx", "httpcore", "quart", "hypercorn", "hpack", "asyncio")
"""Libraries whose INFO lines name URLs or repeat what arbstr says itself."""


INFORMATION: Final = 6
PRIORITIES: Final[Mapping[int, int]] = {
    logging.CRITICAL: 2,
    logging.ERROR: 3,
    logging.WARNING: 4,
    logging.INFO: INFORMATION,
    logging.DEBUG: 7,
}
"""Of a level, those of syslog(3), by which `journalctl -p warning` finds a line."""

Members: TypeAlias = Callable[[], Mapping[str, object]]
"""Makes what a line of JSON has beside its sentence: texts, numbers, None. A line of text does
without, and makes none."""

_OWN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
"""What every record has; whatever else one bears was given to it as `extra`."""


def _number(value: object) -> int | float | str:
    """JSON's number of an exact one."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return str(value)


def _time(created: float) -> str:
    return format_moment(int(created * 1000))


class _Formatter(logging.Formatter):
    """`worker` is the number of the process, where several serve."""

    def __init__(self, secrets: Collection[Secret], worker: int | None = None) -> None:
        super().__init__()
        self._redact = redactor(secrets)
        self.worker = worker

    def format(self, record: logging.LogRecord) -> str:
        """One line: the sentence, with a traceback behind it if the record carries one."""
        text = record.getMessage()
        if record.exc_info:
            text = f"{text}\n{self.formatException(record.exc_info)}"
        request_id = getattr(record, "request_id", None)

        def extra() -> Mapping[str, object]:
            return {name: value for name, value in vars(record).items() if name not in _OWN}

        return self.line(record.created, record.levelname, record.name, text, request_id, extra)

    def line(
        self,
        created: float,
        level: str,
        name: str,
        text: str,
        request_id: str | None,
        members: Members = dict,
    ) -> str:
        """One line of these parts. `created` is in seconds since 1970.

        `members` makes what the sentence says, by name.
        """
        raise NotImplementedError


@final
class TextFormatter(_Formatter):
    """For a person: time, level, sentence, and at the end the worker and the request's id."""

    def line(
        self,
        created: float,
        level: str,
        name: str,
        text: str,
        request_id: str | None,
        members: Members = dict,
    ) -> str:
        """One line."""
        # The name of a model, which a client chooses, must not be able to forge a line.
        text = escaped(self._redact(text))
        tail = f" request_id={request_id}" if request_id is not None else ""
        if self.worker is not None:
            tail = f" worker={self.worker}{tail}"
        return f"{_time(created)} {level:<7} {text}{tail}"


@final
class JsonFormatter(_Formatter):
    """For a machine: one JSON object a line."""

    def line(
        self,
        created: float,
        level: str,
        name: str,
        text: str,
        request_id: str | None,
        members: Members = dict,
    ) -> str:
        """One line."""
        line: dict[str, object] = {
            "time": _time(created),
            "level": level.lower(),
            "logger": name,
            "message": self._redact(text),
        }
        if self.worker is not None:
            line["worker"] = self.worker
        if request_id is not None:
            line["request_id"] = request_id
        for key, value in members().items():
            line.setdefault(key, self._redact(value) if isinstance(value, str) else value)
        try:
            return json.dumps(line, ensure_ascii=False, allow_nan=False, default=_number)
        except ValueError:  # not a number, or one that JSON does not know
            return json.dumps({key: str(value) for key, value in line.items()})


def log_request(log: logging.Logger, text: str, request_id: str, members: Members = dict) -> None:
    """`log.info(text)` for the line that every request has, without what logging does for others.

    `members` makes the extra ones of a line of JSON.

    Where anybody else listens as well it is log.info. Alone it takes 4 us where log.info takes 9
    (in a loop); it saved about 20 of a plain request's 950 us (on a busy machine; 10 to 45 by run).
    """
    if not log.isEnabledFor(logging.INFO):
        return
    handlers = logging.root.handlers
    if len(handlers) == 1 and isinstance(handlers[0], _LineHandler):
        handlers[0].tell(log.name, text, request_id, members)
    else:
        log.info("%s", text, extra={**members(), "request_id": request_id})


def log_bug(log: logging.Logger, what: str, error: BaseException, **extra: str) -> None:
    """One line for a bug of ours: what it hit, its type and its place, and no more.

    The text of an exception may quote a prompt. At debug level the traceback follows.
    """
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "unknown place"
    log.error(
        "%s: %s at %s",
        what,
        type(error).__name__,
        place,
        extra=extra,
        exc_info=error if log.isEnabledFor(logging.DEBUG) else None,
    )


@final
class _LineHandler(logging.Handler):
    """Never waits for `descriptor`, which belongs to it from now on."""

    def __init__(self, descriptor: int, style: _Formatter) -> None:
        super().__init__()
        self.style = style
        self._is_journal = is_journal(descriptor, os.environ)
        self._file = LogFile(descriptor)
        self._writer = LineWriter(descriptor, self._lost)

    def reopen(self) -> None:
        """Says so where it was needed, or would have been."""
        path = self._file.path
        try:
            if self._file.reopen():
                log.info("the log goes on here: what it was written to was moved")
        except OSError as error:
            what = "the log goes on where it was moved to: %s cannot be opened (%s)"
            log.warning(what, path, error.strerror)

    def tell(self, name: str, text: str, request_id: str, members: Members) -> None:
        """A line of level INFO, now."""
        line = self.style.line(time.time(), "INFO", name, text, request_id, members)
        self._offer(logging.INFO, line)

    def emit(self, record: logging.LogRecord) -> None:
        """Writes the line, or lets it wait its turn."""
        try:
            self._offer(record.levelno, self.style.format(record))
        except Exception:
            self.handleError(record)

    def _offer(self, level: int, line: str) -> None:
        self._writer.offer(level, f"{self._priority(level)}{line}\n")

    def _priority(self, level: int) -> str:
        """What the journal is told of a line; nobody else is."""
        return f"<{PRIORITIES.get(level, INFORMATION)}>" if self._is_journal else ""

    def flush(self) -> None:
        """Waits until all is written, at most `FLUSH_SECONDS`."""
        self._writer.flush(FLUSH_SECONDS)

    def close(self) -> None:
        """The same, for the last time. Python does it when the process ends, if nobody else did."""
        self._writer.close(FLUSH_SECONDS)
        super().close()

    def forked(self, worker: int) -> None:
        """In a child process: its lines bear its number."""
        self._writer.forked()
        self.style.worker = worker

    def _lost(self, count: int) -> str:
        said = "%d lines are missing here: standard error did not take them"
        line = self.style.line(time.time(), "WARNING", __name__, said % count, None)
        return f"{self._priority(logging.WARNING)}{line}\n"


def configure_logging(level: str, style: str, secrets: Collection[Secret]) -> None:
    """Sets up the process's log: level debug, info, warning or error; style text or json."""
    # Nothing here prints the caller's place, thread or process (logging's HOWTO, "Optimization").
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    root = logging.getLogger()
    # Set up again, it keeps its thread, and with it the order of its lines.
    handler = next((each for each in root.handlers if isinstance(each, _LineHandler)), None)
    worker = None if handler is None else handler.style.worker
    kind = JsonFormatter if style == "json" else TextFormatter
    formatter = kind(secrets, worker)
    for other in root.handlers[:]:
        if other is not handler:
            root.removeHandler(other)
            other.close()
    if handler is None:
        root.addHandler(_new_handler(formatter))
    else:
        handler.style = formatter
    root.setLevel(level.upper())
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)


def _new_handler(style: _Formatter) -> logging.Handler:
    try:
        # A duplicate, so that nobody else's closing gives its number to another file.
        return _LineHandler(os.dup(sys.stderr.fileno()), style)
    except (AttributeError, OSError, ValueError):
        # None, because whoever started us closed it; or a test's, which is no file.
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(style)
        return handler


def log_as_worker(number: int) -> None:
    """In a process that was forked to be this worker, before it logs: its lines say so."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _LineHandler):
            handler.forked(number)


def reopen_log() -> None:
    """After a SIGHUP: a log that was moved away is begun anew."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _LineHandler):
            handler.reopen()


def flush_logging() -> None:
    """Waits until standard error has all lines, at most `FLUSH_SECONDS`."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _LineHandler):
            handler.flush()
