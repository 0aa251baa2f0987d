"""`arbstr discover` as a person uses it: who is announced and answers is TOML that arbstr takes."""

import json
import tomllib
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import pytest
import trio

from arbstr.cli import commands as cli
from arbstr.cli.discover_command import _Names
from tests.fakes import answer, json_answer, open_fake_provider, refused_url
from tests.node import Model, Node
from tests.nostr import event, open_relay

CHEAP: Final = {"gpt-4o": Model(0.002, 0.006), "acme/small": Model(0.0001, 0.0002)}
DEAR: Final = {"openai/gpt-4o": Model(0.003, 0.009)}
ONION: Final = "http://" + "a" * 56 + ".onion"

NASTY: Final = 'x"\n[server]\nlisten = "0.0.0.0:1"\x1b[2J\u202e\x07'


@final
@dataclass(frozen=True, slots=True)
class Printed:
    code: int
    out: str
    err: str

    @property
    def providers(self) -> list[dict[str, Any]]:
        """What an arbstr would read of it."""
        whole = tomllib.loads(self.out)
        assert set(whole) <= {"providers"}, "something else than providers was configured"
        found: list[dict[str, Any]] = whole.get("providers", [])
        return found


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the command as a person would; it has a trio of its own."""

    async def asked(*arguments: str) -> Printed:
        code = await trio.to_thread.run_sync(cli.main, ["discover", *arguments])
        out, err = capsys.readouterr()
        return Printed(code, out, err)

    return asked


@asynccontextmanager
async def open_nodes(*models: Mapping[str, Model]) -> AsyncIterator[list[str]]:
    """Nodes that list these; their addresses as they announce them."""
    async with AsyncExitStack() as stack:
        fakes = [
            await stack.enter_async_context(open_fake_provider(Node(models=each).serve))
            for each in models
        ]
        yield [fake.url.removesuffix("/v1") for fake in fakes]


def entry(url: str, **more: object) -> dict[str, object]:
    return {"endpoint_url": url, "endpoint_urls": [url], "id": url, "pubkey": "ab", **more}


def directory(*entries: object) -> Any:
    return open_fake_provider(json_answer({"providers": entries}))


async def test_a_directory_becomes_toml_that_arbstr_checks(
    ask: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_nodes(DEAR, CHEAP) as (dear, cheap):
        with refused_url() as gone:
            dead = gone.removesuffix("/v1")
            async with directory(entry(dear), entry(cheap, name="Cheap"), entry(dead)) as source:
                printed = await ask("--directory", source.url, "-m", "gpt-4o", "--model", "small")
    assert source.requests[0].path == "/v1/providers/"
    assert (printed.code, printed.err) == (0, "")
    assert [(each["url"], each["models"]) for each in printed.providers] == [
        (f"{cheap}/v1", ["gpt-4o", "small"]),
        (f"{dear}/v1", ["gpt-4o"]),
    ], "the cheaper first"
    assert "# gpt-4o: in 2, out 6 sats per 1000 tokens" in printed.out
    assert "# gpt-4o (as openai/gpt-4o): in 3, out 9 sats per 1000 tokens" in printed.out
    assert f"# {dead}/v1 could not be reached: connection refused" in printed.out
    assert "3 nodes, of which 2 answer" in printed.out
    assert "not verified" in printed.out
    path = tmp_path / "config.toml"
    path.write_text(printed.out)
    path.chmod(0o600)
    code = await trio.to_thread.run_sync(cli.main, ["check", "-c", str(path)])
    assert code == 0, capsys.readouterr().err


async def test_a_relay_becomes_toml_each_node_once(ask: Any) -> None:
    async with open_nodes(CHEAP, DEAR) as (one, two):
        events = [
            event(urls=[one], which="a", at=1),
            event(urls=["http://127.0.0.1:1"], which="b", at=1),
            event(urls=[two], which="b", at=2),
            event(urls=[one], key="cd" * 32, which="a"),
            event(urls=["https://elsewhere.example"], kind=38000),
        ]
        async with open_relay(events) as relay, open_relay(events) as again:
            printed = await ask("--relay", relay.url, "--relay", again.url)
    assert printed.code == 0
    urls = sorted(each["url"] for each in printed.providers)
    assert urls == sorted([f"{one}/v1", f"{two}/v1"])
    assert [each["models"] for each in printed.providers] == [["*"], ["*"]]
    assert len({each["name"] for each in printed.providers}) == 2
    assert json.loads(relay.heard[-1]) == ["CLOSE", "arbstr"]


async def test_nothing_that_is_told_gets_out_of_its_comment(ask: Any) -> None:
    models = {"gpt-4o": Model(0.002, 0.006, more={"canonical_slug": NASTY})}

    def nasty(request: Any) -> Any:
        if request.path.endswith("/info"):
            return json_answer({"name": NASTY, "version": NASTY, "mints": [NASTY]})
        return Node(models=models).serve(request)

    async with open_fake_provider(nasty) as fake:
        told = entry(fake.url, name=NASTY, version=NASTY, mint_urls=[NASTY])
        worse = entry(f'{fake.url}/"\nname = "x"', name=NASTY)
        silent = event(urls=["https://b.invalid"], name=NASTY, mints=[NASTY])
        async with directory(told, worse) as source:
            printed = await ask("--directory", source.url, "-m", "gpt-4o")
        async with open_relay([event(urls=[fake.url], name=NASTY), silent], ends=False) as relay:
            relay.says = [json.dumps(["CLOSED", "arbstr", NASTY])]
            refused = await ask("--relay", relay.url)
    (provider,) = printed.providers
    assert provider["url"] == fake.url
    for text in (printed.out, printed.err, refused.out, refused.err):
        assert all(line.isprintable() for line in text.split("\n")), text
    assert "calls itself" in printed.out
    assert refused.code == 1


async def test_who_is_reached_through_tor_alone_is_a_comment(ask: Any) -> None:
    async with open_nodes(CHEAP) as (node,):
        both = entry(node, onion_url=ONION)
        async with directory(both, entry(ONION.replace("a", "b")), entry("http://a.example")) as it:
            printed = await ask("--directory", it.url)
    (provider,) = printed.providers
    assert provider["url"] == f"{node}/v1"
    assert f"# also at {ONION}/v1, through Tor" in printed.out
    commented = printed.out.replace("# [[providers]]", "[[providers]]").replace("# name", "name")
    for member in ("url", "kind", "proxy", "models"):
        commented = commented.replace(f"# {member} =", f"{member} =")
    onion = tomllib.loads(commented)["providers"][1]
    assert (onion["url"], onion["proxy"]) == (
        ONION.replace("a", "b") + "/v1",
        "socks5://127.0.0.1:9050",
    )
    assert "# http://a.example/v1 was not asked" in printed.out


@pytest.mark.parametrize(
    ("play", "sentence"),
    [
        (answer(404), "answered status 404 (its operator keeps no directory)"),
        (json_answer({"providers": {}}), "answered something else than a list of providers"),
        (json_answer({"providers": []}), "no node was found that answers"),
        (json_answer(["x" * 5000]), "answered with more than 4000 bytes"),
    ],
)
async def test_a_directory_that_is_none_is_said(
    ask: Any, play: Any, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arbstr.trio_runtime.upstream.discovery.MOST_DIRECTORY_BYTES", 4000)
    async with open_fake_provider(play) as source:
        printed = await ask("--directory", source.url)
    assert (printed.code, printed.providers) == (1, [])
    assert sentence in printed.err


async def test_a_node_that_lists_nothing_is_told_apart(ask: Any) -> None:
    nothing = open_fake_provider(json_answer({"data": []}))
    async with (
        nothing as empty,
        open_nodes(CHEAP) as (node,),
        directory(entry(empty.url), entry(node)) as source,
    ):
        printed = await ask("--directory", source.url, "-m", "nobody-has-it")
    assert printed.providers == []
    assert f"# {empty.url} lists no models" in printed.out
    assert "# 1 more answer and list none of these models." in printed.out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--directory", "https://a.example", "--relay", "wss://b.example"], "not allowed with"),
        (["--directory", "ftp://a"], "--directory must be an http"),
        (["--relay", "https://a.example"], "--relay must be a ws:// or wss:// URL"),
        (["--relay", "wss://"], "--relay must be"),
        (["--proxy", "https://a.example:1"], "--proxy must not be https"),
        (["--model", "a\nb"], "--model must be"),
    ],
)
def test_what_cannot_be_asked_is_said(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["discover", *arguments])
    printed = capsys.readouterr()
    assert (left.value.code, printed.out) == (2, "")
    assert sentence in printed.err


def test_names_are_hosts_and_no_two_share_the_variable_of_their_key() -> None:
    names = _Names()
    urls = ["https://a.b.example/v1", "https://a-b.example/v1", "http://[::1]:8/v1"]
    assert [names.of(url) for url in urls] == ["a.b.example", "a-b.example-2", "1"]
    assert len(names.of(f"https://{'x' * 63}.{'y' * 60}.example/v1")) <= 64
