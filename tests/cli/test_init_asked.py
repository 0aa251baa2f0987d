"""`arbstr init --url`: a configuration of what was listed, or none."""

import json
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
    assert "1. type its rates" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("value", "status", "said"),
    [
        (BARE, 401, "answered status 401"),
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


def test_what_is_there_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    Path("config.toml").write_text("mine")
    with listing(PRICED) as (url, _):
        assert main(["init", "--url", url, "--key-env", "A_KEY"]) == 1
    assert Path("config.toml").read_text() == "mine"
    assert "was left alone" in capsys.readouterr().err
