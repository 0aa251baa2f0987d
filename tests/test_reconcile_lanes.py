"""`arbstr reconcile` alone after a kill: the lanes tell each price, and what is left is shared."""

import json
from pathlib import Path
from typing import Any

import pytest
import trio

from arbstr.cli import commands as cli
from arbstr.trio_runtime.lane_file import open_left_files
from tests.fakes import Behaviour, Request, answer
from tests.test_lanes_killed import FREE, LOST, PAID, Town, killed_while, quick, told, town_in
from tests.test_prices import KEY


@pytest.fixture(autouse=True)
def _nothing_comes_late(monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)
    monkeypatch.setattr("arbstr.cli.reconcile_command.AGAIN_SECONDS", 0.05)


class Reconciled:
    """What the command said of the only provider; `of` is what each attempt has in the ledger."""

    def __init__(self, code: int, said: dict[str, Any], town: Town) -> None:
        self.code, self.said = code, said
        self.of = [(row["money"], row["cost_sats"], row["settled"]) for row in told(town)]


async def reconcile(
    town: Town, capsys: pytest.CaptureFixture[str], *more: str, database: Path | None = None
) -> Reconciled:
    path = town.directory / "config.toml"
    path.write_text(f'{town.text}[database]\npath = "{database or town.ledger}"\n')
    path.chmod(0o600)
    command = ["reconcile", "--json", "-c", str(path), *more]
    with trio.fail_after(60):
        code = await trio.to_thread.run_sync(cli.main, command)
    out = capsys.readouterr().out
    assert "sk-" not in out
    (said,) = json.loads(out)
    return Reconciled(code or 0, said, town)


ONE_BY_ONE = [("spent", 0.5, "lane"), ("free", 0, "lane"), ("spent", 0.5, "lane")]


async def test_each_attempt_gets_what_its_lane_tells(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with town_in(tmp_path) as town:
        await killed_while(town, (PAID, FREE, PAID))
        done = await reconcile(town, capsys)
        assert (done.code, done.said["unknown"], done.said["charged_sats"]) == (0, 0, 1.0)
        assert done.of == ONE_BY_ONE
        settled = [(one["cost_sats"], one["shared"]) for one in done.said["settled"]]
        assert sorted(settled) == [(0.0, False), (0.5, False), (0.5, False)]
        again = await reconcile(town, capsys)
        assert (again.code, again.said["settled"], again.of) == (0, [], ONE_BY_ONE)


async def test_the_lanes_of_every_process_that_is_gone_are_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with town_in(tmp_path) as town:
        await killed_while(town, (PAID, FREE, PAID))
        as_of_another_process(town)
        assert (await reconcile(town, capsys)).of == ONE_BY_ONE


async def test_a_file_that_cannot_be_read_is_said_and_keeps_no_other_from_telling(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    async with town_in(tmp_path) as town:
        await killed_while(town, (PAID, FREE, PAID))
        as_of_another_process(town)
        a_directory_in_its_place(town)
        assert (await reconcile(town, capsys)).of == ONE_BY_ONE
    assert f"the lanes in {town.ledger}.lanes cannot be asked: Is a directory" in caplog.text


def a_directory_in_its_place(town: Town) -> None:
    kept = Path(f"{town.ledger}.lanes")
    kept.unlink()
    kept.mkdir()


@pytest.mark.parametrize("day", [-86_400.0, 86_400.0])
async def test_a_node_whose_clock_jumps_by_a_day_is_believed_by_its_counters_alone(
    day: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with town_in(tmp_path) as town:
        await killed_while(town, (PAID, FREE, LOST))
        clock = town.node.bank.clock
        town.node.bank.clock = lambda: clock() + day
        if day < 0:
            # Nothing is swept away there before tomorrow: until then nobody knows of the last.
            town.node.bank.restart()
        done = await reconcile(town, capsys)
        assert (done.code, done.said["unknown"]) == (0, 0)
        assert done.of == [*ONE_BY_ONE[:2], ("free", 0, "lane")]
        assert town.node.total_spent == 500


def as_of_another_process(town: Town) -> None:
    kept = Path(f"{town.ledger}.lanes")
    kept.rename(f"{town.ledger}.lanes-3")
    kept.touch(0o600)


async def test_nothing_is_shared_out_while_a_lane_is_still_to_tell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with town_in(tmp_path) as town:
        await killed_while(town, (PAID, FREE, LOST))
        with monkeypatch.context() as hurried:
            hurried.setattr("arbstr.cli.reconcile_command.LANES_SECONDS", 0.3)
            done = await reconcile(town, capsys)
        assert done.code == 1
        assert done.said["why"] == "the provider has lanes that are still to tell"
        assert done.of[2] == ("unknown", None, None)
        town.node.bank.restart()
        done = await reconcile(town, capsys)
        assert (done.code, done.of) == (0, [*ONE_BY_ONE[:2], ("free", 0, "lane")])


async def test_what_no_lane_tells_is_left_to_a_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arbstr.cli.reconcile_command.TELLING_SECONDS", 0.3)
    monkeypatch.setattr("arbstr.cli.reconcile_command.LONGEST_SECONDS", 20.0)
    async with town_in(tmp_path, lanes=1) as town:
        await killed_while(town, (PAID,))
        # The node knows its lane no more.
        child, serve = next(iter(town.node.bank.accounts[KEY].children)), town.node.serve

        def does_not_know_it(request: Request) -> Behaviour:
            own = child in (request.header("authorization") or "")
            return answer(401) if own else serve(request)

        monkeypatch.setattr(town.node, "serve", does_not_know_it)
        done = await reconcile(town, capsys, "--wait")
        assert (done.code, done.said["unknown"]) == (0, 0)
    assert done.of == [("spent", 0.5, "checkpoint")]


def test_files_that_a_process_holds_are_not_for_others(tmp_path: Path) -> None:
    beside = str(tmp_path / "arbstr.db")
    assert open_left_files(None) == open_left_files(beside) == ([], [])
    assert not list(tmp_path.iterdir()), "none is made"
    for end in ("", "-2", "-4"):
        (tmp_path / f"arbstr.db.lanes{end}").touch(0o600)
    first, _ = open_left_files(beside)
    assert len(first) == 3
    assert open_left_files(beside) == ([], [])
    for file in first:
        file.close()
