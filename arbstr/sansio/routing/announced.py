"""Where Routstr nodes are, as a directory or a Nostr relay tells: addresses, and whose they are.

    body of a directory --parse_directory--> Announced, for each entry that has an address
    texts of a relay --Subscription.feed--> Announced, for each event of kind 38421 with a `u` tag
    all of them --nodes_of--> Node: one for each address, however often it was announced

A directory is what `GET /v1/providers/` of a node answers, if its operator has turned that on. An
event is `["EVENT", id, {kind, pubkey, created_at, tags, content}]`; it replaces older ones of the
same key and `d` tag. Whoever can write there can announce anything: signatures are not looked at,
so an announcement is a rumour, and what a node is it must say itself.

    address                                   what it is good for
    https, a name                             asked
    http                                      told, not asked: a key would travel in the clear
    an onion service                          told; asked through Tor alone
    of this machine, or of a private network  nothing, unless the source is there itself
    with user, query or odd characters        nothing
"""

import ipaddress
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from enum import Enum
from typing import Any, Final, final

from arbstr.sansio.config.addresses import is_loopback, is_onion, parse_url
from arbstr.sansio.frozen import dataclass
from arbstr.sansio.visible import escaped

KIND: Final = 38421
"""Of the events by which nodes announce themselves."""

MOST_ANNOUNCED: Final = 1000
"""Announcements that are read of one source: the network has less than a hundred."""

MOST_NODES: Final = 200
"""Nodes that are told; each is asked."""

MOST_ADDRESSES: Final = 5
"""Of one announcement."""

MOST_MINTS: Final = 8
LONGEST: Final = 80
"""Characters of a name, a version or a mint, which are only shown."""

_URL: Final = re.compile(r"(?i:https?)://[A-Za-z0-9._:\[\]-]{1,255}(/[A-Za-z0-9._~-]{1,64}){0,4}/?")
"""The URLs that are believed: nothing in them means anything to TOML or a terminal."""

_PRIVATE: Final = (".local", ".internal", ".lan", ".home.arpa", ".localdomain")


class Way(Enum):
    """How an address can be reached. See the module's table."""

    OPEN = "open"
    PLAIN = "plain"
    TOR = "tor"
    LOCAL = "local"


@final
@dataclass(frozen=True, slots=True)
class Announced:
    """One announcement. `who` tells whose it is, if it says so; `at` is when, in seconds since
    1970. `urls` are of the form of an `Endpoint.url`."""

    urls: tuple[str, ...]
    who: tuple[str, str] | None = None
    at: int = 0
    name: str | None = None
    version: str | None = None
    mints: tuple[str, ...] = ()


@final
@dataclass(frozen=True, slots=True)
class Node:
    """One node, by its first announcement. `urls` are its addresses by their ways."""

    urls: Mapping[Way, tuple[str, ...]]
    name: str | None
    version: str | None
    mints: tuple[str, ...]


def parse_directory(body: bytes) -> tuple[Announced, ...] | str:
    """What a directory answered, or what is wrong with it: a predicate about the directory."""
    value = _json(body)
    entries = value.get("providers") if isinstance(value, dict) else value
    if not isinstance(entries, list):
        return "answered something else than a list of providers"
    found = (_entry(each) for each in entries[:MOST_ANNOUNCED])
    return tuple(each for each in found if each is not None)


def _entry(entry: object) -> Announced | None:
    match entry:
        case {"provider": dict(inner)}:
            entry = inner
        case _:
            pass
    if not isinstance(entry, dict):
        return None
    texts = [*_texts(entry.get("endpoint_urls")), *_texts(entry.get("endpoint_url"))]
    texts += [*_texts(entry.get("onion_urls")), *_texts(entry.get("onion_url"))]
    texts += _texts(entry.get("http_url"))
    who = (entry.get("pubkey"), entry.get("id", entry.get("d_tag")))
    mints = [*_texts(entry.get("mint_urls")), *_texts(entry.get("mint_url"))]
    return _announced(texts, who, entry, entry.get("name"), entry.get("version"), mints)


@final
@dataclass(slots=True)
class Subscription:
    """What is said to a relay, and what it says. `over`: nothing more will come that was asked
    for; `trouble` is what it refused, in its own words made harmless."""

    found: list[Announced] = field(default_factory=list)
    over: bool = False
    trouble: str | None = None
    _events: int = 0

    @property
    def request(self) -> str:
        """What is said first."""
        return json.dumps(["REQ", _NAME, {"kinds": [KIND], "limit": MOST_ANNOUNCED}])

    @property
    def farewell(self) -> str:
        """What is said last."""
        return json.dumps(["CLOSE", _NAME])

    def feed(self, text: str) -> None:
        """One message of the relay. Whatever is none that was asked for is passed over."""
        match _json(text):
            case ["EVENT", str(name), dict(event)] if name == _NAME:
                self._events += 1
                announced = _event(event)
                if announced is not None:
                    self.found.append(announced)
                self.over = self.over or self._events >= MOST_ANNOUNCED
            case ["EOSE", str(name), *_] if name == _NAME:
                self.over = True
            case ["CLOSED", str(name), *why] if name == _NAME:
                self.over, self.trouble = True, shown(why[0] if why else None) or "no reason given"
            case _:
                pass


_NAME: Final = "arbstr"


def _event(event: Mapping[str, Any]) -> Announced | None:
    tags = event.get("tags")
    kind = event.get("kind")
    if kind != KIND or not isinstance(tags, list):
        return None
    told: dict[str, list[str]] = {}
    for tag in tags[:100]:
        match tag:
            case [str(name), str(value), *_]:
                told.setdefault(name, []).append(value)
            case _:
                pass
    about = _json(event.get("content"))
    called = about.get("name") if isinstance(about, dict) else None
    who = (event.get("pubkey"), next(iter(told.get("d", ())), None))
    version = next(iter(told.get("version", ())), None)
    return _announced(told.get("u", ()), who, event, called, version, told.get("mint", ()))


def _announced(
    urls: Sequence[str],
    who: tuple[object, object],
    dated: Mapping[str, Any],
    name: object,
    version: object,
    mints: Sequence[str],
) -> Announced | None:
    bases = (_base(url) for url in urls[: MOST_ADDRESSES * 4])
    addresses = tuple(dict.fromkeys(base for base in bases if base is not None))
    if not addresses:
        return None
    key, which = who
    known = (key[:200], which[:200]) if isinstance(key, str) and isinstance(which, str) else None
    at = dated.get("created_at")
    at = at if isinstance(at, int) and not isinstance(at, bool) and 0 <= at < 2**40 else 0
    return Announced(
        addresses[:MOST_ADDRESSES], known, at, shown(name), shown(version), _mints(mints)
    )


def _mints(urls: Sequence[str]) -> tuple[str, ...]:
    said = (shown(url) for url in urls[:MOST_MINTS])
    return tuple(url for url in said if url is not None)


def _base(text: str) -> str | None:
    """An announced URL as a provider's, in one spelling; `None` for what is not believed."""
    if _URL.fullmatch(text) is None:
        return None
    try:
        endpoint = parse_url(text)
    except ValueError:
        return None
    scheme, _, rest = endpoint.url.partition("://")
    netloc, _, path = rest.partition("/")
    netloc = netloc.lower().removesuffix(":443" if scheme.lower() == "https" else ":80")
    path = path.rstrip("/")
    whole = f"{scheme.lower()}://{netloc}/{path}"
    # Nodes announce where they are, and serve below `/v1` of that.
    return whole if path == "v1" or path.endswith("/v1") else f"{whole}/v1"


def way_to(url: str) -> Way:
    """How an address of an announcement, or a source, can be reached."""
    host = parse_url(url).host
    if is_onion(host):
        return Way.TOR
    if is_private(host):
        return Way.LOCAL
    return Way.OPEN if url.startswith("https://") else Way.PLAIN


def is_private(host: str) -> bool:
    """Whether a host is of this machine or of a private network, as far as its name tells."""
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        name = host.lower().rstrip(".")
        return is_loopback(host) or "." not in name or name.endswith(_PRIVATE)


def nodes_of(announced: Iterable[Announced], *, local: bool) -> tuple[Node, ...]:
    """One node for each address, in the order of their names. `local`: the source is on this
    machine or in a private network, and so may nodes be."""
    newest: dict[tuple[str, ...], Announced] = {}
    for each in announced:
        key = each.who or each.urls
        if key not in newest or newest[key].at < each.at:
            newest[key] = each
    seen: set[str] = set()
    found: list[Node] = []
    for each in sorted(newest.values(), key=lambda one: (one.urls, -one.at)):
        ways: dict[Way, tuple[str, ...]] = {}
        for url in each.urls:
            way = way_to(url)
            if url not in seen and (local or way is not Way.LOCAL):
                ways[way] = (*ways.get(way, ()), url)
        seen.update(each.urls)
        if ways:
            found.append(Node(ways, each.name, each.version, each.mints))
    return tuple(found[:MOST_NODES])


@final
@dataclass(frozen=True, slots=True)
class About:
    """What a node says of itself at `/info`."""

    name: str | None = None
    version: str | None = None
    mints: tuple[str, ...] = ()


def parse_info(body: bytes) -> About:
    """What `GET /info` answers; nothing where it is something else."""
    value = _json(body)
    if not isinstance(value, dict):
        return About()
    mints = _mints(_texts(value.get("mints")))
    return About(shown(value.get("name")), shown(value.get("version")), mints)


def shown(text: object) -> str | None:
    """A stranger's word as it may stand in a comment or a terminal: one line, not too long."""
    if not isinstance(text, str) or not text.strip():
        return None
    said = escaped(" ".join(text[: LONGEST * 2].split()))
    return said if len(said) <= LONGEST else said[: LONGEST - 3] + "..."


def _texts(value: object) -> list[str]:
    every = value if isinstance(value, list) else [value]
    return [each for each in every[:20] if isinstance(each, str)]


def _json(text: object) -> Any:  # noqa: ANN401 - whatever JSON has
    try:
        return json.loads(text) if isinstance(text, str | bytes) else None
    except (ValueError, RecursionError):
        return None
