"""A reload while attempts are open on lanes: each is told of, by the lane it was on."""

from pathlib import Path
from typing import Final

import pytest

from tests.fakes import open_fake_provider
from tests.node import Node
from tests.proxy import config, open_proxy, provider, rows
from tests.test_lanes import OTHER, TOP, keys_of, wait_free
from tests.test_lanes_killed import quick, until
from tests.test_prices import KEY
from tests.test_reload import adopt

ANOTHER: Final = "sk-" + "7e" * 32
PAID, LOST = "reset before the head", "closed before the head"


@pytest.fixture(autouse=True)
def _nothing_comes_late(monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)


def told(database: Path) -> list[tuple[str, float, str]]:
    found = (row for row in rows(database, "attempts") if row["provider"] == "node")
    return [(row["money"], row["cost_sats"], row["settled"]) for row in found]


@pytest.mark.parametrize(
    "after",
    [
        (KEY, "lanes = 0"),
        (KEY, "lanes = 1"),
        (KEY, "lanes = 5"),
        (ANOTHER, "lanes = 2"),
        (None, ""),
    ],
    ids=["no lanes", "fewer", "more", "another key", "removed"],
)
@pytest.mark.parametrize("back", [False, True], ids=["for good", "and back"])
async def test_what_was_open_on_lanes_at_a_reload_is_told_by_them(
    tmp_path: Path, after: tuple[str | None, str], back: bool
) -> None:
    node, database = Node(only=(LOST,)), tmp_path / "arbstr.db"
    async with open_fake_provider(node.serve) as fake, open_fake_provider(OTHER) as second:
        other, top = provider("other", second.url, rate=9), TOP.format(seconds=0)

        def text(key: str | None, more: str) -> str:
            own = provider("node", fake.url, kind="routstr", key=key, more=more)
            return config(*([] if key is None else [own]), other, more=top)

        async with open_proxy(text(KEY, "lanes = 2"), database=database, books=True) as proxy:
            await wait_free(proxy, 2)
            await proxy.chat()
            node.only(PAID)
            await proxy.chat()
            children = set(node.bank.accounts[KEY].children)
            assert set(keys_of(fake)) == children
            adopt(proxy, text(*after))
            if back:
                adopt(proxy, text(KEY, "lanes = 2"))
            node.bank.restart()
            await until(lambda: [settled for _, _, settled in told(database)] == ["lane", "lane"])
            if back:
                await wait_free(proxy, 2)
    assert told(database) == [("free", 0, "lane"), ("spent", 0.5, "lane")]
    assert node.total_spent == 500
