"""What is asked of `arbstr run --mock` can be shown afterwards, and is nobody else's."""

import os
import tempfile
from pathlib import Path

import pytest

from arbstr.cli import mock_ledger
from arbstr.cli.commands import main
from arbstr.trio_runtime.ledger.boot_lock import BootLock
from arbstr.trio_runtime.ledger.database import IN_MEMORY
from tests.ledgers import request, write_ledger
from tests.process import ONE, arbstr_process, clean_environ, write_config


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory for temporary files of this test's own; it stands in another."""
    for name in ("tmp", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr("os.environ", {**clean_environ(), "TMPDIR": str(tmp_path / "tmp")})
    return tmp_path / "tmp"


def test_what_the_mocks_were_asked_is_shown_in_minute_one(
    tmp_path: Path, temporary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    environ = {"TMPDIR": str(temporary)}
    here = tmp_path / "here"
    with arbstr_process(arguments=["--mock"], environ=environ, directory=here) as process:
        request_id = process.chat("gpt-4o").headers["x-arbstr-request-id"]
        while process.ask("GET", f"/v1/requests/{request_id}").status_code == 404:
            pass
        assert main(["stats"]) == 0  # while it runs, and
        assert process.stop() == 0
    printed = capsys.readouterr()
    assert "1 request: 1 answered" in printed.out
    assert printed.err == (
        f"arbstr: there is no {here}/arbstr.db yet; these are the requests of `arbstr run --mock`\n"
    )
    assert main(["requests", "--mock", request_id]) == 0  # after it
    assert "mock-cheap" in capsys.readouterr().out
    assert [*here.iterdir()] == []
    (directory,) = temporary.iterdir()
    if os.name == "posix":
        assert {each.stat().st_mode & 0o077 for each in (directory, *directory.iterdir())} == {0}


def made(name: str) -> Path:
    path = Path(mock_ledger.begin())
    return write_ledger(path, [request(name)])


def test_a_ledger_of_one_s_own_is_never_mixed_with_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made("of the mock")
    write_config(Path(), ONE)
    write_ledger(Path("arbstr.db"), [request("mine one"), request("mine two")])
    week = ("--since", "2026-02-02", "--until", "2026-02-09")
    assert main(["stats", *week]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("2 requests: ")
    assert printed.err == ""
    assert main(["stats", "--mock", *week]) == 0
    assert capsys.readouterr().out.startswith("1 request: ")
    # Nor is it shown to who stands elsewhere, unless it is asked for.
    monkeypatch.chdir(tmp_path)
    assert main(["stats", *week]) == 1
    assert "there is no such file yet" in capsys.readouterr().err
    assert main(["stats", "--mock", *week]) == 0


def test_the_newest_is_shown_and_those_that_nobody_has_are_swept(temporary: Path) -> None:
    old, living, newest = made("old"), made("living"), made("newest")
    assert mock_ledger.latest(anywhere=True) == str(newest)
    for path in (old, living):
        os.utime(path, (1, 1))
    lock = BootLock(str(living), "boot")
    lock.acquire()
    Path(f"{old}.intents-x-1").touch()
    assert not Path(mock_ledger.begin()).exists()
    assert {each.name.partition(".lock")[0] for each in old.parent.iterdir()} == {
        *(living.name, newest.name),
    }
    lock.release()


def test_without_any_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stats", "--mock"]) == 1
    assert "no `arbstr run --mock` was here" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="a mode is POSIX's")
def test_a_directory_of_somebody_else_s_is_not_trusted(temporary: Path) -> None:
    directory = Path(mock_ledger.begin()).parent
    directory.chmod(0o755)
    assert mock_ledger.begin() == IN_MEMORY
    assert mock_ledger.latest(anywhere=True) is None
    directory.rmdir()
    directory.symlink_to(temporary)
    assert mock_ledger.begin() == IN_MEMORY
