"""`arbstr check --network` and `arbstr providers`: what a node lists, charges and holds."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import trio

from arbstr.cli import commands as cli
from arbstr.cli.node_prices import change
from arbstr.sansio.money import Rates
from tests.fakes import FakeProvider, open_fake_provider
from tests.node import Model, Node
from tests.proxy import config, open_proxy
from tests.test_prices import CHEAP, DEAR, KEY, Later, node_provider


def node() -> Node:
    return Node(models={"gpt-4o": CHEAP, "acme/claude": DEAR})


@asynccontextmanager
async def configured(
    node: Node, directory: Path, more: str = ""
) -> AsyncIterator[tuple[FakeProvider, str]]:
    """A file with a URL, a key, and `more`."""
    async with open_fake_provider(node.serve) as fake:
        text = config(node_provider(fake.url, more=more))
        path = directory / "config.toml"
        path.write_text(f'[database]\npath = "arbstr.db"\n{text}')
        path.chmod(0o600)
        yield fake, text


async def said(
    capsys: pytest.CaptureFixture[str], directory: Path, *command: str
) -> tuple[int, list[str], str]:
    """The exit code, what was printed, what was complained of. A command has a trio of its own."""
    given = [*command, "-c", str(directory / "config.toml")]
    code: Any = await trio.to_thread.run_sync(cli.main, given)
    printed = capsys.readouterr()
    assert KEY not in printed.out + printed.err
    return code, [line.strip() for line in printed.out.splitlines()], printed.err


async def test_check_asks_a_node_of_which_only_url_and_key_are_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = node()
    async with configured(asked, tmp_path):
        code, lines, err = await said(capsys, tmp_path, "check", "--network")
    assert (code, err) == (0, "")
    assert lines[lines.index("key holds 1000000 sats free") + 1 :] == [
        "prices of just now",
        "gpt-4o  in 2, out 6 sats per 1000 tokens",
        "acme/claude  in 4, out 12 sats per 1000 tokens",
        *lines[-1:],
    ]
    assert sorted(asked.asked) == ["/balance/info", "/models"]
    assert not asked.visits, "nothing that costs"


async def test_check_says_what_a_key_cannot_pay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    poor = node()
    poor.bank.deposit(KEY, 15_000)
    async with configured(poor, tmp_path):
        _, lines, _ = await said(capsys, tmp_path, "check", "--network")
    assert "key holds 15 sats free" in lines
    assert "gpt-4o  in 2, out 6 sats per 1000 tokens" in lines, "it needs 11.88"
    assert (
        "acme/claude  in 4, out 12 sats per 1000 tokens; without max_tokens a request needs 23.76 "
        "sats free, more than the key holds" in lines
    )


async def test_check_tells_a_ceiling_and_a_name_of_several_and_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    several = Node(models={"gpt-4o": DEAR, "a/m": CHEAP, "b/m": CHEAP})
    more = 'models = ["gpt-4o", "m", "gone"]\nrates = "node"\ninput_rate = 5\noutput_rate = 10'
    async with configured(several, tmp_path, more):
        code, lines, err = await said(capsys, tmp_path, "check", "--network")
    assert code == 1
    reason = "it costs 12 sats per 1000 output tokens, you allowed 10"
    assert f"gpt-4o  not asked: {reason}" in lines
    assert f"provider node: gpt-4o: {reason}" in err
    assert "provider node: m: it lists several models of that name: a/m, b/m" in err
    assert "provider node: gone: it does not list it" in err


async def test_check_fails_where_a_node_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    down = node()
    down.down = True
    async with configured(down, tmp_path):
        code, _, err = await said(capsys, tmp_path, "check", "--network")
        assert code == 1
        assert "provider node: its prices cannot be read: it broke off" in err
        code, _, err = await said(capsys, tmp_path, "check")
        assert (code, err) == (0, ""), "without --network nobody is asked"


async def test_providers_shows_without_network_what_the_ledger_knows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = node()
    async with configured(known, tmp_path) as (_, text):
        code, lines, _ = await said(capsys, tmp_path, "providers")
        assert "has not been asked yet" in lines[-1]
        async with open_proxy(text, database=tmp_path / "arbstr.db") as proxy:
            assert (await proxy.chat()).status == 200
        known.down = True
        code, lines, err = await said(capsys, tmp_path, "providers")
    assert (code, err) == (0, "")
    assert lines[1:] == [
        "in 7 days 0.5 sats stated, 0.5 expected",
        "prices of just now",
        "gpt-4o  in 2, out 6 sats per 1000 tokens",
        "acme/claude  in 4, out 12 sats per 1000 tokens",
    ]


async def test_check_shows_the_last_known_prices_of_a_node_that_is_not_there_and_marks_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = node()
    async with configured(known, tmp_path) as (_, text):
        async with open_proxy(text, database=tmp_path / "arbstr.db") as proxy:
            assert (await proxy.chat()).status == 200
        known.down = True
        for hours, marked in (
            (0, "prices of just now (now it {})"),
            (1, "prices of 60 min ago (now it {}); caps count a tenth more"),
            (30, "prices of 30 h ago (now it {}); too old: unpriced"),
        ):
            later = Later(hours * 3600)
            for module in ("node_prices", "check_command", "providers_command"):
                monkeypatch.setattr(f"arbstr.cli.{module}.time", later, raising=False)
            code, lines, err = await said(capsys, tmp_path, "check", "--network")
            assert code == 1
            assert "provider node: its prices cannot be read: it broke off" in err
            (line,) = (line for line in lines if line.startswith("prices of"))
            before, _, after = marked.partition("{}")
            assert line.startswith(f"{before}broke off"), line
            assert line.endswith(after), line
            assert any(line.startswith("gpt-4o  in 2, out 6 sats per 1000") for line in lines)
            _, lines, _ = await said(capsys, tmp_path, "providers")
            mark = marked.replace(" (now it {})", "")
            assert mark in lines, lines


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        ("6", "6", "as yesterday"),
        ("6", "8.4", "+40.0 % since yesterday"),
        ("6", "3.6", "-40.0 % since yesterday"),
        ("0", "6", "was free yesterday"),
    ],
)
def test_what_became_of_a_price_in_a_day(before: str, now: str, told: str) -> None:
    rates = (Rates(Decimal(2), Decimal(each)) for each in (before, now))
    assert change(*rates) == told


async def test_a_model_of_another_name_at_its_node_is_shown_by_both(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    aliased = Node(models={"acme/claude": Model(0.002, 0.006, more={"alias_ids": ["sonnet"]})})
    async with configured(aliased, tmp_path, 'models = ["sonnet", "claude"]'):
        code, lines, _ = await said(capsys, tmp_path, "check", "--network")
    assert code == 0
    for name in ("sonnet", "claude"):
        assert f"{name} (as acme/claude)  in 2, out 6 sats per 1000 tokens" in lines
