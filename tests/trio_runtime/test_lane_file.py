"""The file of lanes: for its owner alone, one process's own, and forgiving."""

import stat
from pathlib import Path

import pytest

from arbstr.trio_runtime import lane_file
from arbstr.trio_runtime.lane_file import open_lane_file

ONE, TWO, THREE = (f"sk-{letter * 64}" for letter in "abc")


def test_keys_are_kept_for_their_parent_and_found_again(tmp_path: Path) -> None:
    beside = str(tmp_path / "arbstr.db")
    file = open_lane_file(beside)
    file.keep("alpha", "parent", [ONE, TWO])
    file.keep("beta", "another", [THREE])
    assert (file.of("parent"), file.of("another"), file.of("nobody")) == ([ONE, TWO], [THREE], [])
    file.close()
    again = open_lane_file(beside)
    assert again.of("parent") == [ONE, TWO]
    again.close()


def test_a_closed_one_is_of_no_use_and_counts_among_those_that_were_made(tmp_path: Path) -> None:
    beside = str(tmp_path / "arbstr.db")
    file = open_lane_file(beside)
    file.keep("alpha", "parent", [ONE, TWO])
    file.leave("alpha", "parent", ONE)
    file.keep("alpha", "parent", [ONE])
    file.close()
    again = open_lane_file(beside)
    assert (again.of("parent"), again.made("parent"), again.made("nobody")) == ([TWO], 2, 0)
    again.close()


def test_only_its_owner_may_read_it_whoever_made_it(tmp_path: Path) -> None:
    path = tmp_path / "arbstr.db.lanes"
    path.touch(0o644)
    open_lane_file(str(tmp_path / "arbstr.db")).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_another_process_takes_the_next_and_whoever_comes_later_the_first(tmp_path: Path) -> None:
    beside = str(tmp_path / "arbstr.db")
    first, second = open_lane_file(beside), open_lane_file(beside)
    first.keep("alpha", "parent", [ONE])
    second.keep("alpha", "parent", [TWO])
    assert (first.of("parent"), second.of("parent")) == ([ONE], [TWO])
    first.close()
    third = open_lane_file(beside)
    assert third.of("parent") == [ONE]
    for file in (second, third):
        file.close()
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "arbstr.db.lanes",
        "arbstr.db.lanes-2",
    ]


def test_so_many_processes_are_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane_file, "MOST_FILES", 1)
    beside = str(tmp_path / "arbstr.db")
    first = open_lane_file(beside)
    with pytest.raises(OSError, match="other processes use all files of lanes"):
        open_lane_file(beside)
    first.close()


def test_what_is_no_line_of_ours_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "arbstr.db.lanes"
    path.write_bytes(
        b'nonsense\n[1]\n{"parent": 1, "key": 2}\n' + b"[" * 100_000 + b'\n\xff\n{"parent": "p'
    )
    file = open_lane_file(str(tmp_path / "arbstr.db"))
    file.keep("alpha", "parent", [ONE])
    assert file.of("parent") == [ONE]
    file.close()


def test_a_ledger_in_memory_keeps_none() -> None:
    file = open_lane_file(None)
    file.keep("alpha", "parent", [ONE])
    assert file.of("parent") == []
    file.close()
