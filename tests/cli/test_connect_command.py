"""`arbstr connect`: what it prints is taken by what it is meant for, and tells no token unasked."""

import ast
import io
import json
import shlex
import tomllib
from pathlib import Path

import pytest

from arbstr.cli.clients import CLIENTS, Client, Syntax
from arbstr.cli.commands import main
from arbstr.cli.connect_command import base_url, told
from arbstr.sansio.endpoints import ENDPOINTS
from tests.process import clean_environ, write_config

ROOT = "http://127.0.0.1:8080"
TOKEN = "the-token-of-[server]"
CONFIG = """
[server]
listen = "0.0.0.0:9100"
auth_token = "${MY_TOKEN}"
[[providers]]
name = "alpha"
url = "http://127.0.0.1:9/v1"
models = ["chatty", "vector", "answerer"]
endpoints = ["chat"]
input_rate = 1
output_rate = 2
[providers.model_endpoints]
"vector" = ["embeddings"]
"answerer" = ["responses", "messages"]
"""
CONNECTED = tuple(client for client in CLIENTS if client.text)


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.environ", clean_environ())


def connect(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert main(["connect", *arguments]) == code
    printed = capsys.readouterr()
    return printed.out if code == 0 else printed.err


def by_name(name: str) -> Client:
    (client,) = (each for each in CLIENTS if each.name == name)
    return client


@pytest.mark.parametrize("client", CONNECTED, ids=lambda client: client.name)
@pytest.mark.parametrize("variable", [None, "MY_TOKEN"])
def test_every_client_is_told_an_address_and_a_key(client: Client, variable: str | None) -> None:
    text = told(client, ROOT, variable, ["m"])
    assert ROOT in text
    assert (f"{ROOT}/v1" in text) == (client.door != "messages")
    assert ("MY_TOKEN" in text) == (variable is not None)
    assert "<" not in text.replace("<key>", "")
    assert client.door in ENDPOINTS


@pytest.mark.parametrize(
    "name", ['a "quoted" one\'s', "back\\slash", "<root>", "$HOME", "vendor/m"]
)
def test_a_name_is_one_word_wherever_it_stands(name: str) -> None:
    """By what reads it: a shell, TOML, JSON, Python."""
    for client in CONNECTED:
        text = told(client, ROOT, "MY_TOKEN", [name, "other"])
        if "<model>" not in client.text:
            continue
        if client.syntax is Syntax.SHELL:
            words = shlex.split(text, comments=True)
            assert any(word.endswith((f"={name}", f"/{name}")) for word in words), client.name
        elif client.where == "In Python":
            strings = [n.value for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Constant)]
            assert {name, f"openai/{name}"} & set(strings), client.name
    assert tomllib.loads(told(by_name("codex"), ROOT, None, [name]))["model"] == name
    opencode = json.loads(told(by_name("opencode"), ROOT, None, [name, "other"]))
    assert list(opencode["provider"]["arbstr"]["models"]) == [name, "other"]
    pi = json.loads(told(by_name("pi"), ROOT, None, [name, "other"]))
    assert [model["id"] for model in pi["providers"]["arbstr"]["models"]] == [name, "other"]


def test_what_a_node_lists_moves_no_cursor() -> None:
    for client in CONNECTED:
        assert "\x1b" not in told(client, ROOT, None, ["m\x1b[2J"])


def test_claude_code_is_told_not_to_pay_twice(capsys: pytest.CaptureFixture[str]) -> None:
    printed = connect(capsys, "claude-code")
    assert "export CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK=1" in printed
    assert "export ANTHROPIC_BASE_URL=http://127.0.0.1:8080\n" in printed


def test_address_model_and_variable_are_those_of_the_configuration(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_config(tmp_path, CONFIG)
    printed = connect(capsys, "codex")
    assert 'base_url = "http://127.0.0.1:9100/v1"' in printed
    assert 'env_key = "MY_TOKEN"' in printed.splitlines()
    assert 'model = "answerer"' in printed  # what is served at its door
    assert "--show-token" in printed
    opencode = connect(capsys, "opencode")
    assert '"models": {"chatty": {}}' in opencode
    assert "{env:MY_TOKEN}" in opencode
    assert 'model = "mine"' in connect(capsys, "codex", "-m", "mine")


def test_the_token_itself_is_printed_when_it_is_asked_for(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_config(tmp_path, CONFIG)
    unset = connect(capsys, "aider", "--show-token", code=1)
    assert "MY_TOKEN is not set here" in unset
    monkeypatch.setenv("MY_TOKEN", TOKEN)
    for client in CONNECTED:
        assert TOKEN not in connect(capsys, client.name)
    shown = connect(capsys, "aider", "--show-token").splitlines()[-1]
    assert shlex.split(shown) == ["export", f"MY_TOKEN={TOKEN}"]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_name_that_the_output_cannot_take_is_told_to_be_an_escape(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = io.BytesIO()
    out = io.TextIOWrapper(taken, encoding=encoding, errors="backslashreplace")
    monkeypatch.setattr("sys.stdout", out)
    assert main(["connect", "aider", "-m", "模型"]) == 0
    out.flush()
    printed = taken.getvalue().decode(encoding)
    assert ("PYTHONIOENCODING=utf-8 arbstr connect" in printed) == (encoding != "utf-8")
    assert ("\\u6a21" in printed) == (encoding != "utf-8")


def test_a_token_in_the_file_gets_a_name(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_config(tmp_path, CONFIG.replace("${MY_TOKEN}", TOKEN))
    printed = connect(capsys, "openai-python")
    assert 'api_key=os.environ["ARBSTR_TOKEN"]' in printed
    assert TOKEN not in printed


def test_without_a_known_model_it_says_where_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert "MODEL is one that `arbstr providers`" in connect(capsys, "codex")


def test_a_client_whose_requests_would_be_refused_is_told_so(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_config(tmp_path, CONFIG.replace(', "messages"]', "]"))
    assert "no provider serves messages" in connect(capsys, "claude-code")
    assert "no provider serves chatty to it" in connect(capsys, "codex", "-m", "chatty")
    assert "no provider serves" not in connect(capsys, "codex")
    assert "no provider serves" not in connect(capsys, "codex", "-m", "answerer")


@pytest.mark.parametrize(
    ("listen", "url"),
    [
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("[::]:80", "http://[::1]:80"),
        ("box.lan:80", "http://box.lan:80"),
        ("0.0.0.0:0", "http://127.0.0.1:PORT"),
    ],
)
def test_the_address_is_one_that_can_be_reached_here(listen: str, url: str) -> None:
    assert base_url(listen) == url


def test_without_a_name_the_clients_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    lines = connect(capsys).splitlines()
    assert [line.split()[0] for line in lines] == [client.name for client in CLIENTS]


def test_a_wrong_name_is_told_the_right_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["connect", "claude"])
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert "did you mean claude-code?" in printed
    assert all(client.name in printed for client in CLIENTS)
    with pytest.raises(SystemExit):
        main(["connect", "zzzz"])
    assert "there is no client zzzz; there are: " in capsys.readouterr().err


def test_what_cannot_be_connected_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    assert "speaks Gemini's own API" in connect(capsys, "gemini-cli", code=1)
