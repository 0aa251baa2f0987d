"""A whole process whose standard error takes nothing: it serves, and it ends."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGTERM
from typing import IO, Final, final

import httpx
import pytest

from tests.process import ONE, PATIENCE, arbstr_process, begin, chat_body, wait_until
from tests.zygote import Process

RUN: Final = ("run", "--mock", "-l", "127.0.0.1:0")
REQUESTS: Final = 5


@final
class Served:
    """A running arbstr, asked over HTTP."""

    def __init__(self, process: Process, stdout: IO[str]) -> None:
        self.process = process
        line = next(line for line in stdout if "OPENAI_BASE_URL=" in line)
        self.url = line.partition("OPENAI_BASE_URL=")[2].strip()

    def answers(self) -> list[int]:
        """Asks a few times; the codes of the answers."""
        with httpx.Client(trust_env=False, timeout=PATIENCE) as client:
            url = f"{self.url}/chat/completions"
            return [client.post(url, json=chat_body()).status_code for _ in range(REQUESTS)]

    def stop(self, *signals: int) -> int:
        for number in signals:
            self.process.send_signal(number)
        return self.process.wait(PATIENCE)


@contextmanager
def served(stderr: int | IO[bytes], prefix: Sequence[str] = ()) -> Iterator[Served]:
    """`arbstr run --mock` with this standard error."""
    reading, writing = os.pipe()
    with os.fdopen(reading) as stdout:
        with os.fdopen(writing) as its_end:
            process = begin(RUN, Path.cwd(), stdout=its_end, stderr=stderr, prefix=prefix)
        try:
            yield Served(process, stdout)
        finally:
            process.kill()
            process.wait()


@final
class Pipe:
    """A pipe that takes nothing more, as when a `less` that reads it is left alone."""

    def __init__(self) -> None:
        reader, end = os.pipe()
        self.reader, self.end = os.fdopen(reader, "rb", 0), os.fdopen(end, "wb", 0)
        os.set_blocking(end, False)
        for piece in (b"#" * 4096, b"#"):
            with suppress(BlockingIOError):
                while os.write(end, piece):
                    pass
        os.set_blocking(end, True)

    def read_to_end(self) -> str:
        """To where the last who could write is gone."""
        self.end.close()
        return self.reader.readall().replace(b"#", b"").decode()


@pytest.fixture
def stuffed() -> Iterator[Pipe]:
    pipe = Pipe()
    with pipe.reader, pipe.end:
        yield pipe


def test_where_nobody_reads_requests_are_answered_and_the_end_comes(stuffed: Pipe) -> None:
    with served(stuffed.end) as arbstr:
        assert arbstr.answers() == [200] * REQUESTS
        assert arbstr.stop(SIGTERM) == 0


def test_two_signals_end_it_too(stuffed: Pipe) -> None:
    with served(stuffed.end) as arbstr:
        assert arbstr.answers() == [200] * REQUESTS
        assert arbstr.stop(SIGINT, SIGINT) in (0, 130)  # it may be gone before the second


def test_who_reads_again_has_every_line(stuffed: Pipe) -> None:
    with served(stuffed.end) as arbstr:
        assert arbstr.answers() == [200] * REQUESTS
        arbstr.process.send_signal(SIGTERM)
        lines = stuffed.read_to_end().splitlines()
        assert arbstr.stop() == 0
    assert sum(" INFO    plain model=" in line for line in lines) == REQUESTS
    assert lines[-1].endswith(" stopped")


def test_where_nobody_can_read_any_more_it_goes_on(stuffed: Pipe) -> None:
    stuffed.reader.close()
    with served(stuffed.end) as arbstr:
        assert arbstr.answers() == [200] * REQUESTS
        assert arbstr.stop(SIGTERM) == 0


def test_without_a_standard_error_it_goes_on() -> None:
    closed = ("/bin/sh", "-c", 'exec "$@" 2>&-', "sh")
    with served(subprocess.DEVNULL, closed) as arbstr:
        assert arbstr.answers() == [200] * REQUESTS
        assert arbstr.stop(SIGTERM) == 0


def test_a_line_of_json_says_in_members_what_the_row_says() -> None:
    text = f'[logging]\nformat = "json"\n[retry]\nmax_retries = 0\n{ONE}'
    with arbstr_process(config_text=text) as process:
        assert process.chat("m").status_code == 502
        assert process.chat("other").status_code == 404
        assert process.ask("POST", "/v1/chat/completions", content=b"{").status_code == 400
        assert process.stop() == 0
        rows = process.rows()
        lines = [json.loads(line) for line in process.stderr().splitlines()]
    finished = [line for line in lines if "ms" in line]
    assert [line["status"] for line in finished] == [row["status"] for row in rows]
    assert [line["model"] for line in finished] == [row["model"] for row in rows]
    assert [line["request_id"] for line in finished] == [row["correlation_id"] for row in rows]
    assert [line["http"] for line in finished] == [502, 404]
    assert finished[0]["sats"] == 0
    (failed,) = [line for line in lines if "failure" in line]
    assert (failed["provider"], failed["failure"]) == ("alpha", "not_sent")
    (malformed,) = [line for line in lines if line.get("code") == "malformed_json"]
    assert malformed["status"] == "rejected"


def test_a_file_is_rotated_as_logrotate_does_with_copytruncate(tmp_path: Path) -> None:
    """It is appended to, as `2>>` does: the rest of it begins at the beginning, without a hole."""
    log, rotated = tmp_path / "arbstr.log", tmp_path / "arbstr.log.1"

    def requests(part: Path) -> int:
        return part.read_bytes().count(b"model=gpt-4o")

    with log.open("ab") as opened, served(opened) as arbstr:
        arbstr.answers()
        wait_until(lambda: requests(log) == REQUESTS, "a line for each")
        rotated.write_bytes(log.read_bytes())
        os.truncate(log, 0)
        arbstr.answers()
        assert arbstr.stop(SIGTERM) == 0
    assert (requests(rotated), requests(log)) == (REQUESTS, REQUESTS)
    assert b"\0" not in log.read_bytes()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux says what it is called")
def test_a_file_that_was_moved_is_begun_anew_at_a_sighup(tmp_path: Path) -> None:
    log, rotated = tmp_path / "arbstr.log", tmp_path / "arbstr.log.1"

    def requests(part: Path) -> int:
        return part.read_bytes().count(b"model=gpt-4o") if part.exists() else 0

    with log.open("ab") as opened, served(opened) as arbstr:
        arbstr.answers()
        wait_until(lambda: requests(log) == REQUESTS, "a line for each")
        log.rename(rotated)
        arbstr.process.send_signal(SIGHUP)
        wait_until(log.exists, "one of its name")
        arbstr.answers()
        assert arbstr.stop(SIGTERM) == 0
    assert (requests(rotated), requests(log)) == (REQUESTS, REQUESTS)
    assert b"the log goes on here" in log.read_bytes().splitlines()[0]
