"""The `arbstr` command: what a person types, what they read, and the exit code of both."""

import errno
import logging
import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from arbstr import __version__
from arbstr.cli import commands as cli
from arbstr.cli.config_file import NOT_SET, file_warning
from tests.process import ONE, PATIENCE, arbstr_process, clean_environ, run_arbstr, write_config

UNPRICED = ONE.partition("input_rate")[0]

TWO = """
[server]
listen = "[::1]:7777"
[database]
path = "here.db"
[[providers]]
name = "alpha"
url = "https://someone:PASSWORD@h.example/api/v1/?token=QUERYSECRET"
api_key = "sk-abcSECRETSECRETSECRET"
models = ["m", "n"]
input_rate = 0.1
output_rate = 12.500012345678901234
base_fee = 1
cached_input_rate = 0.0003
cache_write_rate = 0.2
[providers.model_rates."n"]
output_rate = 3
[providers.model_ids]
"n" = "far/n"
[[providers]]
name = "beta.2"
url = "https://node.routstr.com"
models = ["*"]
[[providers]]
name = "gamma"
url = "http://127.0.0.1:9"
models = ["m"]
[[policies.rules]]
name = "code"
keywords = ["code"]
"""
KEPT_ELSEWHERE = f"""{ONE}api_key = "${{NOWHERE}}"
[[providers]]
name = "beta"
url = "http://127.0.0.1:9"
models = ["m"]
"""
TWO_ENVIRON = {"ARBSTR_BETA_2_API_KEY": "cashuBSECRET"}


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty directory and an environment without settings, for commands run in this process.

    Also gives the process its logging back, which a `run` takes for itself.
    """
    monkeypatch.chdir(tmp_path)
    for name in set(os.environ) - set(clean_environ()):
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    level, handlers = logging.root.level, list(logging.root.handlers)
    yield
    logging.root.setLevel(level)
    logging.root.handlers[:] = handlers


def problem(
    capsys: pytest.CaptureFixture[str], *arguments: str, code: int = cli.CONFIGURATION
) -> str:
    """The one line a command that must fail says on stderr, without the program's name.

    `code` is how it ends; `check` has 1 for everything.
    """
    assert cli.main(arguments) == (1 if arguments[0] == "check" else code)
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    return line.removeprefix("arbstr: ")


# -- the program ---------------------------------------------------------------------------------


def test_the_version_is_printed_by_python_dash_m() -> None:
    done = run_arbstr("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"arbstr {__version__}\n", "")


def test_the_help_names_every_command() -> None:
    done = run_arbstr("--help")
    assert done.returncode == 0
    names = ("run", "serve", "check", "providers", "cost", "stats", "requests", "init")
    assert all(name in done.stdout for name in names)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("stat",), 'did you mean "stats"?'),
        (("walk",), "invalid choice: 'walk' (choose from"),
        (("run", "--log-level", "loud"), "--log-level: invalid choice: 'loud'"),
        (("run", "-l", "8080"), "-l/--listen: must be host:port, like 127.0.0.1:8080"),
        (("run", "-l", "127.0.0.1:99999"), "with a port from 0 to 65535"),
        (("run", "--mock-delay", "2"), "--mock-delay and --mock-fail need --mock"),
        (("run", "--mock-fail", "alpha"), "--mock-delay and --mock-fail need --mock"),
        (("run", "--mock", "--mock-delay", "soon"), "number of seconds from 0 to 3600"),
        (("run", "--mock", "--mock-delay", "-1"), "number of seconds from 0 to 3600"),
        (("run", "--mock", "--mock-delay", "nan"), "number of seconds from 0 to 3600"),
        (("check", "--mock"), "unrecognized arguments: --mock"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "said",
)
def test_a_wrong_command_line_exits_with_2_and_says_what_is_right(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert said in printed.err


def test_the_bare_name_says_what_to_do_next(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.main([]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "arbstr run --mock" in printed.out
    assert "arbstr init" in printed.out
    write_config(tmp_path, ONE)
    assert cli.main([]) == 0
    out = capsys.readouterr().out
    assert "start it, by config.toml" in out
    assert "--mock" not in out
    assert all(len(line) <= 80 for line in out.splitlines())


def test_a_ctrl_c_before_anything_serves_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_check", interrupted)
    assert cli.main(["check"]) == 130


@pytest.fixture
def gone() -> Iterator[int]:
    """The writing end of a pipe that nobody reads any more."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


@pytest.mark.parametrize("command", ["check", "providers"])
def test_a_reader_that_goes_away_is_no_error(command: str, gone: int, tmp_path: Path) -> None:
    write_config(tmp_path, ONE)
    done = subprocess.run(
        [sys.executable, "-m", "arbstr", command],
        stdout=gone,
        stderr=subprocess.PIPE,
        env=clean_environ(),
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux and FreeBSD have /dev/full")
def test_a_full_disk_under_the_output_is_said_in_one_line(tmp_path: Path) -> None:
    write_config(tmp_path, ONE)
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "arbstr", "providers"],
            stdout=full,
            stderr=subprocess.PIPE,
            env=clean_environ(),
            timeout=PATIENCE,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == b"arbstr: cannot print: No space left on device\n"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files; raise the limit with"),
        (PermissionError(errno.EACCES, "No", "/a/b"), "/a/b: No; see who may use it"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device; free some"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), "Broken pipe; see what the system says"),
    ],
    ids=repr,
)
def test_what_the_system_refuses_is_not_blamed_on_the_output(
    error: OSError,
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: object) -> int:
        raise error

    monkeypatch.setattr(cli, "_providers", fails)
    assert problem(capsys, "providers", code=1).startswith(f"providers: {said}")


# -- the configuration it finds ------------------------------------------------------------------


@pytest.mark.parametrize("command", ["run", "serve", "check", "providers"])
def test_a_missing_file_is_named_in_full_with_three_ways_out(
    command: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert problem(capsys, command) == (
        f"{tmp_path}/config.toml: there is no such file, nor {tmp_path}/home/arbstr/config.toml; "
        "let `arbstr init` write a first one, name another with -c or $ARBSTR_CONFIG, or try "
        "`arbstr run --mock`, which needs none"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "[server\n",
            "config.toml: line 1, column 8: not TOML: "
            "Expected ']' at the end of a table declaration; correct it",
        ),
        (
            f'[server]\nlissten = "x"\n{ONE}',
            'config.toml: server.lissten is not a known key; did you mean "listen"?',
        ),
        (
            f'[server]\nlisten = "localhost"\n{ONE}',
            "config.toml: server.listen must be host:port, like 127.0.0.1:8080 or [::1]:8080, "
            "with a port from 0 to 65535",
        ),
        (
            "",
            "config.toml: providers: there are none; add a [[providers]] table "
            "(`arbstr init -c PATH` writes examples)",
        ),
    ],
    ids=["broken TOML", "unknown key", "bad listen address", "no providers"],
)
@pytest.mark.parametrize("command", ["run", "check", "providers", "cost"])
def test_a_fault_of_the_file_is_one_line_with_file_key_and_remedy(
    command: str, text: str, said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_config(tmp_path, text)
    asked = ["-m", "m", "--text", "Hello!"] if command == "cost" else []
    assert problem(capsys, command, *asked) == said


@pytest.mark.parametrize("command", ["run", "check"])
def test_who_needs_a_key_names_the_variable_that_is_not_set(
    command: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_config(tmp_path, KEPT_ELSEWHERE)
    assert problem(capsys, command) == (
        'config.toml: providers."alpha".api_key needs the environment variable NOWHERE, '
        "which is not set; set it"
    )


def test_what_sends_nothing_needs_no_keys(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who reads them is often not in the shell that has them."""
    write_config(tmp_path, KEPT_ELSEWHERE)
    for command in (
        ("cost", "-m", "m", "--text", "Hello!"),
        ("connect", "aider"),
        ("service",),
    ):
        assert cli.main(command) == 0
        printed = capsys.readouterr()
        assert (printed.err, NOT_SET in printed.out) == ("", False)
    assert cli.main(["providers"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.splitlines()[0] == (
        "alpha  http://127.0.0.1:9/v1  no key here (${NOWHERE} is not set)"
    )
    assert "no key (ARBSTR_BETA_API_KEY is not set)" in printed.out
    monkeypatch.setenv("NOWHERE", "sk-abcSECRETSECRETSECRET")
    monkeypatch.setenv("ARBSTR_BETA_API_KEY", "another")
    assert cli.main(["providers"]) == 0
    printed = capsys.readouterr()
    assert "key sk-abc...*** (from ${NOWHERE})" in printed.out
    assert "key [REDACTED] (from environment)" in printed.out
    assert "SECRET" not in printed.out


def test_every_fault_has_a_line_of_its_own(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_config(tmp_path, f"[server]\nlissten = 1\n[databse]\n{ONE}input_rat = 1\n")
    assert cli.main(["check"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("arbstr: config.toml: ") for line in lines)


def test_a_file_that_is_no_text_and_one_that_is_no_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    assert problem(capsys, "check", "-c", "binary") == "binary: is not UTF-8; save it as UTF-8"
    assert problem(capsys, "check", "-c", ".") == (
        ".: cannot be read: Is a directory; mend that, or name another with -c"
    )


def test_dash_c_goes_before_the_environment_and_that_before_the_directory(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two", "three"):
        (tmp_path / name).write_text(ONE.replace("alpha", name), "utf-8")
    (tmp_path / "three").rename(tmp_path / "config.toml")
    assert cli.main(["providers"]) == 0
    monkeypatch.setenv("ARBSTR_CONFIG", "two")
    assert cli.main(["providers"]) == 0
    assert cli.main(["providers", "-c", "one"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()[::2]]
    assert names == ["three", "two", "one"]


# -- check and providers -------------------------------------------------------------------------


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in TWO_ENVIRON.items():
        monkeypatch.setenv(name, value)
    return write_config(tmp_path, TWO)


@pytest.mark.usefixtures("two")
def test_check_prints_what_arbstr_would_do_and_warns(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.main(["check"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.splitlines() == [
        "config.toml: ok",
        "listen     [::1]:7777",
        f"database   {tmp_path}/here.db",
        "policies   1",
        "budget     none",
        "providers  3",
        "  alpha  https://h.example/api/v1/chat/completions  kind openai  "
        "key sk-abc...*** (from config)",
        "  beta.2  https://node.routstr.com/v1/chat/completions  kind routstr  "
        "key [REDACTED] (from environment)",
        "  gamma  http://127.0.0.1:9/v1/chat/completions  kind openai  "
        "no key (ARBSTR_GAMMA_API_KEY is not set)",
        'warning: config.toml: providers."alpha".api_key is written into the file; write '
        "${VARIABLE}, or leave it out and set ARBSTR_ALPHA_API_KEY",
        'warning: config.toml: providers."alpha".url has a user and password that are not sent: '
        "api_key is",
        'warning: config.toml: providers."alpha".url has a value in its query, perhaps a key, that '
        "is written into the file; write ${VARIABLE}",
        'warning: config.toml: providers."gamma" has no rates: it comes after every priced one '
        "and is refused under any cap or budget",
    ]


@pytest.mark.usefixtures("two")
def test_providers_prints_models_and_prices(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["providers"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    caches = "cached in 0.0003, cache writes 0.2 sats per 1000 tokens; 1 a request"
    assert printed.out.splitlines() == [
        "alpha  https://h.example/api/v1/  key sk-abc...*** (from config)",
        f"  m  in 0.1, out 12.5, {caches}",
        f"  n (as far/n)  in 0.1, out 3, {caches}",
        "beta.2  https://node.routstr.com  key [REDACTED] (from environment)",
        "  prices: it has not been asked yet; `arbstr run` does, and `check --network`",
        "gamma  http://127.0.0.1:9  no key (ARBSTR_GAMMA_API_KEY is not set)",
        "  m  no rates: never the cheapest, refused under any cap or budget",
    ]


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize("command", ["check", "providers"])
def test_no_key_can_be_read_off_the_screen(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main([command])
    printed = capsys.readouterr()
    assert "SECRET" not in printed.out + printed.err
    assert "PASSWORD" not in printed.out + printed.err


def test_check_touches_no_database_and_refuses_a_database_url_it_could_not_use(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_config(tmp_path, ONE)
    monkeypatch.setenv("DATABASE_URL", "sqlite:///ledger.db")
    assert cli.main(["check"]) == 0
    assert f"database   {tmp_path}/ledger.db\n" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["config.toml"]
    monkeypatch.setenv("DATABASE_URL", "mysql://someone:PASSWORD@h/db")
    said = problem(capsys, "check")
    assert said.startswith("DATABASE_URL: a mysql: URL")
    assert "give a path, sqlite:///path without parameters, or postgresql://" in said
    assert "PASSWORD" not in said


@pytest.mark.skipif(os.name != "posix", reason="modes are a matter of POSIX")
def test_check_warns_of_a_file_that_others_may_read(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_config(tmp_path, ONE).chmod(0o640)
    assert cli.main(["check"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        "warning: config.toml: others can read it (mode 0640); run `chmod 600 config.toml`"
    )


def test_nobody_is_told_to_lock_a_device(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert file_warning(Path(os.devnull)) is None
    monkeypatch.setattr("arbstr.cli.config_file.MOST_CHARACTERS", 10)
    for path in (os.devnull, "/dev/zero"):  # which is empty, and which never ends
        assert cli.main(["check", "-c", path]) == 1
    empty, endless = capsys.readouterr().err.splitlines()
    assert "providers: there are none" in empty
    assert endless.endswith(
        "/dev/zero: is no configuration, but something far larger; name another with -c"
    )


@pytest.mark.parametrize("command", [("connect", "codex"), ("service",), ("check",)])
def test_a_file_of_a_windows_editor_is_read_the_same_by_every_command(
    command: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token = '[server]\nauth_token = "${MY_TOKEN}"\n'
    text = f"\ufeff{token}{ONE}".replace("\n", "\r\n")
    (tmp_path / "config.toml").write_bytes(text.encode())
    cli.main(command)
    printed = capsys.readouterr()
    assert "MY_TOKEN" in printed.out + printed.err


# -- run: what keeps it from starting ------------------------------------------------------------


def test_a_port_in_use_is_named_with_both_remedies() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run_arbstr("run", "-l", address, config_text=UNPRICED)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"arbstr: cannot listen on {address}: Address already in use; stop the program that uses "
        "it, or choose another address with [server] listen or -l HOST:PORT\n"
    )


def test_an_address_of_another_machine_is_not_called_in_use(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_config(tmp_path, ONE)
    # 192.0.2.0/24 is nobody's (RFC 5737).
    assert problem(capsys, "run", "-l", "192.0.2.1:8080", "--allow-unauthenticated", code=1) == (
        "cannot listen on 192.0.2.1:8080: Cannot assign requested address; "
        "choose another address with [server] listen or -l HOST:PORT"
    )


def test_a_database_of_another_program_is_refused_and_not_touched(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_config(tmp_path, ONE)
    foreign = tmp_path / "theirs.db"
    with closing(sqlite3.connect(foreign)) as connection:
        connection.execute("CREATE TABLE notes (text)")
    before = foreign.read_bytes()
    monkeypatch.setenv("DATABASE_URL", str(foreign))
    assert problem(capsys, "run", "-l", "127.0.0.1:0", code=1) == (
        f"database {foreign}: it belongs to another program: "
        "choose another file with [database] path or $DATABASE_URL"
    )
    assert foreign.read_bytes() == before


def test_a_database_url_of_another_scheme_is_refused_without_its_text(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_config(tmp_path, ONE)
    monkeypatch.setenv("DATABASE_URL", "mysql://u:PASSWORD@h/db")
    said = problem(capsys, "run")
    assert said.startswith("DATABASE_URL: a mysql: URL of this form cannot be used")
    assert "PASSWORD" not in said


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"])
def test_whoever_listens_to_the_world_must_have_a_token_or_say_so(
    address: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_config(tmp_path, ONE)
    said = problem(capsys, "run", "-l", address)
    assert said.startswith(f"listening on {address} would let anyone who can reach this machine")
    assert "set [server] auth_token" in said
    assert "--allow-unauthenticated" in said


def test_a_token_lets_it_listen_to_the_world(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_config(tmp_path, f'[server]\nauth_token = "let-me-in"\n{ONE}')
    monkeypatch.setattr("arbstr.cli.run_command.serve", lambda *_: 0)
    assert cli.main(["run", "-l", "0.0.0.0:0"]) == 0


def test_a_mock_that_is_to_fail_must_exist(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["run", "--mock", "--mock-fail", "mock-chaep"])
    assert left.value.code == 2
    assert capsys.readouterr().err.endswith(
        "arbstr run: error: --mock-fail: there is no provider mock-chaep; did you mean mock-cheap? "
        "There are: mock-cheap, mock-expensive\n"
    )


def test_the_token_of_mocks_must_be_there_although_their_keys_need_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token = '[server]\nauth_token = "${A_TOKEN_THAT_IS_NOT_SET}"\n'
    write_config(tmp_path, f'{token}{ONE}api_key = "${{A_KEY_THAT_IS_NOT_SET}}"\n')
    assert cli.main(["run", "--mock", "-c", "config.toml"]) == cli.CONFIGURATION
    assert "server.auth_token needs the environment variable" in capsys.readouterr().err


def test_a_log_level_nobody_knows_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARBSTR_LOG", "chatty")
    said = "ARBSTR_LOG must be one of debug, info, warning, error"
    assert problem(capsys, "run", "--mock") == said
    assert problem(capsys, "serve", "--mock") == said


@pytest.mark.parametrize(
    ("text", "environ"),
    [
        (ONE, {"ARBSTR_LOG": "chatty"}),
        (ONE, {"DATABASE_URL": "mysql://x/y"}),
        (f'{ONE}[server]\nworkers = 2\n[database]\npath = ":memory:"\n', {}),
    ],
)
def test_what_run_refuses_check_tells_of(
    text: str,
    environ: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_config(tmp_path, text)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert problem(capsys, "check", code=1) == problem(capsys, "run")


def test_providers_lists_what_has_an_entry_beside_any_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = '[providers.model_rates."q"]\noutput_rate = 3\n[providers.model_ids]\n"n" = "far/n"\n'
    write_config(tmp_path, ONE.replace('["m"]', '["*"]') + entries)
    assert cli.main(["providers"]) == 0
    assert [line.split("  ")[1:3] for line in capsys.readouterr().out.splitlines()[1:]] == [
        ["*", "in 1, out 2 sats per 1000 tokens; 0 a request"],
        ["q", "in 1, out 3 sats per 1000 tokens; 0 a request"],
        ["n (as far/n)", "in 1, out 2 sats per 1000 tokens; 0 a request"],
    ]


def test_started_to_listen_to_the_world_it_does_and_its_warnings_are_lines_of_the_log(
    tmp_path: Path,
) -> None:
    ledger = tmp_path / "arbstr.db"
    ledger.touch()
    ledger.chmod(0o644)
    with arbstr_process(
        config_text=UNPRICED,
        arguments=["--allow-unauthenticated"],
        listen="0.0.0.0:0",
        directory=tmp_path,
    ) as process:
        assert process.url.startswith("http://127.0.0.1:")
        assert process.ask("GET", "/v1/models").status_code == 200
        assert process.stop() == 0
    said = process.stderr()
    assert ' WARNING config.toml: providers."alpha" has no rates' in said.splitlines()[0]
    assert said.count(f" WARNING {ledger}: others can read it (mode 0644)") == 1


def test_check_and_providers_print_the_apis_of_who_has_not_all(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.toml").write_text(
        '[[providers]]\nname = "alpha"\nurl = "http://127.0.0.1:9"\nmodels = ["m", "n"]\n'
        'endpoints = ["chat", "responses"]\nmodel_endpoints = { n = ["embeddings"] }\n'
    )
    assert cli.main(["check"]) == 0
    assert "is not set)  serves chat, responses only\n" in capsys.readouterr().out
    assert cli.main(["providers"]) == 0
    alpha, one, other = capsys.readouterr().out.splitlines()
    assert alpha.endswith("  serves chat, responses only")
    assert "serves" not in one
    assert other.endswith("  serves embeddings only")
