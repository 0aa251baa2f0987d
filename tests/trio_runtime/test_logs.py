"""The process's own log: one event, one line, whoever wrote what into it; and nothing secret."""

import errno
import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from decimal import Decimal
from typing import IO, Any, Final

import pytest

from arbstr.cli.output import complain
from arbstr.sansio.secrets import Secret
from arbstr.trio_runtime.logs import (
    NOISY,
    configure_logging,
    flush_logging,
    log_as_worker,
    log_bug,
    log_request,
)

KEY: Final = "sk-canary-0123456789abcdef"
SECRETS: Final = (Secret(KEY), Secret("hunter2"))
TIME: Final = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
CASHU: Final = "cashuAeyJ0b2tlbiI6W3sicHJvb2ZzIjpbXX1dfQ"

log = logging.getLogger("arbstr.test")


class Written:
    """What was written to standard error so far."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self._text = ""

    @property
    def text(self) -> str:
        self._text += self._capsys.readouterr().err
        return self._text


@pytest.fixture
def stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Written]:
    """The process's logging is afterwards as it was before."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    noisy = {name: logging.getLogger(name).level for name in NOISY}
    for name in ("_srcfile", "logThreads", "logProcesses", "logMultiprocessing"):
        monkeypatch.setattr(logging, name, getattr(logging, name))
    yield Written(capsys)
    for ours in set(root.handlers) - set(handlers):
        ours.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, value in noisy.items():
        logging.getLogger(name).setLevel(value)


def lines(written: Written) -> list[str]:
    return written.text.split("\n")[:-1]


def only(written: Written) -> str:
    (line,) = lines(written)
    return line


def objects(text: Written) -> list[Any]:
    return [json.loads(line) for line in lines(text)]


def test_a_line_is_time_level_sentence_and_request_id(stderr: Written) -> None:
    configure_logging("info", "text", ())
    log.info("one %s", "event", extra={"request_id": "r-1"})
    log.warning("no request")
    first, second = lines(stderr)
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO    one event request_id=r-1", first
    )
    assert re.fullmatch(TIME + " WARNING no request", second)


def identity(descriptor: int) -> str:
    """As systemd tells it of the journal."""
    found = os.fstat(descriptor)
    return f"{found.st_dev}:{found.st_ino}"


@pytest.mark.parametrize("style", ["text", "json"])
def test_the_journal_is_told_how_important_a_line_is(
    style: str, stderr: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    with piped() as reader:
        monkeypatch.setenv("JOURNAL_STREAM", identity(sys.stderr.fileno()))
        configure_logging("debug", style, ())
        log_request(log, "one", "r-1")
        read = [reader.readline()]
        for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, 50, 25):
            log.log(level, "another\none")
            read.append(reader.readline())
        complain("it failed")
        sys.stderr.flush()
        read.append(reader.readline())
    assert [line[:3] for line in read] == [f"<{n}>" for n in (6, 7, 6, 4, 3, 2, 6, 3)]
    assert all(line.count("<") == 1 for line in read)


def test_nobody_else_is(stderr: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable is there for whatever a unit starts, redirected or not."""
    with piped() as reader:
        mine = identity(sys.stderr.fileno())
        device, _, inode = mine.partition(":")
        for elsewhere in (f"{device}:{int(inode) + 1}", "", "8:10", "nonsense"):
            monkeypatch.setenv("JOURNAL_STREAM", elsewhere)
            for handler in logging.root.handlers[:]:
                logging.root.removeHandler(handler)
                handler.close()
            configure_logging("info", "text", ())
            log.warning("a line")
            assert re.match(TIME, reader.readline())
            complain("it failed")
            sys.stderr.flush()
            assert reader.readline() == "arbstr: it failed\n"


def test_a_line_of_json_is_one_object(stderr: Written) -> None:
    configure_logging("info", "json", ())
    log.info("one %s", "größe", extra={"request_id": "r-1"})
    log.error("two\nlines")
    first, second = objects(stderr)
    assert re.fullmatch(TIME, first.pop("time"))
    assert first == {
        "level": "info",
        "logger": "arbstr.test",
        "message": "one größe",
        "request_id": "r-1",
    }
    assert second["message"] == "two\nlines"
    assert "request_id" not in second


def test_what_was_given_as_extra_are_members_of_a_line_of_json(stderr: Written) -> None:
    configure_logging("info", "json", SECRETS)
    extra = {
        "request_id": "r-1",
        "model": KEY,
        "provider": None,
        "ms": 12,
        "sats": Decimal("0.50500"),
        "whole": Decimal(3),
        "stream": True,
        "level": "of somebody else",
        "huge": float("inf"),
    }
    log.info("one", extra={name: extra[name] for name in extra if name != "huge"})
    log.info("two", extra=extra)
    first, second = objects(stderr)
    assert (first.pop("time"), first.pop("logger")) != ("", "")
    assert first == {
        "level": "info",
        "message": "one",
        "request_id": "r-1",
        "model": "[REDACTED]",
        "provider": None,
        "ms": 12,
        "sats": 0.505,
        "whole": 3,
        "stream": True,
    }
    assert (second["message"], second["huge"]) == ("two", "inf")


def test_a_line_of_text_makes_no_members(stderr: Written) -> None:
    def never() -> dict[str, object]:
        raise AssertionError("they were made")

    with piped() as reader:
        configure_logging("info", "text", ())
        log_request(log, "one", "r-1", never)
        assert reader.readline().endswith("INFO    one request_id=r-1\n")


@pytest.mark.parametrize(
    "unseen",
    [
        "\u202e",
        "\u2066",
        "\u200b",
        "\u200d",
        "\ufeff",
        "\u2028",
        "\u2029",
        "\x85",
        "\x1b",
        "\U000e0001",
    ],
    ids=ascii,
)
def test_what_nobody_can_see_is_escaped_in_a_line_of_text(unseen: str, stderr: Written) -> None:
    configure_logging("info", "text", ())
    log.info("model=gpt%s-4o", unseen)
    line = only(stderr)
    assert line.isprintable()
    assert f"model=gpt{unseen.encode('unicode_escape').decode()}-4o" in line


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (1_700_000_000.0019, "2023-11-14T22:13:20.001Z"),
        (1_700_000_000.9999, "2023-11-14T22:13:20.999Z"),
    ],
)
def test_the_time_is_utc_to_the_millisecond(moment: float, text: str, stderr: Written) -> None:
    configure_logging("info", "text", ())
    record = log.makeRecord("arbstr", logging.INFO, "", 0, "x", (), None)
    record.created, record.msecs = moment, moment % 1 * 1000
    log.handle(record)
    assert only(stderr).startswith(text)


FORGED: Final = "gpt\n2026-01-01T00:00:00.000Z ERROR   all is lost\r\x1b[2J\x9b31m\u2028\x00\x7f"


def test_nobody_can_forge_a_line_or_move_the_cursor(stderr: Written) -> None:
    configure_logging("info", "text", ())
    log.info("model=%s", FORGED)
    line = only(stderr)
    assert line.isprintable()
    assert r"model=gpt\n2026-01-01" in line
    assert r"lost\r\x1b[2J\x9b31m\u2028\x00\x7f" in line


def test_nobody_can_forge_a_line_of_json(stderr: Written) -> None:
    configure_logging("info", "json", ())
    log.info("model=%s", FORGED)
    assert json.loads(only(stderr))["message"] == f"model={FORGED}"


@pytest.mark.parametrize("style", ["text", "json"])
def test_secrets_and_ecash_are_taken_out_whoever_wrote_them(style: str, stderr: Written) -> None:
    configure_logging("debug", style, SECRETS)
    log.info("key %s", KEY)
    log.info(f"password hunter2 and {KEY}{KEY}")
    logging.getLogger("somebody.else").warning("token %s", CASHU)
    try:
        raise RuntimeError(f"refused {KEY} {CASHU}")
    except RuntimeError as error:
        log.exception("failed with %s", KEY)
        log_bug(log, "it broke", error)
    text = stderr.text
    assert len(lines(stderr)) == 5
    assert "[REDACTED]" in text
    assert not re.search(f"{KEY}|hunter2|{CASHU}|canary|cashu", text)


def test_a_traceback_is_part_of_its_line(stderr: Written) -> None:
    configure_logging("info", "text", ())
    try:
        raise RuntimeError("boom")
    except RuntimeError:
        log.exception("it failed", extra={"request_id": "r-1"})
    line = only(stderr)
    assert r"it failed\nTraceback (most recent call last):\n" in line
    assert line.endswith(r"RuntimeError: boom request_id=r-1")


# ---- bugs of ours


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:
        return caught


def test_a_bug_is_told_by_type_and_place_and_not_by_its_words(stderr: Written) -> None:
    configure_logging("info", "text", ())
    inner = raised(ValueError("what the user typed"))
    log_bug(log, "internal error", inner, request_id="r-1")
    log_bug(log, "internal error", raised(ExceptionGroup("", [ExceptionGroup("", [inner])])))
    first, second = lines(stderr)
    assert re.search(r"internal error: ValueError at \S+test_logs\.py:\d+ request_id=r-1$", first)
    assert re.search(r"internal error: ValueError at \S+test_logs\.py:\d+$", second)
    assert "typed" not in stderr.text


def test_several_bugs_at_once_are_told_as_one(stderr: Written) -> None:
    configure_logging("info", "text", ())
    both = [raised(ValueError()), raised(KeyError())]
    log_bug(log, "internal error", raised(ExceptionGroup("", both)))
    assert "internal error: ExceptionGroup at " in only(stderr)


def test_a_bug_without_a_place_is_told_too(stderr: Written) -> None:
    configure_logging("info", "text", ())
    log_bug(log, "internal error", ValueError())
    assert only(stderr).endswith("ValueError at unknown place")


def test_at_debug_level_a_bug_brings_its_traceback(stderr: Written) -> None:
    configure_logging("debug", "text", ())
    log_bug(log, "internal error", raised(ValueError("words")))
    assert "ValueError: words" in only(stderr)


# ---- setting up


@pytest.mark.parametrize(
    ("level", "seen"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_the_level_decides_what_is_written(level: str, seen: list[str], stderr: Written) -> None:
    configure_logging(level, "json", ())
    for name in ("debug", "info", "warning", "error"):
        getattr(log, name)("x")
    assert [line["level"] for line in objects(stderr)] == seen


def test_libraries_that_name_urls_are_quiet_below_a_warning(stderr: Written) -> None:
    configure_logging("debug", "text", ())
    for name in NOISY:
        logging.getLogger(name).info("GET https://user:pass@host/?key=1")
        logging.getLogger(name).warning("trouble")
    assert len(lines(stderr)) == len(NOISY)


def test_setting_up_again_replaces_the_first(stderr: Written) -> None:
    configure_logging("info", "text", ())
    configure_logging("info", "json", SECRETS)
    log.info(KEY)
    assert json.loads(only(stderr))["message"] == "[REDACTED]"


# ---- a standard error with a file descriptor, as a process has it


@contextmanager
def piped() -> Iterator[IO[str]]:
    """A pipe is standard error; what can be read of it."""
    read, write = os.pipe()
    with os.fdopen(read) as reader, os.fdopen(write, "w") as pipe, redirect_stderr(pipe):
        yield reader


def test_a_line_is_there_before_the_next_thing_happens(stderr: Written) -> None:
    with piped() as reader:
        configure_logging("info", "text", SECRETS)
        log.info("key %s", KEY, extra={"request_id": "r-1"})
        line = reader.readline()
    assert re.fullmatch(TIME + r" INFO    key \[REDACTED\] request_id=r-1\n", line)


def test_the_lines_of_one_of_several_processes_bear_its_number(stderr: Written) -> None:
    with piped() as reader:
        configure_logging("info", "text", ())
        log.info("the parent's")
        log_as_worker(2)
        log.info("one", extra={"request_id": "r-1"})
        log_request(log, "two", "r-2")
        log.info("three")
        said = [reader.readline()[25:] for _ in range(4)]
        configure_logging("info", "json", ())
        log.info("four", extra={"request_id": "r-4"})
        line = json.loads(reader.readline())
    assert said == [
        "INFO    the parent's\n",
        "INFO    one worker=2 request_id=r-1\n",
        "INFO    two worker=2 request_id=r-2\n",
        "INFO    three worker=2\n",
    ]
    assert (line["worker"], line["request_id"], line["message"]) == (2, "r-4", "four")


def test_set_up_again_it_goes_on_with_what_it_had(stderr: Written) -> None:
    with piped() as reader:
        configure_logging("info", "text", ())
        (handler,) = logging.getLogger().handlers
        long = "x" * 200_000  # which the pipe does not take at once
        log.info("%s", long)
        configure_logging("error", "json", SECRETS)
        log.info("not seen")
        log.error("%s", KEY)
        assert logging.getLogger().handlers == [handler]
        assert reader.readline().endswith(f"INFO    {long}\n")
        assert json.loads(reader.readline())["message"] == "[REDACTED]"
        flush_logging()


@pytest.mark.parametrize("style", ["text", "json"])
def test_what_standard_error_did_not_take_is_told(
    style: str, stderr: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with piped() as reader:
        configure_logging("info", style, ())
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            log.info("one")
            log.info("two")
            flush_logging()
        log.info("three")
        told, three = reader.readline(), reader.readline()
    assert "2 lines are missing here: standard error did not take them" in told
    assert "warning" in told.lower()
    assert "three" in three


def test_a_message_that_does_not_fit_its_arguments_disturbs_nobody(
    stderr: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    with piped() as reader:
        configure_logging("info", "text", ())
        log.info("%d", "no number")
        log.info("after")
        assert reader.readline().endswith("after\n")


def test_a_process_without_standard_error_logs_nowhere(stderr: Written) -> None:
    with redirect_stderr(None):
        configure_logging("info", "text", ())
        log.error("one")
        flush_logging()


@pytest.mark.parametrize("style", ["text", "json"])
def test_the_line_of_a_request_is_as_any_other(style: str, stderr: Written) -> None:
    said = f"model=gröss\n{KEY} %s"
    with piped() as reader:
        configure_logging("info", style, SECRETS)
        log.info("%s", said, extra={"request_id": "r-1", "model": said, "sats": Decimal("0.5")})
        log_request(log, said, "r-1", lambda: {"model": said, "sats": Decimal("0.5")})
        expected, line = reader.readline(), reader.readline()
        configure_logging("warning", style, SECRETS)
        log_request(log, said, "r-1")
        log.warning("last")
        assert "last" in reader.readline()
    assert re.sub(TIME, "", line) == re.sub(TIME, "", expected)
    assert re.search(TIME, line)
    assert "[REDACTED]" in line


def test_the_line_of_a_request_is_seen_by_whoever_listens(
    stderr: Written, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with piped() as reader:
        configure_logging("info", "text", ())
        logging.getLogger().addHandler(caplog.handler)
        log_request(log, "100 %s", "r-1")
        assert reader.readline().endswith("INFO    100 %s request_id=r-1\n")
    (record,) = caplog.records
    assert (record.getMessage(), vars(record)["request_id"]) == ("100 %s", "r-1")
