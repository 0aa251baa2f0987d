"""Lanes that cannot be made: said once, tried again, and never more keys than are kept."""

import errno
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from arbstr.trio_runtime.lane_file import LaneFile, open_lane_file
from tests.fakes import Behaviour, Request, answer, json_answer
from tests.node import Node
from tests.test_lanes import keys_of, serving, wait_free
from tests.test_prices import KEY
from tests.waiting import until

CHILDREN = "/v1/balance/child-key"
ONE = "sk-" + "a" * 64


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("arbstr.trio_runtime.lanes.AGAIN_SECONDS", 0.01)
    monkeypatch.setattr("arbstr.trio_runtime.lanes.LONGEST_SECONDS", 0.01)
    monkeypatch.setattr("arbstr.trio_runtime.lanes.GATHER_SECONDS", 0.0)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [text for record in caplog.records if "lanes" in (text := record.getMessage())]


class Withholding:
    """A node that answers in another way at a path until it is `mended`."""

    def __init__(self, path: str, how: Callable[[], Behaviour]) -> None:
        self.node = Node()
        self.path = path
        self.how = how
        self.refused = 0
        self.mended = False

    def serve(self, request: Request) -> Behaviour:
        if request.path != self.path or self.mended:
            return self.node.serve(request)
        self.refused += 1
        return self.how()


def made(*keys: object) -> Callable[[], Behaviour]:
    return lambda: json_answer({"api_keys": list(keys), "count": len(keys), "cost_msats": 0})


@pytest.mark.parametrize(
    ("path", "how", "why"),
    [
        (CHILDREN, lambda: json_answer({"detail": "no money"}, 402), "answered status 402"),
        (CHILDREN, made(), "answered status 200 where child keys are made"),
        (CHILDREN, made(ONE, ONE), "answered status 200 where child keys are made"),
        (CHILDREN, made(ONE, KEY), "answered status 200 where child keys are made"),
        (CHILDREN, made(*(f"sk-{n:064x}" for n in range(9))), "answered status 200"),
        ("/v1/info", lambda: answer(500, b"?"), "answered status 500 at /info"),
        ("/v1/info", lambda: answer(200, b"<html>", content_type="text/html"), "no child keys"),
        ("/v1/info", lambda: json_answer({"child_key_cost_msats": "0"}), "no child keys"),
        ("/v1/info", lambda: json_answer({"child_key_cost_msats": -1}), "no child keys"),
        ("/v1/info", lambda: json_answer({"child_key_cost_msats": 0.0}), "no child keys"),
        ("/v1/info", lambda: json_answer({"child_key_cost_msats": True}), "no child keys"),
        ("/v1/info", lambda: answer(200, b'{"child_key_cost_msats": 1e400}'), "no child keys"),
        ("/v1/info", lambda: answer(200, b"[" * 100_000), "no child keys"),
        ("/v1/info", lambda: answer(200, b" " * 5_000_000), "gets no lanes: it "),
    ],
)
async def test_what_a_node_has_not_to_give_it_is_asked_for_again_and_said_once(
    path: str,
    how: Callable[[], Behaviour],
    why: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    front = Withholding(path, how)
    async with serving(front.node, tmp_path / "arbstr.db", front=front.serve) as (proxy, fake, _):
        await until(lambda: front.refused >= 3)
        assert (await proxy.chat()).status == 200, "on the key itself"
        assert keys_of(fake) == [KEY]
        front.mended = True
        await wait_free(proxy, 2)
        assert (await proxy.chat()).status == 200
        assert keys_of(fake)[-1] in front.node.bank.accounts[KEY].children
    (refused, has) = said(caplog)
    assert why in refused
    assert has == 'provider "node" has its lanes now'
    assert len(front.node.bank.accounts[KEY].children) == 2


async def test_keys_that_a_full_disk_does_not_take_are_the_next_to_be_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    node, database, full = Node(), tmp_path / "arbstr.db", [True]
    append, refused = LaneFile._append, []

    def on_a_full_disk(self: LaneFile, entries: Sequence[Mapping[str, object]]) -> None:
        if full:
            refused.append(entries)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(self, entries)

    monkeypatch.setattr(LaneFile, "_append", on_a_full_disk)
    async with serving(node, database) as (proxy, fake, _):
        await until(lambda: len(refused) >= 3)
        assert (await proxy.chat()).status == 200
        assert keys_of(fake) == [KEY], "none is used before it is kept"
        full.clear()
        await wait_free(proxy, 2)
    assert said(caplog) == [
        'provider "node" gets no lanes: No space left on device',
        'provider "node" has its lanes now',
    ]
    children = node.bank.accounts[KEY].children
    assert len(children) == 2, "none was made in vain"
    assert all(key in (tmp_path / "arbstr.db.lanes").read_text() for key in children)


async def test_a_file_of_lanes_that_cannot_be_read_is_read_before_others_are_made(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mended(beside: str) -> LaneFile:
        if (tmp_path / "aside").exists():
            (tmp_path / "arbstr.db.lanes").rmdir()
            (tmp_path / "aside").rename(tmp_path / "arbstr.db.lanes")
        return open_lane_file(beside)

    caplog.set_level("INFO")
    node, database = Node(), tmp_path / "arbstr.db"
    async with serving(node, database) as (proxy, _, _):
        await wait_free(proxy, 2)
    (tmp_path / "arbstr.db.lanes").rename(tmp_path / "aside")
    (tmp_path / "arbstr.db.lanes").mkdir()
    async with serving(node, database) as (proxy, fake, _):
        await until(lambda: said(caplog))
        assert (await proxy.chat()).status == 200
        assert keys_of(fake) == [KEY]
        # In one step: whoever finds no file makes one.
        monkeypatch.setattr("arbstr.trio_runtime.lane_keys.open_lane_file", mended)
        await wait_free(proxy, 2)
    assert said(caplog) == [
        'provider "node" gets no lanes: Is a directory',
        'provider "node" has its lanes now',
    ]
    assert len(node.bank.accounts[KEY].children) == 2
