"""Who may call: every header a browser would send against every configuration, in one table."""

import hmac
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.sansio import callers
from arbstr.sansio.callers import Doorkeeper, fold_headers, host_name, split_target
from arbstr.sansio.secrets import Secret
from tests.searching import examples

TOKEN: Final = "open-sesame"
NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})


def doorkeeper(
    listen: str = "127.0.0.1",
    hosts: tuple[str, ...] = (),
    origins: tuple[str, ...] = (),
    token: str | None = None,
) -> Doorkeeper:
    return Doorkeeper(listen, hosts, origins, None if token is None else Secret(token))


def code(keeper: Doorkeeper, path: str = "/v1/models", **headers: str) -> str | None:
    """The code of the refusal; keyword `sec_fetch_site` is the header `sec-fetch-site`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    refusal = keeper.refuse(path, {"host": "127.0.0.1:8080", **named})
    return None if refusal is None else refusal.code


# ---- Host


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.0.0.1:8080", "127.8.9.1:1", "[::1]", "[::1]:8080"),
        *("localhost", "localhost:8080", "LOCALHOST:80", "localhost.", "app.localhost:3000", ""),
        *("localhost:", "127.0.0.1:", "[::1]:", "localhost.:8080", "127.0.0.1.", "[::1%25lo]:8080"),
    ],
)
def test_every_name_of_loopback_is_known(host: str) -> None:
    assert code(doorkeeper(), host=host) is None


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:8080", "127.0.0.1.evil.example", "localhost.evil.example"),
        *("evillocalhost", "192.168.1.7", "0.0.0.0", "[::]:8080", "[2001:db8::1]"),
        *("2130706433", "0x7f.1", "127.0.0.1@evil.example", "evil.example:127.0.0.1", "[", "]:1"),
        *(
            "[::1].evil.example",
            "[::1]evil.example:8080",
            "[::1]@evil.example",
            "[::1]]",
            "[[::1]]",
        ),
        *("[::1", "::1", "[127.0.0.1", "[::1%lo].evil.example", "[::1]:80:80", ":8080", "[]", "."),
        *("localhost:80.evil.example", "localhost:x", "localhost:²", "localhost..", "localhost:-1"),
        *(
            "me@localhost",
            "me:you@127.0.0.1",
            "evil.example/.localhost",
            "evil.example@a.localhost",
        ),
        *("localhost, evil.example", "evil.example#.localhost", "\xe9.localhost", "a b.localhost"),
    ],
)
def test_any_other_name_may_have_been_rebound_and_is_refused(host: str) -> None:
    assert code(doorkeeper(), host=host) == "forbidden_origin"


def test_a_name_that_is_allowed_is_known_with_any_port_and_in_any_case() -> None:
    keeper = doorkeeper(hosts=("llm.lan", "192.168.1.7"))
    for host in ("llm.lan", "llm.lan:8080", "LLM.lan", "192.168.1.7:1"):
        assert code(keeper, host=host) is None
    assert code(keeper, host="other.lan") == "forbidden_origin"
    assert code(keeper, host="x.llm.lan") == "forbidden_origin"
    assert code(keeper, host="llm.lan.:8080") is None
    assert code(doorkeeper(hosts=("llm.lan.",)), host="llm.lan") is None


def test_the_listen_address_is_known() -> None:
    assert code(doorkeeper("192.168.1.7"), host="192.168.1.7:8080") is None
    assert code(doorkeeper("Box.lan"), host="box.lan") is None
    assert code(doorkeeper("192.168.1.7"), host="192.168.1.8") == "forbidden_origin"
    for host in ("[fe80::1]:8080", "[fe80::1%25eth0]:8080"):  # not every client drops the zone
        assert code(doorkeeper("fe80::1%eth0"), host=host) is None


@pytest.mark.parametrize("listen", ["0.0.0.0", "::"])
def test_who_listens_everywhere_is_reached_by_any_address_but_by_no_other_name(listen: str) -> None:
    keeper = doorkeeper(listen)
    for host in ("192.168.1.7:8080", "[2001:db8::1]:8080", "0.0.0.0", "localhost"):
        assert code(keeper, host=host) is None
    assert code(keeper, host="evil.example") == "forbidden_origin"


def test_a_request_without_a_host_comes_from_no_browser() -> None:
    assert doorkeeper().refuse("/", {}) is None


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("a:1", "a"),
        ("A", "a"),
        ("a:", "a"),
        ("[::1]:80", "::1"),
        ("[::1", None),
        ("::1", None),
        (" a ", "a"),
    ],
)
def test_the_name_is_what_stands_before_the_port(header: str, name: str | None) -> None:
    assert host_name(header) == name


@pytest.mark.parametrize(
    ("target", "split"),
    [
        ("/v1/models", (None, "/v1/models")),
        ("//evil.example/v1", (None, "//evil.example/v1")),
        ("http://localhost:80/v1/models", ("localhost:80", "/v1/models")),
        ("HTTP://a/%2F", ("a", "/%2F")),
        ("https://a", ("a", "")),
        ("http://me@localhost/x", ("me@localhost", "/x")),
        ("http://localhost@evil.example/x", ("localhost@evil.example", "/x")),
        ("http://localhost%2F@evil.example/x", ("localhost%2F@evil.example", "/x")),
        ("http:///x", (None, "")),
        ("http://[/x", (None, "")),
        ("ftp://localhost/x", (None, "")),
        ("localhost:80", (None, "")),
        ("*", (None, "")),
        ("", (None, "")),
    ],
)
def test_a_target_that_is_a_url_names_the_host(target: str, split: tuple[str | None, str]) -> None:
    assert split_target(target) == split


# ---- Origin, Sec-Fetch-Site


def test_a_page_is_refused_unless_its_origin_is_allowed() -> None:
    keeper = doorkeeper(origins=("https://app.example", "http://localhost:3000"))
    for origin in ("https://app.example", "http://localhost:3000"):
        assert code(keeper, origin=origin) is None
        assert code(keeper, origin=origin, sec_fetch_site="cross-site") is None
        assert keeper.allows_origin(origin)
    for origin in (
        *("null", "", "https://evil.example", "http://app.example", "https://app.example:444"),
        *("https://app.example.evil.example", "https://x.app.example", "http://localhost:3001"),
        *("http://127.0.0.1:8080", "https://app.example/"),
    ):
        assert code(keeper, origin=origin) == "forbidden_origin"
        assert not keeper.allows_origin(origin)


def test_a_page_that_hides_its_origin_is_told_by_what_the_browser_adds() -> None:
    assert code(doorkeeper(), sec_fetch_site="cross-site") == "forbidden_origin"
    assert code(doorkeeper(), sec_fetch_site="Cross-Site") == "forbidden_origin"
    for site in ("none", "same-origin", "same-site"):
        assert code(doorkeeper(), sec_fetch_site=site) is None


def test_livez_is_not_open_to_pages() -> None:
    assert code(doorkeeper(), "/livez", origin="https://evil.example") == "forbidden_origin"
    assert code(doorkeeper(), "/livez", host="evil.example") == "forbidden_origin"


def test_a_page_that_may_not_call_is_told_so_and_not_asked_for_the_token() -> None:
    keeper = doorkeeper(token=TOKEN)
    assert code(keeper, origin="https://evil.example") == "forbidden_origin"
    assert (
        code(keeper, origin="https://evil.example", authorization=f"Bearer {TOKEN}")
        == "forbidden_origin"
    )


# ---- the token


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER  ", "Bearer\t"])
def test_the_right_token_opens_every_route(scheme: str) -> None:
    # A tab is no separator (RFC 9110 11.4): then there is no scheme.
    expected = "invalid_token" if "\t" in scheme else None
    assert code(doorkeeper(token=TOKEN), authorization=scheme + TOKEN) == expected


@pytest.mark.parametrize(
    "authorization",
    [
        *("", "Bearer", "Bearer ", "Basic open-sesame", "open-sesame", "Bearer open-sesam"),
        *("Bearer open-sesame2", "Bearer OPEN-SESAME", "Bearer open-sesame, x", "Bearer \xe9"),
        *("Bearer " + "x" * 100_000,),
    ],
)
def test_nothing_else_does(authorization: str) -> None:
    keeper = doorkeeper(token=TOKEN)
    for path in ("/", "/v1/models", "/health", "/providers", "/livez/", "/livez/x", "//livez"):
        assert code(keeper, path, authorization=authorization) == "invalid_token"
    assert code(keeper, "/livez", authorization=authorization) is None


@pytest.mark.parametrize(
    ("path", "version"),
    [
        ("/v1/messages", {}),
        ("/messages/count_tokens", {}),
        ("/v1/models", {"anthropic_version": "1"}),
    ],
)
def test_the_token_may_come_as_anthropics_clients_send_a_key(
    path: str, version: dict[str, str]
) -> None:
    keeper = doorkeeper(token=TOKEN)

    def told(**headers: str) -> str | None:
        return code(keeper, path, **version, **headers)

    assert told(x_api_key=TOKEN) is None
    assert told(x_api_key=TOKEN, authorization="Bearer another's") is None
    assert told(x_api_key="another's", authorization=f"Bearer {TOKEN}") is None
    for key in ("", f"Bearer {TOKEN}", TOKEN[:-1], "\xe9"):
        assert told(x_api_key=key) == "invalid_token"
        assert told(x_api_key=key, authorization="Bearer x") == "invalid_token"
    assert code(keeper, "/v1/models", x_api_key=TOKEN) == "invalid_token"


def test_without_a_token_nobody_is_asked_for_one() -> None:
    assert code(doorkeeper(), authorization="Bearer whatever") is None


def test_a_token_beyond_ascii_is_compared_as_the_bytes_that_are_sent() -> None:
    token = "Öffne dich"
    sent = fold_headers([(b"Authorization", b"Bearer " + token.encode())])
    assert doorkeeper(token=token).refuse("/", sent) is None


def test_the_refusal_says_what_to_send_and_nothing_of_what_was_sent() -> None:
    refusal = doorkeeper(token=TOKEN).refuse("/", {"authorization": "Bearer canary"})
    assert refusal is not None
    assert refusal.status == 401
    assert refusal.type == "authentication_error"
    assert "Authorization: Bearer" in refusal.message
    assert not re.search(f"canary|{TOKEN}", refusal.message)
    assert (b"www-authenticate", b"Bearer") in refusal.headers()
    page = doorkeeper().refuse("/", {"origin": "https://evil.example"})
    assert page is not None
    assert not page.headers()


def test_the_comparison_takes_the_same_time_for_every_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return hmac.compare_digest(one, other)

    monkeypatch.setattr(callers, "hmac", type("hmac", (), {"compare_digest": compare}))
    for authorization in ("", "Basic x", "Bearer", f"Bearer {TOKEN}"):
        for key in ("", "x", TOKEN):
            given = {"authorization": authorization, "x-api-key": key}
            code(doorkeeper(token=TOKEN), "/v1/messages", **given)
            code(doorkeeper(token=TOKEN), "/v1/models", **given)
    assert [other for _, other in compared] == [TOKEN.encode()] * 36


# ---- headers


def test_names_are_folded_and_of_a_repeated_header_the_last_counts() -> None:
    raw = [(b"Host", b"a"), (b"X-Y", b"\xe9"), (b"x-y", b"two")]
    assert fold_headers(raw) == {"host": "a", "x-y": "two"}
    assert fold_headers(raw[:2])["x-y"] == "\xe9"


@given(
    st.text(st.characters(max_codepoint=255)),
    st.dictionaries(
        st.sampled_from(["host", "origin", "sec-fetch-site", "authorization"]),
        st.text(st.characters(max_codepoint=255)),
    ),
    st.sampled_from([None, TOKEN]),
    st.sampled_from(["127.0.0.1", "::", "box.lan"]),
)
@examples(75)
def test_no_header_makes_it_raise(
    path: str, headers: dict[str, str], token: str | None, listen: str
) -> None:
    refusal = doorkeeper(listen, token=token).refuse(path, headers)
    assert refusal is None or refusal.code in ("forbidden_origin", "invalid_token")
