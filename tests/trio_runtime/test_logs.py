"""The process's own log: one event, one line, whoever wrote what into it; and nothing secret."""

import json
import logging
import re
from collections.abc import Iterator
from typing import Any, Final

import pytest

from arbstr.sansio.secrets import Secret
from arbstr.trio_runtime.logs import NOISY, configure_logging, log_bug

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
    for name in ("logThreads", "logProcesses", "logMultiprocessing"):
        monkeypatch.setattr(logging, name, getattr(logging, name))
    yield Written(capsys)
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
