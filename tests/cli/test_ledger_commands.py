"""What a person reads of a ledger is the same text on both engines, byte for byte."""

import os
import time
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from arbstr.cli.commands import main
from arbstr.sansio.ledger.reports import Group
from arbstr.trio_runtime.ledger.database import open_database
from tests.postgres import PostgresServer
from tests.process import clean_environ
from tests.trio_runtime.ledger.test_reports import Dice, write

pytest.importorskip("psycopg", reason="pip install -e '.[dev]' brings it")

CONFIG: Final = """
[budget]
sats_per_day = 1000
[[providers]]
name = "alpha"
url = "http://127.0.0.1:9/v1"
api_key = "${ALPHA_KEY}"
models = ["gpt-4o"]
input_rate = 1
output_rate = 2
"""

NOON: Final = 1_770_120_000
"""2026-02-03T12:00Z, a day of the dice."""

SPAN: Final = ("--since", "2026-02-01", "--until", "2026-02-10")

QUESTIONS: Final = (
    ("stats",),
    ("stats", *SPAN),
    ("stats", *SPAN, "--json"),
    ("stats", *SPAN, "--csv"),
    *(("stats", *SPAN, "--group-by", group.value) for group in Group),
    ("stats", *SPAN, "--group-by", "model", "--csv"),
    ("stats", *SPAN, "--group-by", "day,model"),
    ("stats", *SPAN, "--local", "--group-by", "hour"),
    ("stats", "--range", "last_24h"),
    ("stats", *SPAN, "--model", "gpt-4o"),
    ("stats", *SPAN, "--provider", "nobody"),
    ("requests",),
    ("requests", *SPAN),
    ("requests", *SPAN, "--json"),
    ("requests", *SPAN, "--sort", "cost_sats"),
    ("requests", *SPAN, "--sort", "latency_ms", "--order", "asc", "--per-page", "7"),
    ("requests", *SPAN, "--success", "false"),
    ("requests", *SPAN, "--status", "in_flight"),
    *(("requests", f"id-{n}") for n in (1, 3, 5, 6, 8)),
    ("requests", "id-3", "--json"),
    ("requests", "id"),
    ("requests", "nothing-such"),
    ("reconcile",),
    ("reconcile", "--json"),
    ("cost", "-m", "gpt-4o", "--text", "Hello"),
    ("cost", "-m", "gpt-4o", "--text", "Hello", "--json"),
    ("providers",),
)


def test_every_command_that_asks_prints_the_same_on_both_engines(
    postgres: PostgresServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in {*os.environ} - {*clean_environ()} | {"COLUMNS", "NO_COLOR", "FORCE_COLOR"}:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("ALPHA_KEY", "sk-of-a-test")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.toml").write_text(CONFIG)
    file, url = str(tmp_path / "arbstr.db"), postgres.url("text")

    async def fill() -> None:
        async with open_database(file) as database:
            ledger: Any = Dice(7).ledger(80)
            await database.transaction(lambda session: write(session, ledger))

    trio.run(fill)
    assert main(["migrate", "--from", file, "--to", url]) == 0
    monkeypatch.setattr(time, "time", lambda: float(NOON))
    monkeypatch.setattr(time, "time_ns", lambda: NOON * 10**9)
    capsys.readouterr()

    def said(question: tuple[str, ...], place: str) -> tuple[int, str, str]:
        monkeypatch.setenv("DATABASE_URL", place)
        try:
            code = main(list(question))
        except SystemExit as left:
            code = int(left.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    both = {question: (said(question, file), said(question, url)) for question in QUESTIONS}
    refused = [question for question, (of_file, _) in both.items() if of_file[0] == 2]
    assert refused == [("requests", "id")]
    assert sum(code == 0 for (code, _, _), _ in both.values()) >= 25
    for question, (of_file, of_server) in both.items():
        assert of_server == of_file, question
