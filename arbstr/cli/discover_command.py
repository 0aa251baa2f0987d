"""`arbstr discover`: which Routstr nodes there are, as TOML to paste. Nothing is added by itself.

What strangers said stands in comments only, made harmless (`announced.shown`); what stands outside
of them is made here, of an address that was taken apart and of what the user typed.
"""

import argparse
import json
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Final, TypeVar, final

import trio

from arbstr.cli.cells import NARROWEST, terminal_width, wrapped
from arbstr.cli.output import complain
from arbstr.sansio.config.addresses import Proxy, parse_proxy, parse_url
from arbstr.sansio.config.credentials import key_variable
from arbstr.sansio.config.reader import ANY_MODEL
from arbstr.sansio.frozen import dataclass
from arbstr.sansio.moments import format_moment
from arbstr.sansio.money import format_eyes
from arbstr.sansio.routing.announced import Announced, Node, Way, is_private, nodes_of
from arbstr.sansio.routing.prices import Price, PriceBook
from arbstr.sansio.visible import escaped, first_unseen
from arbstr.trio_runtime import groups
from arbstr.trio_runtime.upstream.discovery import (
    Looked,
    Told,
    directory_url,
    from_directory,
    from_relay,
    look_at,
)
from arbstr.trio_runtime.upstream.transport import Transport
from arbstr.trio_runtime.upstream.websocket import http_url

RELAYS: Final = ("wss://relay.routstr.com", "wss://relay.damus.io", "wss://nos.lol")
"""Who is asked if nobody is named: relays at which nodes announce themselves by default."""

AT_ONCE: Final = 32
"""Nodes that are asked at the same time; picked."""

TOR: Final = "socks5://127.0.0.1:9050"

LONGEST_NAME: Final = 56
"""Characters of a provider's name, before what tells two apart: 64 are allowed."""

_SETTING: Final = re.compile(r"[a-z_]+ = |\[\[")
"""How a line of TOML begins."""

T = TypeVar("T")


@final
@dataclass(frozen=True, slots=True)
class Source:
    """A directory or a relay: `shown` is how it is called, `host` where it is."""

    shown: str
    host: str
    ask: Callable[[Transport, Proxy | None], Awaitable[Told]]


@final
@dataclass(frozen=True, slots=True)
class Found:
    """What became of all of it. `untried` cannot be asked from here, or should not be."""

    answers: tuple[Looked, ...]
    silent: tuple[Looked, ...]
    untried: tuple[Node, ...]
    troubles: tuple[str, ...]


def run(options: argparse.Namespace) -> int:
    """Prints what was found; 1 if no node answers. Raises SystemExit(2) for a wrong option."""
    try:
        proxy = _checked(parse_proxy, options.proxy, "--proxy") if options.proxy else None
        for model in options.model:
            if not model or first_unseen(model) is not None:
                raise ValueError("--model must be the id of a model")
        sources = (
            [_directory(options.directory)]
            if options.directory
            else [_relay(relay) for relay in options.relay or RELAYS]
        )
    except ValueError as error:
        options.complain(str(error))
        return 2
    found = groups.run(_find, sources, proxy, expected=())
    for trouble in found.troubles:
        complain(trouble)
    said = [source.shown for source in sources]
    width = terminal_width()
    for line in "\n".join(_text(found, said, options.model, proxy)).split("\n"):
        print(*_narrow(line, width), sep="\n")
    if found.answers:
        return 0
    complain("discover: no node was found that answers")
    return 1


def _directory(text: str) -> Source:
    url = _checked(directory_url, text, "--directory")
    endpoint = parse_url(url)

    async def ask(transport: Transport, proxy: Proxy | None) -> Told:
        return await from_directory(transport, url, proxy)

    return Source(endpoint.shown_url, endpoint.host, ask)


def _relay(text: str) -> Source:
    endpoint = _checked(lambda url: parse_url(http_url(url)), text, "--relay")

    async def ask(transport: Transport, proxy: Proxy | None) -> Told:
        return await from_relay(text, proxy)

    return Source(f"ws{endpoint.shown_url.removeprefix('http')}", endpoint.host, ask)


def _checked(parse: Callable[[str], T], text: str, option: str) -> T:
    try:
        return parse(text)
    except ValueError as error:
        raise ValueError(f"{option} {error}") from None


# -- asking ----------------------------------------------------------------------------------------


async def _find(sources: Sequence[Source], proxy: Proxy | None) -> Found:
    local = all(is_private(source.host) for source in sources)
    announced: list[Announced] = []
    troubles: list[str] = []
    looked: list[Looked] = []
    ways = (Way.OPEN, *((Way.LOCAL,) if local else ()), *((Way.TOR,) if proxy else ()))
    turn = trio.CapacityLimiter(AT_ONCE)

    async def hear(source: Source) -> None:
        told = await source.ask(transport, proxy)
        announced.extend(told.found)
        if told.trouble is not None:
            troubles.append(f"{source.shown} {told.trouble}")

    async def look(node: Node) -> None:
        async with turn:
            looked.append(await look_at(transport, node, ways, proxy))

    async with Transport() as transport:
        async with trio.open_nursery() as nursery:
            for source in sources:
                nursery.start_soon(hear, source)
        nodes = nodes_of(announced, local=local)
        within_reach = [node for node in nodes if any(way in node.urls for way in ways)]
        async with trio.open_nursery() as nursery:
            for node in within_reach:
                nursery.start_soon(look, node)
    looked.sort(key=lambda each: each.url)
    return Found(
        tuple(each for each in looked if each.trouble is None),
        tuple(each for each in looked if each.trouble is not None),
        tuple(node for node in nodes if node not in within_reach),
        tuple(sorted(troubles)),
    )


# -- what is printed -------------------------------------------------------------------------------


def _narrow(line: str, width: int) -> list[str]:
    """A line of text; a remark that is too long for the terminal in several. What is TOML, or is to
    be made so, stays as it is."""
    remark = line.removeprefix("# ")
    if not width or remark == line or _SETTING.match(remark):
        return [line]
    return [f"# {part}" for part in wrapped(remark, max(width, NARROWEST) - len("# "))]


def _text(
    found: Found, sources: Sequence[str], models: Sequence[str], proxy: Proxy | None
) -> Iterator[str]:
    moment = format_moment(time.time_ns() // 1_000_000)
    total = len(found.answers) + len(found.silent) + len(found.untried)
    yield f"# {moment[:16].replace('T', ' ')} UTC, announced at {', '.join(sources)}:"
    yield f"# {total} nodes, of which {len(found.answers)} answer."
    yield "# Announcements are not verified: anybody can announce anything, under any name. A node"
    yield "# can keep what you deposit there: begin with little. Without a key none is used."
    names = _Names()
    priced = [(looked, _prices(looked, models)) for looked in found.answers]
    serving = [each for each in priced if each[1] or not models]
    for looked, prices in sorted(serving, key=partial(_order, models)):
        yield ""
        yield from _provider(names.of(looked.url), looked, prices, models, proxy)
    if len(serving) < len(priced):
        yield f"\n# {len(priced) - len(serving)} more answer and list none of these models."
    for node in found.untried:
        yield ""
        yield from _untried(names, node)
    if found.silent:
        yield "\n# These were announced and do not serve:"
        for looked in found.silent:
            yield f"# {looked.url} {escaped(looked.trouble or '')}"


def _prices(looked: Looked, models: Sequence[str]) -> dict[str, Price]:
    """What the named models cost there, by the name each was asked for by."""
    book = PriceBook()
    book.fetched(looked.listed, time.time(), 1)
    found = {} if book.prices is None else {name: book.prices.find(name) for name in models}
    return {name: price for name, price in found.items() if isinstance(price, Price)}


def _order(models: Sequence[str], each: tuple[Looked, dict[str, Price]]) -> tuple[object, ...]:
    """By what the first of the models costs, then by name."""
    looked, prices = each
    first = [prices[name] for name in models[:1] if name in prices]
    rates = (first[0].rates.output_rate, first[0].rates.input_rate) if first else (0, 0)
    return (not first, rates, looked.url)


def _provider(
    name: str,
    looked: Looked,
    prices: dict[str, Price],
    models: Sequence[str],
    proxy: Proxy | None,
) -> Iterator[str]:
    node, about = looked.node, looked.about
    yield from _remarks(about.name or node.name, about.version or node.version)
    yield "[[providers]]"
    yield f'name = "{name}"'
    yield f'url = "{looked.url}"'
    yield 'kind = "routstr"'
    served = [model for model in models if model in prices] or [ANY_MODEL]
    # A basic string of TOML is one of JSON, but for what `first_unseen` refuses.
    yield f"models = [{', '.join(json.dumps(model, ensure_ascii=False) for model in served)}]"
    if proxy is not None:
        yield f'proxy = "{proxy.shown}"'
    yield f'# api_key = "sk-..."   # or in {key_variable(name)}'
    for model, price in prices.items():
        rates, own = price.rates, price.listed.model
        known_as = "" if own == model else f" (as {escaped(own)})"
        yield (
            f"# {escaped(model)}{known_as}: in {format_eyes(rates.input_rate)}, "
            f"out {format_eyes(rates.output_rate)} sats per 1000 tokens"
        )
    if not models:
        yield f"# lists {len(looked.listed)} models; --model NAME shows what one costs"
    yield from _mints(about.mints or node.mints)
    for way, urls in node.urls.items():
        for url in urls:
            if url != looked.url:
                through = ", through Tor" if way is Way.TOR else ""
                yield f"# also at {url}{through}"


def _untried(names: "_Names", node: Node) -> Iterator[str]:
    """A node that was not asked, as comments."""
    yield from _remarks(node.name, node.version)
    onions = node.urls.get(Way.TOR, ())
    if not onions:
        url = node.urls[Way.PLAIN][0]
        yield f"# {url} was not asked: a key that is sent there can be read on its way"
        return
    yield f"# Reached through Tor alone, and not asked; --proxy {TOR} does."
    yield "# [[providers]]"
    yield f'# name = "{names.of(onions[0])}"'
    yield f'# url = "{onions[0]}"'
    yield '# kind = "routstr"'
    yield f'# proxy = "{TOR}"'
    yield f'# models = ["{ANY_MODEL}"]'
    yield from _mints(node.mints)


def _remarks(name: str | None, version: str | None) -> Iterator[str]:
    said = [f'calls itself "{name}"'] if name else []
    said += [f"version {version}"] if version else []
    if said:
        yield f"# {', '.join(said)}"


def _mints(mints: Iterable[str]) -> Iterator[str]:
    told = ", ".join(mints)
    if told:
        yield f"# mints: {told}"


@final
class _Names:
    """Names of providers, each by its host, no two with the same variable for their key."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def of(self, url: str) -> str:
        """A name that was not given before."""
        host = parse_url(url).host.lower()
        base = re.sub(r"[^a-z0-9.-]", "-", host).strip(".-")[:LONGEST_NAME] or "node"
        name, number = base, 1
        while key_variable(name) in self._taken:
            number += 1
            name = f"{base}-{number}"
        self._taken.add(key_variable(name))
        return name
