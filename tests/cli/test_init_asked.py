"""`arbstr init --url`: a configuration of what was listed, or none."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from arbstr.cli.commands import main
from arbstr.sansio.config.reader import parse_config

PRICED = {"data": [{"id": "gpt-4o", "sats_pricing": {"prompt": 0.001, "completion": 0.002}}]}
BARE = {"data": [{"id": "gpt-4o"}, {"id": 'a"b'}, {"id": "\x1b[2J"}, {"id": 7}]}


@contextmanager
def listing(value: object, status: int = 200) -> Iterator[tuple[str, list[str | None]]]:
    """A server that lists this, and the keys it was asked with."""
    keys: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            keys.append(self.headers["authorization"])
            body = json.dumps(value).encode()
            self.send_response(status if self.path == "/v1/models" else 404)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/v1", keys
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ARBSTR_CONFIG", raising=False)
    monkeypatch.setenv("A_KEY", "sk-SECRET")


def test_a_node_s_prices_are_followed(capsys: pytest.CaptureFixture[str]) -> None:
    with listing(PRICED) as (url, keys):
        assert main(["init", "--url", url, "--key-env", "A_KEY"]) == 0
    assert keys == ["Bearer sk-SECRET"]
    path = Path("config.toml")
    text = path.read_text("utf-8")
    assert path.stat().st_mode & 0o777 == 0o600
    (provider,) = parse_config(text, {"A_KEY": "k"}).providers
    assert (provider.kind, provider.asks_node) == ("routstr", True)
    printed = capsys.readouterr()
    assert "arbstr check --network" in printed.out
    assert "SECRET" not in text + printed.out + printed.err


def test_an_endpoint_without_prices_has_its_models(capsys: pytest.CaptureFixture[str]) -> None:
    with listing(BARE) as (url, _):
        assert main(["init", "--url", url, "--key-env", "A_KEY", "-c", "other.toml"]) == 0
    (provider,) = parse_config(Path("other.toml").read_text("utf-8"), {"A_KEY": "k"}).providers
    assert provider.models == ("gpt-4o", 'a"b')
    printed = capsys.readouterr().out
    assert "1. type its rates" in printed
    assert "2. arbstr check -c other.toml\n  3. arbstr run -c other.toml" in printed


@pytest.mark.parametrize(
    ("value", "status", "said"),
    [
        (BARE, 401, "status 401 at http://127.0.0.1:"),
        (BARE, 403, "; see that $A_KEY holds its key, whole and without quotes"),
        (BARE, 404, "; give the url as its documentation does (often it ends in /v1, once)"),
        (BARE, 308, "; give the address it moved to"),
        (BARE, 503, "; it is there; try again later"),
        ({"data": []}, 200, "lists no models"),
        ([1], 200, "lists no models"),
    ],
)
def test_what_lists_nothing_is_no_configuration(
    value: object, status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with listing(value, status) as (url, _):
        assert main(["init", "--url", url, "--key-env", "A_KEY"]) == 1
    assert said in capsys.readouterr().err
    assert not Path("config.toml").exists()


def test_both_options_belong_together_and_the_key_must_be_there(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit):
        main(["init", "--url", "http://h.example"])
    assert "--key-env" in capsys.readouterr().err
    monkeypatch.delenv("A_KEY")
    assert main(["init", "--url", "http://h.example", "--key-env", "A_KEY"]) == 1
    assert "export A_KEY=" in capsys.readouterr().err
    monkeypatch.setenv("A_KEY", "k")
    for url, variable, said in (
        ("nonsense", "A_KEY", "--url must be an http:// or https:// URL"),
        ("http://h.example", "A KEY", "--key-env must be the name of a variable"),
    ):
        with pytest.raises(SystemExit) as left:
            main(["init", "--url", url, "--key-env", variable])
        assert left.value.code == 2
        assert said in capsys.readouterr().err


def test_a_key_that_cannot_be_sent_is_told_by_its_variable(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("sk-1\r", "Bearer sk-1"):
        monkeypatch.setenv("A_KEY", key)
        assert main(["init", "--url", "http://127.0.0.1:1", "--key-env", "A_KEY"]) == 1
        assert capsys.readouterr().err == (
            "arbstr: the variable A_KEY must be visible ASCII without blanks or line ends; "
            "set it again\n"
        )


def test_an_onion_service_is_told_its_option_not_a_key_of_a_configuration(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "ALL_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert main(["init", "--url", "http://abc.onion", "--key-env", "A_KEY"]) == 1
    assert capsys.readouterr().err == (
        "arbstr: abc.onion: could not be reached: an onion service can be reached through Tor "
        "alone; Tor is --proxy socks5://127.0.0.1:9050\n"
    )


def test_what_is_there_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    Path("config.toml").write_text("mine")
    with listing(PRICED) as (url, _):
        assert main(["init", "--url", url, "--key-env", "A_KEY"]) == 1
    assert Path("config.toml").read_text() == "mine"
    assert "was left alone" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "environ", "said"),
    [
        ((), {}, "connection refused; see that the url and its port are right, and that it runs"),
        ((), {"https_proxy": "http://p:1"}, "this shell goes through $HTTPS_PROXY"),
        (("--proxy", "socks5://127.0.0.1:1"), {}, "see that the proxy socks5://127.0.0.1:1 runs"),
    ],
)
def test_one_that_is_not_reached_has_a_next_step(
    more: tuple[str, ...],
    environ: dict[str, str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HTTPS_PROXY", "ALL_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert main(["init", "--url", "http://127.0.0.1:1", "--key-env", "A_KEY", *more]) == 1
    assert said in capsys.readouterr().err
    assert not Path("config.toml").exists()


def test_a_proxy_is_one_and_goes_with_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["init", "--url", "http://h", "--key-env", "A_KEY", "--proxy", "nonsense"])
    assert "--proxy " in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["init", "--proxy", "socks5://127.0.0.1:1"])
    assert "--url and --key-env belong together" in capsys.readouterr().err


def test_nobody_is_asked_where_a_configuration_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    Path("config.toml").write_text("mine")
    with listing(BARE) as (url, keys):
        assert main(["init", "--url", url, "--key-env", "A_KEY"]) == 1
    assert "is there already and was left alone" in capsys.readouterr().err
    assert (keys, Path("config.toml").read_text()) == ([], "mine")


def test_what_is_reached_through_a_proxy_is_so_later_too() -> None:
    """One connection: CONNECT, and then the proxy plays the node."""
    asked: list[bytes] = []
    body = json.dumps(PRICED).encode()

    def serve(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection, connection.makefile("rb") as lines:
            for said in (b"", b"content-length: %d\r\n" % len(body)):
                while (line := lines.readline()) not in (b"\r\n", b""):
                    asked.append(line)
                connection.sendall(b"HTTP/1.1 200 OK\r\n" + said + b"\r\n")
            connection.sendall(body)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        proxy = f"http://127.0.0.1:{server.getsockname()[1]}"
        words = ("--url", "http://far.example", "--key-env", "A_KEY", "--proxy", proxy)
        assert main(["init", *words]) == 0
        thread.join()
    assert asked[0].startswith(b"CONNECT far.example:80 ")
    (provider,) = parse_config(Path("config.toml").read_text("utf-8"), {"A_KEY": "k"}).providers
    assert provider.proxy is not None
    assert provider.proxy.shown == proxy
