"""Cases from the field (tests/corpus/cases/operations): starting, configuring and running it.

Each is run through the real command or process, with the input that is beside this project's copy
of it. What was wrong, and with whom it was met, is in the docstring of each test.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from types import MappingProxyType
from typing import IO, Final

import pytest

from arbstr.cli.commands import main
from tests.fakes import FakeProcess, silent_url
from tests.process import (
    CHAT_HEAD,
    PATIENCE,
    ArbstrProcess,
    arbstr_process,
    begin,
    chat_body,
    clean_environ,
    ended,
    run_arbstr,
    wait_until,
    write_config,
)

CASES: Final = Path(__file__).parent / "corpus" / "cases" / "operations"
PROVIDER: Final = "http://127.0.0.1:9001/v1"
"""Where the cases say that a provider is which is well."""

ONE: Final = """
[[providers]]
name = "alpha"
url = "{url}"
models = ["m"]
input_rate = 10
output_rate = 30
"""

MODULE: Final = (sys.executable, "-m", "arbstr")
FULL: Final = Path("/dev/full")

needs_full = pytest.mark.skipif(not FULL.exists(), reason="Linux and FreeBSD have /dev/full")
posix = pytest.mark.skipif(os.name != "posix", reason="a matter of POSIX")


def case(name: str, url: str = PROVIDER) -> str:
    """The configuration of a case, with its provider where ours is."""
    return (CASES / name).read_text("utf-8").replace(PROVIDER, url)


def refused(text: str) -> list[str]:
    """The sentences of `check`, and that `run` refuses it as well."""
    done = run_arbstr("check", config_text=text)
    assert (done.returncode, done.stdout) == (1, "")
    ran = run_arbstr("run", "-l", "127.0.0.1:0", config_text=text)
    assert (ran.returncode, ran.stdout, ran.stderr) == (78, "", done.stderr)
    return done.stderr.splitlines()


# -- the configuration ---------------------------------------------------------------------------


def test_backslash_path() -> None:
    r"""`path = "C:\temp\new.db"` began a ledger with a tab and a line feed in its name."""
    (line,) = refused(case("backslash-path.toml"))
    assert line.startswith("arbstr: config.toml: database.path has a character that cannot be seen")
    assert r"write it in single quotes, like 'C:\temp\new.db', or a path with / instead" in line


def test_backslash_path_that_is_no_toml() -> None:
    r"""With `\U` it was "Invalid hex value; correct it", without a word on the backslash."""
    text = case("backslash-path.toml").replace(r"C:\temp\new.db", r"C:\Users\me\a.db")
    (line,) = refused(text)
    assert "config.toml: line 2, column " in line
    assert r"a backslash in double quotes begins an escape: write it in single quotes" in line


def test_glob_models() -> None:
    """`openai/*` was listed as a model, sent to the provider, and served nothing else."""
    (line,) = refused(case("glob-models.toml"))
    assert 'providers."alpha".models (#1) must not be a pattern' in line
    assert 'list the ids, or write ["*"] for any' in line


def test_unquoted_dot() -> None:
    """That `claude-3.5-sonnet` must be in quotes was not said."""
    (line,) = refused(case("unquoted-dot.toml"))
    assert 'write [providers.model_rates."claude-3.5-sonnet"]' in line


# -- standard output -----------------------------------------------------------------------------

COMMANDS: Final = (
    ("check",),
    ("providers",),
    ("cost", "-m", "modèle-日本", "--text", "hi"),
    ("requests",),
    ("stats", "--group-by", "model"),
)


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the case's configuration and one request in its ledger."""
    place = tmp_path_factory.mktemp("unencodable")
    with arbstr_process(config_text=case("unencodable-output.toml"), directory=place) as process:
        process.chat("modèle-日本")
        process.wait_rows(1)
        assert process.stop() == 0
    return place


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
@pytest.mark.parametrize("encoding", ["cp1252", "ascii:strict", "utf-8"])
def test_unencodable_output(command: Sequence[str], encoding: str, ledger: Path) -> None:
    """A name that standard output could not show was a traceback."""
    with TemporaryFile() as stdout, TemporaryFile() as stderr:
        environ = {"PYTHONIOENCODING": encoding}
        assert ended(begin(command, ledger, environ, stdout=stdout, stderr=stderr)) == 0
        stdout.seek(0)
        stderr.seek(0)
        shown, said = stdout.read().decode(encoding.partition(":")[0]), stderr.read()
    assert said == b""
    if encoding == "utf-8" and command[0] != "check":
        assert "modèle-日本" in shown or "modèle" in shown


@pytest.mark.parametrize(
    "command",
    [("cost", "-m", "modèle-日本", "--text", "hi"), ("stats",), ("requests",)],
    ids=lambda command: command[0],
)
def test_json_is_ascii(command: Sequence[str], ledger: Path) -> None:
    done = run_arbstr(
        *command, "--json", directory=ledger, environ={"PYTHONIOENCODING": "ascii:strict"}
    )
    assert done.returncode == 0
    assert done.stdout.isascii()
    assert json.loads(done.stdout)


def test_a_model_that_cannot_be_shown_is_no_reason_not_to_serve(ledger: Path) -> None:
    with arbstr_process(directory=ledger, environ={"PYTHONIOENCODING": "ascii:strict"}) as process:
        assert r"models         1: mod\xe8le-\u65e5\u672c" in process.stdout()
        assert process.stop() == 0


def test_a_path_that_is_no_text_is_printed(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.toml")
    try:
        (tmp_path / name).write_text(case("unencodable-output.toml"), "utf-8")
    except OSError:
        pytest.skip("this file system takes only names that are text")
    done = run_arbstr("check", "-c", name, directory=tmp_path)
    assert done.returncode == 0
    assert r"caf\udce9.toml: ok" in done.stdout


def with_output(
    stdout: int | IO[bytes], command: Sequence[str], ledger: Path, **environ: str
) -> tuple[int, bytes]:
    """Exit code and stderr of a command with this standard output."""
    with TemporaryFile() as stderr:
        code = ended(begin(command, ledger, environ, stdout=stdout, stderr=stderr))
        stderr.seek(0)
        return code, stderr.read()


EVERY: Final = (*COMMANDS, ("--help",), ("--version",), ("check", "--help"))


@needs_full
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("command", EVERY, ids=" ".join)
def test_output_that_is_full_is_said_in_one_line(
    command: Sequence[str], unbuffered: str, ledger: Path
) -> None:
    with FULL.open("wb") as full:
        done = with_output(full, command, ledger, PYTHONUNBUFFERED=unbuffered)
    assert done == (1, b"arbstr: cannot print: No space left on device\n")


@pytest.mark.parametrize("command", EVERY, ids=" ".join)
def test_a_reader_that_left_is_nothing_wrong(command: Sequence[str], ledger: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        assert with_output(writing, command, ledger) == (0, b"")
    finally:
        os.close(writing)


def only_named_here(
    monkeypatch: pytest.MonkeyPatch, environ: Mapping[str, str] = MappingProxyType({})
) -> None:
    """A command in this process has the environment that it would have in one of its own."""
    wanted = clean_environ(environ)
    for name in os.environ.keys() - wanted.keys():
        monkeypatch.delenv(name)
    for name, value in wanted.items():
        monkeypatch.setenv(name, value)


def in_shell(redirections: str, *arguments: str, directory: Path) -> tuple[int, str, str]:
    """Code, stdout and stderr of a command under `sh -c`, with these redirections."""
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirections}', "sh", *MODULE, *arguments],
        cwd=directory,
        env=clean_environ(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


CLOSED: Final = "arbstr: cannot print: standard output is closed\n"


@posix
def test_closed_output_is_said_in_one_line(ledger: Path) -> None:
    assert in_shell(">&-", "check", directory=ledger) == (1, "", CLOSED)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_closed_output_is_said_by_every_command(
    command: Sequence[str],
    ledger: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What Python makes of it: `sys.stdout` is None."""
    only_named_here(monkeypatch)
    monkeypatch.chdir(ledger)
    monkeypatch.setattr(sys, "stdout", None)
    assert main(command) == 1
    assert capsys.readouterr().err == CLOSED


@posix
def test_closed_error_output_puts_nothing_into_the_output(tmp_path: Path) -> None:
    write_config(tmp_path, "[sever]")
    assert in_shell("2>&-", "providers", directory=tmp_path) == (78, "", "")
    if FULL.exists():
        assert in_shell("2>/dev/full", "providers", directory=tmp_path) == (78, "", "")


@posix
def test_closed_input_is_an_empty_one(ledger: Path) -> None:
    code, out, err = in_shell("<&-", "cost", "-m", "m", "-", directory=ledger)
    assert (code, out) == (1, "")
    assert "Traceback" not in err
    assert len(err.splitlines()) == 1


# -- the directory, and what else the system refuses ---------------------------------------------

IN_NO_DIRECTORY: Final = 'mkdir gone && cd gone && rmdir ../gone && exec "$@"'


def in_no_directory(
    *arguments: str, place: Path, environ: Mapping[str, str]
) -> "subprocess.CompletedProcess[str]":
    """A command whose working directory was removed before it began."""
    return subprocess.run(
        ["sh", "-c", IN_NO_DIRECTORY, "sh", sys.executable, "-m", "arbstr", *arguments],
        cwd=place,
        env=clean_environ({"PYTHONPATH": str(Path(__file__).parents[1]), **environ}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


NO_DIRECTORY: Final = (
    "arbstr: the current directory does not exist any more; change to another one, or give "
    "absolute paths\n"
)

NO_LEDGER: Final = ("providers", "init")
"""They need none, and so no directory to look for it."""


@posix
@pytest.mark.parametrize(
    ("arguments", "named"),
    [(("check",), False), (("run", "-l", "127.0.0.1:0"), False), (("run",), True)],
)
def test_working_directory_gone(arguments: Sequence[str], named: bool, tmp_path: Path) -> None:
    """It was "cannot print: No such file or directory", and nothing was to be printed.

    `named`: the configuration is, from the root, and the ledger, but not from there.
    """
    config = gone_config(tmp_path)
    more = ("-c", str(config)) if named else ()
    environ = {"DATABASE_URL": "a.db"} if named else {}
    done = in_no_directory(*arguments, *more, place=tmp_path, environ=environ)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", NO_DIRECTORY)


def gone_config(directory: Path) -> Path:
    return write_config(directory, case("unquoted-dot.toml").partition("[providers.")[0])


@posix
@pytest.mark.parametrize(
    ("command", "named"),
    [
        (command, named)
        for command in ("check", "providers", "stats", "requests", "init")
        for named in (False, True)
        if not (named and command in NO_LEDGER)
    ],
)
def test_working_directory_gone_is_said_by_every_command(
    command: str,
    named: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = gone_config(tmp_path)
    only_named_here(monkeypatch, {"DATABASE_URL": "a.db"} if named else {})
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert main([command, *(("-c", str(config)) if named else ())]) == 1
    assert capsys.readouterr() == ("", NO_DIRECTORY)


@posix
def test_what_is_named_from_the_root_needs_no_directory(tmp_path: Path) -> None:
    config = write_config(tmp_path, case("unencodable-output.toml"))
    done = in_no_directory("check", "-c", str(config), place=tmp_path, environ={})
    assert done.returncode == 0
    assert f"database   {tmp_path}/arbstr.db\n" in done.stdout


# -- those that need a provider ------------------------------------------------------------------


@pytest.fixture
def provider(fake: FakeProcess) -> str:
    """The URL of a provider that is well and states 10 and 5 tokens."""
    return fake.url_of("fake-usage-10-5")


def listen_anywhere(text: str) -> str:
    return text.replace('[server]\nlisten = "127.0.0.1:8080"\n', "")


def clock_ahead(seconds: int, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which the clock is ahead by so much."""
    place = tmp_path_factory.mktemp("clock")
    shutil.copy(CASES / "shifted_clock.py", place / "sitecustomize.py")
    return {"PYTHONPATH": str(place), "CLOCK_OFFSET": str(seconds)}


def test_black_hole_three_tries(provider: str) -> None:
    """Three tries of ten seconds at an address that says nothing, before the next was asked."""
    with silent_url() as url:
        text = "[timeouts]\nconnect = 0.2\n" + "".join(
            f'[[providers]]\nname = "{name}"\nurl = "{where}"\nmodels = ["m"]\n'
            f"input_rate = {rate}\noutput_rate = {rate}\n"
            for name, where, rate in (("cheap", url, 1), ("dear", provider, 2))
        )
        with arbstr_process(config_text=text) as process:
            answer = process.chat("m")
            assert (answer.status_code, answer.headers["x-arbstr-provider"]) == (200, "dear")
            assert answer.headers["x-arbstr-retries"] == "1/cheap"


def test_one_models_429(fake: FakeProcess) -> None:
    """A 429 for one model of an endpoint rested all of them."""
    text = (
        f'[[providers]]\nname = "alpha"\nurl = "{fake.url}"\nmodels = ["a", "b"]\n'
        "input_rate = 1\noutput_rate = 1\n"
        '[providers.model_ids]\na = "fake-429-86400"\nb = "fake-ok"\n'
    )
    with arbstr_process(config_text=text) as process:
        assert process.chat("a").status_code == 429
        assert process.chat("b").status_code == 200


@posix
def test_own_limit_opens_circuit(provider: str, tmp_path: Path) -> None:
    """Our own lack of descriptors was three failures of a healthy provider."""
    write_config(tmp_path, "[retry]\nbackoff = 0.001\n" + ONE.format(url=provider))
    limited = ("sh", "-c", 'ulimit -n 40; exec "$@"', "sh")
    process = ArbstrProcess(["run", "-l", "127.0.0.1:0"], tmp_path, prefix=limited)
    try:
        process.wait_announced()
        clients = [process.send(b"") for _ in range(60)]
        for client in clients[:3]:
            body = json.dumps(chat_body("m")).encode()
            client.sendall(CHAT_HEAD % len(body) + body)
            client.recv(65_536)
        for client in clients:
            client.close()
        wait_until(lambda: process.ask("GET", "/livez").status_code == 200, "it accepts again")
        assert process.chat("m").status_code == 200
        assert "Traceback" not in process.stderr()
    finally:
        process.close()


def test_clock_ahead_retention(
    provider: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """One start with a clock 40 days ahead emptied the ledger for good."""
    text = listen_anywhere(case("clock-ahead-retention.toml", provider))
    with arbstr_process(config_text=text, directory=tmp_path) as process:
        for _ in range(3):
            assert process.chat("m").status_code == 200
        process.wait_rows(3, status="ok")
        assert process.stop() == 0
    ahead = clock_ahead(3_456_000, tmp_path_factory)
    with arbstr_process(config_text=text, directory=tmp_path, environ=ahead) as process:
        process.wait_stderr("no old requests are removed: the clock says ")
        assert len(process.rows()) == 3
        assert process.stop() == 0


def test_future_rows_budget(
    provider: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What was spent under a clock 200 days ahead was spent on every day until then."""
    text = listen_anywhere(case("future-rows-budget.toml", provider))
    ahead = clock_ahead(17_280_000, tmp_path_factory)
    with arbstr_process(config_text=text, directory=tmp_path, environ=ahead) as process:
        for _ in range(8):
            assert process.chat("m", max_tokens=5).status_code == 200
        assert process.chat("m", max_tokens=5).status_code == 402
        assert process.stop() == 0
    with arbstr_process(config_text=text, directory=tmp_path) as process:
        assert process.chat("m", max_tokens=5).status_code == 200
        assert process.stop() == 0


def test_big_max_tokens(provider: str) -> None:
    """An agent's max_tokens of 32,000 was refused by a day's budget that was not spent at all."""
    request = json.loads((CASES / "big-max-tokens.request.json").read_text("utf-8"))
    request = {name: value for name, value in request.items() if name != "model"}
    budget = "[budget]\nsats_per_day = 500\n"
    with arbstr_process(config_text=budget + ONE.format(url=provider)) as process:
        assert process.chat("m", **request).status_code == 200
    with arbstr_process(
        config_text=f'{budget}hold = "most"\n' + ONE.format(url=provider)
    ) as process:
        answer = process.chat("m", **request)
    assert answer.status_code == 402
    said = answer.json()["error"]["message"]
    assert "32000" in said
    assert "max_tokens" in said
    assert "sats_per_day" in said


@pytest.mark.parametrize("said", ["代码怎么写", "写一段代码", "このコードを直して"])
def test_cjk_keyword(said: str) -> None:
    """Where a letter stood before the keyword, the policy and its cap were silently off."""
    done = run_arbstr("cost", "-m", "m", "--text", said, config_text=case("cjk-keyword.toml"))
    assert done.returncode == 1
    assert "code" in done.stderr
