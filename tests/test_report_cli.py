"""`arbstr stats` and `arbstr requests`: what a person asks, and reads.

The README shows what they print about the ledger `a_week()`. To renew it after a change:
`ARBSTR_WRITE_README=1 python -m pytest tests/test_report_cli.py`.
"""

import json
import os
import re
import shlex
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest

from arbstr import cli
from arbstr.sansio.moments import HOUR_MS, format_moment, parse_moment
from arbstr.sansio.reports import REQUESTS_PARAMETERS, STATS_PARAMETERS
from tests.ledgers import Row, attempt, request, write_ledger
from tests.process import arbstr_process, clean_environ, run_arbstr

README = Path(__file__).parents[1] / "README.md"

CONFIG = """
[database]
path = "ledger/here.db"
[[providers]]
name = "alpha"
url = "${ALPHA_URL}"
api_key = "${ALPHA_KEY}"
models = ["gpt-4o"]
"""


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty directory and an environment without settings."""
    monkeypatch.chdir(tmp_path)
    for name in {*os.environ} - {*clean_environ()} | {"COLUMNS", "NO_COLOR", "FORCE_COLOR"}:
        monkeypatch.delenv(name, raising=False)


class Asked:
    """What a command printed, and its exit code."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err

    @property
    def json(self) -> Any:
        assert (self.code, self.err) == (0, ""), self.err
        return json.loads(self.out)


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> "Ask":
    return Ask(capsys)


class Ask:
    """Runs a command in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Asked:
        self._capsys.readouterr()
        try:
            code = cli.main(arguments)
        except SystemExit as ended:
            code = int(ended.code or 0)
        printed = self._capsys.readouterr()
        return Asked(code, printed.out, printed.err)


# -- a ledger to show


def a_week() -> Iterator[Row]:
    """Some days of a person who writes code with two providers."""
    begin = parse_moment("2026-02-02T08:00")
    assert begin is not None
    for n in range(60):
        moment = begin + n * HOUR_MS * 5 // 2 + n * n % 7 * 600_000 + n * 7919 % 60_000
        timestamp = format_moment(moment)
        if timestamp[:10] == "2026-02-07":
            continue  # a day off
        yield one_of_a_week(n, timestamp)


def one_of_a_week(n: int, timestamp: str) -> Row:
    model = "claude-3.5-sonnet" if n % 4 == 1 else "gpt-4o"
    provider = "beta" if n % 3 == 0 else "alpha"
    tokens_in, tokens_out = 400 + n * 37 % 900, 100 + n * 53 % 700
    cost = round((tokens_in * 5 + tokens_out * 15) / 1000 + 1, 6)
    common: dict[str, Any] = {
        "timestamp": timestamp,
        "model": model,
        "provider": provider,
        "policy": "code_generation" if n % 2 else None,
        "streaming": n % 5 > 0,
        "latency_ms": 900 + n * n * 13 % 5000,
        "ttft_ms": 300 + n * 11 % 400 if n % 5 else None,
        "input_tokens": tokens_in,
        "output_tokens": tokens_out,
        "cost_sats": cost,
        "estimated_cost_sats": cost + 1,
    }
    unknown: dict[str, Any] = dict.fromkeys(("input_tokens", "output_tokens", "cost_sats", "ttft_ms"))
    correlation_id = f"{n * 2654435761 % 2**32:08x}-5b1c-4e5d-9c3f-{n:012x}"
    answer = attempt(
        provider=provider,
        model=model,
        started_at=timestamp,
        duration_ms=common["latency_ms"] - 4,
        input_tokens=tokens_in,
        output_tokens=tokens_out,
        cost_sats=cost,
        estimated_cost_sats=cost + 1,
    )
    lost = {**answer, **dict.fromkeys(("input_tokens", "output_tokens", "cost_sats", "http_status"))}
    lost |= {"provider": "alpha", "failure": "no_answer", "money": "unknown"}
    down = lost | {"failure": "server_error", "http_status": 503, "money": "free"}
    match n:
        case 56:
            error = {"error_status": 424, "error_message": "The request may have been paid for."}
            return request(
                correlation_id, status="failed", tries=[lost], **common | unknown | error
            )
        case 57:
            return request(correlation_id, tries=[down, down, answer], **common)
        case 33:
            return request(correlation_id, tries=[lost, answer], **common)
        case 21:
            return request(
                correlation_id,
                status="rejected",
                **common | unknown | {"provider": None, "latency_ms": 1},
            )
        case 40:
            return request(correlation_id, tries=[answer], **common | unknown)
        case _:
            return request(correlation_id, tries=[answer], **common)


def shown_commands() -> Mapping[str, str]:
    """The commands of the README and what it says they print."""
    blocks = re.findall(
        r"```console\n\$ (arbstr (?:stats|requests)[^\n]*)\n(.*?)```", README.read_text("utf-8"), re.S
    )
    return dict(blocks)


def test_the_readme_shows_what_the_commands_print(ask: Ask) -> None:
    write_ledger(Path("arbstr.db"), a_week())
    with closing(sqlite3.connect("arbstr.db")) as connection, connection:
        connection.execute("INSERT INTO token_ratios VALUES ('code_generation', 0.418, 26)")
        connection.execute("INSERT INTO token_ratios VALUES ('', 0.37, 12)")
    shown = shown_commands()
    assert len(shown) >= 3
    text = README.read_text("utf-8")
    for command, output in shown.items():
        done = ask(*shlex.split(command)[1:])
        assert (done.code, done.err) == (0, "")
        printed = "".join(f"{line.rstrip()}\n" for line in done.out.splitlines())
        if os.environ.get("ARBSTR_WRITE_README"):
            before = f"$ {command}\n{output}```"
            assert text.count(before) == 1
            text = text.replace(before, f"$ {command}\n{printed}```")
        else:
            assert output == printed
    if os.environ.get("ARBSTR_WRITE_README"):
        README.write_text(text, "utf-8")
