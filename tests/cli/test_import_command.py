"""`arbstr import`: rows of a log put back into the ledger, and what is said of the others."""

import io
import os
from dataclasses import replace
from pathlib import Path

import pytest

from arbstr.cli.commands import main
from arbstr.sansio.ledger.dropped import dropped_text
from tests.ledgers import request, write_ledger
from tests.process import ONE, clean_environ, write_config
from tests.records import RECORD

ROWS = [f"ERROR {dropped_text(replace(RECORD, correlation_id=name))}" for name in ("aaaa", "bbbb")]


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.environ", clean_environ())
    write_ledger(tmp_path / "arbstr.db", [request("aaaa")])


def test_a_log_is_read_and_its_rows_are_there_afterwards(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("a.log").write_bytes(b"\xff other\n" + "\n".join(ROWS).encode() + b"\nmore")
    ledger = tmp_path / "arbstr.db"
    assert main(["import", "a.log"]) == 0
    assert capsys.readouterr().out == f"1 row put into {ledger}; there already: 1\n"
    assert main(["import", "a.log"]) == 0
    assert capsys.readouterr().out == f"0 rows put into {ledger}; there already: 2\n"
    assert main(["requests", "bbbb"]) == 0
    assert "0.13" in capsys.readouterr().out


def test_the_configuration_says_which_ledger_and_a_dash_is_standard_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_config(tmp_path, f'[database]\npath = "other.db"\n{ONE}')
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("\n".join(ROWS).encode())))
    assert main(["import", "-c", str(path), "-"]) == 0
    assert capsys.readouterr().out.startswith(f"2 rows put into {tmp_path / 'other.db'}; ")
    assert os.stat("other.db").st_mode & 0o077 == 0


def test_what_cannot_be_read_has_a_line_and_holds_up_no_other(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("a.log").write_text(f"{ROWS[1][:-9]}\n{ROWS[1]}\n")
    assert main(["import", "a.log"]) == 1
    printed = capsys.readouterr()
    assert printed.out.startswith("1 row put into ")
    assert printed.err == "arbstr: a.log: the row dropped in line 1 is cut off, or no JSON\n"


def test_where_there_is_nothing_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.log").write_text("2026-02-03T04:05:06.789Z INFO    stopped\n")
    assert main(["import", "a.log"]) == 0
    assert "no line `row dropped: {...}` in a.log" in capsys.readouterr().out
    assert main(["import", "none.log"]) == 1
    assert (
        capsys.readouterr().err == "arbstr: none.log: cannot be read: No such file or directory\n"
    )
    assert main(["import", "."]) == 1
    assert "Is a directory" in capsys.readouterr().err


def test_a_ledger_in_memory_takes_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "DATABASE_URL", ":memory:")
    assert main(["import", "a.log"]) == 1
    assert "kept in memory" in capsys.readouterr().err
