"""What directories and relays announce: read, put together, and made harmless."""

import json
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.sansio.routing.announced import (
    MOST_ADDRESSES,
    MOST_ANNOUNCED,
    MOST_NODES,
    Announced,
    Subscription,
    Way,
    is_private,
    nodes_of,
    parse_directory,
    parse_info,
    shown,
    way_to,
)
from tests.nostr import event

ONION = "http://" + "a" * 56 + ".onion"


def directory(*entries: object) -> bytes:
    return json.dumps({"providers": entries}).encode()


def read(body: bytes) -> tuple[Announced, ...]:
    found = parse_directory(body)
    assert not isinstance(found, str)
    return found


def heard(*texts: object) -> Subscription:
    asked = Subscription()
    for text in texts:
        asked.feed(text if isinstance(text, str) else json.dumps(text))
    return asked


def test_a_directory_tells_addresses_names_versions_and_mints() -> None:
    entry = {
        "id": "d1",
        "pubkey": "ab",
        "created_at": 1_700_000_000,
        "endpoint_url": "https://One.example",
        "endpoint_urls": ["https://one.example/", ONION],
        "name": "One",
        "version": "0.4.5",
        "mint_urls": ["https://mint.example/Bitcoin"],
    }
    (found,) = read(directory(entry))
    assert found == Announced(
        ("https://one.example/v1", f"{ONION}/v1"),
        ("ab", "d1"),
        1_700_000_000,
        "One",
        "0.4.5",
        ("https://mint.example/Bitcoin",),
    )
    assert read(directory({"provider": entry, "health": {"status_code": 200}})) == (found,)


@pytest.mark.parametrize(
    ("text", "base"),
    [
        ("https://a.example", "https://a.example/v1"),
        ("HTTPS://A.example:443/", "https://a.example/v1"),
        ("https://a.example/v1", "https://a.example/v1"),
        ("https://a.example/v1/", "https://a.example/v1"),
        ("https://a.example:8443/node", "https://a.example:8443/node/v1"),
        ("http://[2001:4860::1]:80", "http://[2001:4860::1]/v1"),
    ],
)
def test_an_address_has_one_spelling(text: str, base: str) -> None:
    (found,) = read(directory({"endpoint_url": text}))
    assert found.urls == (base,)


@pytest.mark.parametrize(
    "text",
    [
        *("", "a.example", "ftp://a.example", "https://", "https://a.example/?key=1"),
        *("https://user:pw@a.example", "https://a.example/#x", 'https://a.example/"\n[server]'),
        *("https://a.example/\u202e", "https://a.example:0", "https://a.example:99999"),
        *("https://a.example/..//etc", "https://a" + "a" * 300 + ".example", 7, None, ["x"]),
    ],
)
def test_what_is_no_address_is_passed_over(text: object) -> None:
    assert read(directory({"endpoint_url": text, "name": "n"})) == ()


@pytest.mark.parametrize(
    ("body", "what"),
    [(b"", "else"), (b"{}", "else"), (b'{"providers": 1}', "else"), (b"[" * 10_000, "else")],
)
def test_what_is_no_directory_is_a_sentence(body: bytes, what: str) -> None:
    found = parse_directory(body)
    assert isinstance(found, str)
    assert what in found


def test_a_relay_is_asked_for_announcements_and_heard_to_the_end() -> None:
    asked = heard(["NOTICE", "hi"], ["EVENT", "arbstr", event(urls=["https://a.example"])])
    assert not asked.over
    assert json.loads(asked.request)[2]["kinds"] == [38421]
    asked.feed('["EOSE", "another"]')
    assert not asked.over
    asked.feed('["EOSE", "arbstr"]')
    assert asked.over
    (found,) = asked.found
    assert found.urls == ("https://a.example/v1",)
    assert (found.name, found.version) == ("A node", "0.4.5")
    assert found.who == ("ab" * 32, "node")


@pytest.mark.parametrize(
    "wrong",
    [
        event(urls=[]),
        event(urls=["https://a.example"], kind=38000),
        event(urls=["https://a.example"], kind="38421"),
        event(urls=["https://a.example"], tags="u"),
        event(urls=["https://a.example"], tags=[["u"], ["u", 7], 7, None]),
    ],
)
def test_other_kinds_of_events_are_none_of_ours(wrong: object) -> None:
    assert heard(["EVENT", "arbstr", wrong]).found == []


def test_a_refusal_of_the_relay_ends_it_with_its_reason() -> None:
    asked = heard(["CLOSED", "arbstr", "auth-required: \x1b[2Jpay\nfirst"])
    assert asked.over
    assert asked.trouble == "auth-required: \\x1b[2Jpay first"


def test_no_more_is_read_than_is_wanted() -> None:
    many = [{"endpoint_url": f"https://n{n}.example"} for n in range(MOST_ANNOUNCED + 5)]
    found = read(directory(*many))
    assert len(found) == MOST_ANNOUNCED
    assert len(nodes_of(found, local=False)) == MOST_NODES
    urls = [f"https://n{n}.example" for n in range(100)]
    (one,) = read(directory({"endpoint_urls": urls}))
    assert len(one.urls) == MOST_ADDRESSES
    texts = [["EVENT", "arbstr", event(urls=urls[:1], which=str(n))] for n in range(MOST_ANNOUNCED)]
    assert heard(*texts).over


def test_a_newer_announcement_replaces_an_older_one_of_the_same_node() -> None:
    old = Announced(("https://old.example/v1",), ("key", "d"), 1)
    new = Announced(("https://new.example/v1",), ("key", "d"), 2)
    for order in ((old, new), (new, old)):
        (node,) = nodes_of(order, local=False)
        assert node.urls == {Way.OPEN: ("https://new.example/v1",)}


def test_an_address_is_told_once_however_often_it_was_announced() -> None:
    one = Announced(("https://a.example/v1", f"{ONION}/v1"), ("key", "d"), 1)
    other = Announced(("https://a.example/v1",), ("another", "d"), 2)
    nodes = nodes_of((one, other), local=False)
    told = [url for node in nodes for urls in node.urls.values() for url in urls]
    assert len(told) == len(set(told)) == 2


@pytest.mark.parametrize(
    ("url", "way"),
    [
        ("https://a.example/v1", Way.OPEN),
        ("http://a.example/v1", Way.PLAIN),
        (f"{ONION}/v1", Way.TOR),
        *((f"https://{host}/v1", Way.LOCAL) for host in ("localhost", "router", "nas.local")),
        *((f"http://{ip}/v1", Way.LOCAL) for ip in ("127.0.0.1", "10.1.1.1", "169.254.169.254")),
        *((f"http://{ip}/v1", Way.LOCAL) for ip in ("[::1]", "[fe80::1]", "0.0.0.0")),
        ("https://8.8.8.8/v1", Way.OPEN),
    ],
)
def test_how_an_address_is_reached(url: str, way: Way) -> None:
    assert way_to(url) is way
    nodes = nodes_of((Announced((url,)),), local=False)
    assert bool(nodes) is (way is not Way.LOCAL)
    assert nodes_of((Announced((url,)),), local=True)


def test_a_private_name_is_told_by_its_form() -> None:
    assert is_private("LOCALHOST.")
    assert not is_private("api.example")


def test_what_a_node_says_of_itself_is_read_where_it_can_be() -> None:
    told = parse_info(b'{"name": "N", "version": "1", "mints": ["https://m.example", 7]}')
    assert (told.name, told.version, told.mints) == ("N", "1", ("https://m.example",))
    for nothing in (b"", b"[]", b'{"name": 7, "mints": {"a": 1}}', b"\xff"):
        assert parse_info(nothing) == parse_info(b"{}")


words = st.text("au \x1b\x07\x9b\"'\n\r\\#=[]{}\u2028\u202e\ufeff\ud800\U0001f600", max_size=100)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4),
    max_leaves=12,
)
members = st.sampled_from(
    ["providers", "provider", "endpoint_url", "endpoint_urls", "name", "mint_urls", "created_at"]
)


@given(st.dictionaries(members, json_values | st.lists(json_values, max_size=3)))
def test_no_directory_raises(value: object) -> None:
    for body in (value, {"providers": [value, {"provider": value}]}):
        found = parse_directory(json.dumps(body).encode())
        if not isinstance(found, str):
            nodes_of(found, local=False)


@given(json_values, st.sampled_from(["EVENT", "EOSE", "CLOSED", "AUTH"]))
def test_no_message_of_a_relay_raises(value: object, kind: str) -> None:
    announced = {"kind": 38421, "tags": value, "content": value, "created_at": value}
    for message in (value, [kind, "arbstr", value], [kind, value], [kind, "arbstr", announced]):
        nodes_of(heard(message).found, local=False)


@given(words)
def test_a_strangers_word_may_stand_in_a_comment_and_a_terminal(text: str) -> None:
    said = shown(text)
    if said is not None:
        assert said.isprintable()
        assert tomllib.loads(f"a = 1 # {said}\nb = 2") == {"a": 1, "b": 2}
