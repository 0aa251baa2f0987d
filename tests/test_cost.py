"""What a chat would cost, asked of a running arbstr and of the command, also after a restart."""

import json
import os
from collections.abc import Callable
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest

from arbstr.cli import commands as cli
from tests.fakes import FakeProcess
from tests.process import (
    ArbstrProcess,
    arbstr_process,
    chat_body,
    clean_environ,
    wait_until,
    write_config,
)
from tests.sdk import provider

POLICY: Final = '[[policies.rules]]\nname = "code"\nkeywords = ["code"]\n'
LONG: Final = "code " * 80
"""400 bytes: 100 tokens of input."""


def config(fake: FakeProcess) -> str:
    url = fake.url_of("fake-usage-10-40")
    return (
        POLICY
        + provider("dear", url, "gpt-4o", rates=(1, 2))
        + provider("cheap", url, "gpt-4o", "gpt-4o-mini", rates=(1, 1), base_fee="0.1")
    )


def cost(process: ArbstrProcess, said: str = LONG) -> Any:
    reply = process.ask(
        "POST", "/v1/cost", content=json.dumps(chat_body("gpt-4o", said=said)).encode()
    )
    assert reply.status_code == 200, reply.text
    return reply.json()


def outline(quoted: Any) -> list[tuple[str, int, float]]:
    return [
        (one["provider"], one["estimated"]["output_tokens"], one["estimated_cost_sats"])
        for one in quoted["candidates"]
    ]


def held(candidate: Any) -> tuple[int, int, float]:
    aside = candidate["set_aside"]
    return aside["output_tokens"], aside["answers"], aside["cost_sats"]


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory of its own and an environment without settings, for commands run in here."""
    monkeypatch.chdir(tmp_path)
    for name in set(os.environ) - set(clean_environ()):
        monkeypatch.delenv(name)


Command: TypeAlias = Callable[..., str]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `arbstr cost` in the test's directory and returns what it printed."""

    def run(*arguments: str, error: str = "") -> str:
        assert cli.main(("cost", *arguments)) == 0
        printed = capsys.readouterr()
        assert printed.err == error
        return printed.out

    return run


def test_what_was_learnt_outlives_the_process_and_the_command_knows_it(
    fake: FakeProcess, tmp_path: Path, command: Command
) -> None:
    text = config(fake)
    write_config(tmp_path, text)
    guessed = [("cheap", 256, 0.456), ("dear", 256, 0.612)]
    assert outline(json.loads(command("-m", "gpt-4o", "--json", "--text", LONG))) == (guessed)
    assert not (tmp_path / "arbstr.db").exists()
    with arbstr_process(config_text=text, directory=tmp_path) as process:
        assert outline(cost(process)) == guessed
        for _ in range(20):
            assert process.chat("gpt-4o", said="code").status_code == 200
        wait_until(lambda: cost(process)["token_ratio"]["used"], "the twentieth sample")
        learnt = cost(process)
        assert outline(learnt) == [("cheap", 400, 0.6), ("dear", 400, 0.9)]
        assert learnt["token_ratio"]["avg_ratio"] == 4.0
        # 40 tokens came each time, which says nothing of the next answer's length.
        assert [held(one) for one in learnt["candidates"]] == [(256, 20, 0.456), (256, 20, 0.612)]
        assert process.stop() == 0
        assert len(process.rows()) == 20, "asking for the cost leaves no row"
    # Pieces of what the running process said: the rest only a running process knows.
    told = json.loads(command("-m", "gpt-4o", "--json", "--text", LONG))
    assert (outline(told), told["token_ratio"]) == (outline(learnt), learnt["token_ratio"])
    assert [held(one) for one in told["candidates"]] == [held(one) for one in learnt["candidates"]]
    with arbstr_process(config_text=text, directory=tmp_path) as process:
        again = cost(process)
        assert again["token_ratio"] == learnt["token_ratio"]
        assert [held(one) for one in again["candidates"]] == [
            held(one) for one in learnt["candidates"]
        ]
        process.chat("gpt-4o", said="code")
        wait_until(lambda: cost(process)["token_ratio"]["sample_count"] == 21, "the next sample")


TABLE: Final = """\
model     gpt-4o
policy    code
strategy  cheapest
learnt    0 samples, used from 20

   provider  model   tokens in  tokens out   sats  held tokens  held sats
1  cheap     gpt-4o        100         256  0.456         4096      4.296
2  dear      gpt-4o        100         256  0.612         4096      8.292
"""


def test_the_command_reads_a_chat_a_text_or_stdin(
    fake: FakeProcess, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_config(tmp_path, config(fake))
    (tmp_path / "chat.json").write_text(json.dumps(chat_body("gpt-4o", said=LONG)))
    (tmp_path / "other.json").write_text(json.dumps(chat_body("gpt-5", said=LONG)))
    (tmp_path / "prompt.txt").write_text(LONG)
    assert command("chat.json") == TABLE
    assert command("-m", "gpt-4o", "other.json") == TABLE
    assert command("-m", "gpt-4o", "prompt.txt") == TABLE
    assert command("-m", "gpt-4o", "--text", LONG) == TABLE
    monkeypatch.setattr("sys.stdin", TextIOWrapper(BytesIO(LONG.encode())))
    auto = command("-m", "auto", "--policy", "code", "-")
    assert [line.split()[:3] for line in auto.splitlines()[6:]] == [
        ["1", "cheap", "gpt-4o"],
        ["2", "cheap", "gpt-4o-mini"],
        ["3", "dear", "gpt-4o"],
    ]


def test_the_command_reads_the_body_of_every_door(
    fake: FakeProcess, tmp_path: Path, command: Command
) -> None:
    write_config(tmp_path, config(fake))
    bodies: dict[str, dict[str, Any]] = {
        "responses": {"input": LONG, "max_output_tokens": 8},
        "embeddings": {"input": [LONG, LONG]},
        "completions": {"prompt": LONG, "max_tokens": 8, "n": 2},
    }
    tokens = {"responses": (100, 8), "embeddings": (200, 0), "completions": (100, 16)}
    for door, body in bodies.items():
        (tmp_path / "body.json").write_text(json.dumps({"model": "gpt-4o", **body}))
        for arguments in (("body.json",), ("--endpoint", door, "body.json")):
            told = json.loads(command("--json", *arguments))
            assert told["endpoint"] == door
            estimated = told["candidates"][0]["estimated"]
            assert (estimated["input_tokens"], estimated["output_tokens"]) == tokens[door]
        assert f"endpoint  {door}\n" in command("body.json")
        text = json.loads(command("--json", "--endpoint", door, "-m", "gpt-4o", "--text", LONG))
        assert text["endpoint"] == door


CAPPED: Final = '[[policies.rules]]\nname = "r"\nmax_sats_per_request = 5\n'


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("-m", "gpt-5", "--text", "Hi"), 1, 'No provider serves the model "gpt-5".'),
        (("-m", "auto", "--text", "Hi"), 1, "none applies: name one with --policy"),
        (("broken.json",), 1, "The request body is not valid JSON"),
        (("-m", "gpt-4o", "broken.json"), 1, "The request body is not valid JSON"),
        (("missing.json",), 1, "missing.json: cannot be read: No such file or directory"),
        (("--text", "Hi"), 2, "a text needs -m MODEL"),
        (("-m", "gpt-4o"), 2, "one of the arguments FILE --text is required"),
        (("-m", "gpt-4o", "--text", "Hi", "chat.json"), 2, "not allowed with argument"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_priced_is_said_in_one_line(
    arguments: tuple[str, ...],
    code: int,
    said: str,
    fake: FakeProcess,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_config(tmp_path, config(fake))
    (tmp_path / "broken.json").write_text('{"model": ')
    try:
        ended: object = cli.main(("cost", *arguments))
    except SystemExit as usage:
        ended = usage.code
    printed = capsys.readouterr()
    assert (ended, printed.out) == (code, "")
    assert said in printed.err.splitlines()[-1]


def test_who_is_not_asked_stands_below_the_table(
    fake: FakeProcess, tmp_path: Path, command: Command
) -> None:
    write_config(tmp_path, CAPPED + config(fake))
    printed = command("-m", "gpt-4o", "--policy", "r", "--text", LONG)
    assert printed.splitlines()[-1] == (
        "not dear for gpt-4o: it could cost 8.292 sats, over 5 a request"
    )


def test_a_database_that_is_none_costs_only_what_was_learnt(
    fake: FakeProcess, tmp_path: Path, command: Command
) -> None:
    write_config(tmp_path, config(fake))
    (tmp_path / "arbstr.db").write_text("not a database at all")
    error = f"arbstr: {tmp_path}/arbstr.db: nothing learnt (file is not a database)\n"
    assert command("-m", "gpt-4o", "--text", LONG, error=error) == TABLE
