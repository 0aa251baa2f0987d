"""What a configuration that was read again changes, and what has to wait."""

from typing import Final

import pytest

from arbstr.sansio.config.reader import Config, parse_config
from arbstr.sansio.config.reload import change

ENVIRON: Final = {"ARBSTR_ALPHA_API_KEY": "sk-one", "ARBSTR_BETA_API_KEY": "sk-two"}


def read(text: str, **environ: str) -> Config:
    return parse_config(text, {**ENVIRON, **environ})


def provider(name: str, more: str = "input_rate = 1\noutput_rate = 2", url: str = "") -> str:
    url = url or f"https://{name}.example"
    return f'[[providers]]\nname = "{name}"\nurl = "{url}"\nmodels = ["m"]\n{more}\n'


ALPHA, BETA = provider("alpha"), provider("beta")
PROXY: Final = 'proxy = "socks5://127.0.0.1:9050"\n'
KEYED: Final = 'api_key = "${KEY}"\n'


def test_the_same_file_changes_nothing() -> None:
    found = change(read(ALPHA + BETA), read(ALPHA + BETA))
    assert found.config == read(ALPHA + BETA)
    assert (found.new, found.gone, found.changed, found.waiting) == ((), (), (), ())
    assert found.kept == {"alpha", "beta"}


def test_providers_come_go_and_change() -> None:
    dearer = provider("beta", "input_rate = 3\noutput_rate = 2")
    found = change(read(ALPHA + BETA), read(dearer + provider("gamma")))
    assert (found.new, found.gone, found.changed) == (("gamma",), ("alpha",), ("beta",))
    assert found.kept == {"beta"}
    assert [p.name for p in found.config.providers] == ["beta", "gamma"]


@pytest.mark.parametrize(
    ("after", "kept"),
    [
        pytest.param(read(provider("alpha", KEYED), KEY="sk-one"), True, id="the same key"),
        pytest.param(read(provider("alpha", KEYED), KEY="sk-new"), False, id="another key"),
        pytest.param(read(ALPHA, ARBSTR_ALPHA_API_KEY=""), False, id="no key any more"),
        pytest.param(read(provider("alpha", url="https://b.example")), False, id="another URL"),
        pytest.param(read(provider("alpha", PROXY)), False, id="a proxy"),
        pytest.param(read(provider("alpha", 'kind = "routstr"')), True, id="another kind"),
        pytest.param(read(provider("alpha", "drain_seconds = 1")), True, id="other prices"),
    ],
)
def test_a_circuit_stays_with_name_url_and_key(after: Config, kept: bool) -> None:
    assert change(read(ALPHA), after).kept == ({"alpha"} if kept else frozenset())


@pytest.mark.parametrize(
    ("proxy", "kept"),
    [
        pytest.param("socks5://one:password@127.0.0.1:9050", True, id="the same"),
        pytest.param("socks5://one:another@127.0.0.1:9050", False, id="another password"),
        pytest.param("socks5://127.0.0.1:9050", False, id="no password"),
        pytest.param("socks5://one:password@127.0.0.1:9051", False, id="another port"),
    ],
)
def test_a_circuit_stays_with_the_proxy(proxy: str, kept: bool) -> None:
    before = provider("alpha", 'proxy = "socks5://one:password@127.0.0.1:9050"')
    found = change(read(before), read(provider("alpha", f'proxy = "{proxy}"')))
    assert found.kept == ({"alpha"} if kept else frozenset())
    assert found.changed == (() if kept else ("alpha",))


def test_server_and_database_wait_for_a_restart_and_keep_their_old_values() -> None:
    server = '[server]\nlisten = "127.0.0.1:9"\nmax_body_mb = 1\nauth_token = "secret-token"\n'
    database = '[database]\npath = "other.db"\n'
    old = read(ALPHA)
    found = change(old, read(server + database + BETA))
    assert found.waiting == (
        "server.listen",
        "server.auth_token",
        "server.max_body_mb",
        "database.path",
    )
    assert (found.config.server, found.config.database) == (old.server, old.database)
    assert [p.name for p in found.config.providers] == ["beta"]


def test_every_other_table_counts_at_once() -> None:
    text = (
        '[logging]\nlevel = "debug"\n[policies]\ndefault_strategy = "lowest_cost"\n'
        "[budget]\nsats_per_day = 7\n[retry]\nmax_retries = 0\n[breaker]\nfailures = 1\n"
        "[timeouts]\nidle = 1\n[stream]\nkeepalive = 1\n"
    )
    found = change(read(ALPHA), read(text + ALPHA))
    assert found.waiting == ()
    assert found.config == read(text + ALPHA)
    # Its own timeouts follow from [timeouts], so the provider has changed as well.
    assert found.changed == ("alpha",)
