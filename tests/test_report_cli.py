"""`arbstr stats` and `arbstr requests`: what a person asks, and reads.

The pages show what they print about the ledger of tests/weeks.py (tests/test_readme.py).
"""

import csv
import io
import json
import os
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest

from arbstr.cli import commands as cli
from arbstr.sansio.ledger.reports import REQUESTS_PARAMETERS, STATS_PARAMETERS
from tests.ledgers import attempt, request, write_ledger
from tests.process import ONE, arbstr_process, clean_environ, run_arbstr, write_config
from tests.weeks import a_week

ROOT = Path(__file__).parents[1]

CONFIG = """
[database]
path = "ledger/here.db"
[[providers]]
name = "alpha"
url = "${ALPHA_URL}"
api_key = "${ALPHA_KEY}"
models = ["gpt-4o"]
"""


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty directory and an environment without settings."""
    monkeypatch.chdir(tmp_path)
    for name in {*os.environ} - {*clean_environ()} | {"COLUMNS", "NO_COLOR", "FORCE_COLOR"}:
        monkeypatch.delenv(name, raising=False)


class Asked:
    """What a command printed, and its exit code."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err

    @property
    def json(self) -> Any:
        assert (self.code, self.err) == (0, ""), self.err
        return json.loads(self.out)


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> "Ask":
    return Ask(capsys)


class Ask:
    """Runs a command in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Asked:
        self._capsys.readouterr()
        try:
            code = cli.main(arguments)
        except SystemExit as ended:
            code = int(ended.code or 0)
        printed = self._capsys.readouterr()
        return Asked(code, printed.out, printed.err)


# -- the same questions as over HTTP


SPAN = ("--since", "2026-02-03", "--until", "2026-02-04")
LOST = attempt(provider="beta", failure="no_answer", money="unknown", http_status=None)


def small_ledger(path: str = "arbstr.db") -> None:
    write_ledger(
        Path(path),
        [
            request("abcd-1", policy="code", tries=[attempt()]),
            request("abcd-2", streaming=1, cost_sats=0.00025, tries=[LOST, attempt()]),
            request("abce-3", status="rejected", provider=None, cost_sats=None),
        ],
    )


def test_every_parameter_of_the_routes_is_an_option(ask: Ask) -> None:
    for command, names in (("stats", STATS_PARAMETERS), ("requests", REQUESTS_PARAMETERS)):
        done = ask(command, "--help")
        assert done.code == 0
        for name in names:
            assert f"--{name.replace('_', '-')} " in done.out


def test_a_request_that_joined_another_says_whose_answer_it_got(ask: Ask) -> None:
    again = request("again-0001", joined="first-abcd", cost_sats=0.0)
    write_ledger(Path("arbstr.db"), [request("first-abcd", tries=[attempt()]), again])
    assert "joined rst-abcd" in ask("requests", *SPAN).out
    assert "joined    the answer of first-abcd, which has the cost" in ask("requests", "0001").out
    assert "1 repeat got an answer that was paid for before" in ask("stats", *SPAN).out
    assert "repeat" not in ask("stats", *SPAN, "--endpoint", "messages").out


def test_json_is_what_the_routes_answer(tmp_path: Path) -> None:
    with arbstr_process(config_text=ELSEWHERE.format(tmp_path=tmp_path)) as process:
        process.database = tmp_path / "other.db"
        for said in ("one", "two"):
            assert process.chat("gpt-4o", said=said).status_code == 404
        process.wait_rows(2)
        environ = {"DATABASE_URL": str(tmp_path / "other.db")}
        over_http = process.ask("GET", "/v1/stats")
        for command, route in (
            (["stats", "--group-by", "day"], "stats?group_by=day"),
            (["requests", "--per-page", "1", "--order", "asc"], "requests?per_page=1&order=asc"),
            (["requests", "--status", "rejected"], "requests?status=rejected"),
        ):
            until = ["--since", "2026-01-01", "--until", "9999-01-01"]
            # The proxy runs meanwhile, and its journal is there.
            printed = run_arbstr(*command, *until, "--json", environ=environ)
            over_http = process.ask("GET", f"/v1/{route}&since=2026-01-01&until=9999-01-01")
            assert json.loads(printed.stdout) == over_http.json()
        request_id = over_http.json()["data"][0]["correlation_id"]
        printed = run_arbstr("requests", request_id[-8:], "--json", environ=environ)
        assert json.loads(printed.stdout) == process.ask("GET", f"/requests/{request_id}").json()
        assert process.stop() == 0


ELSEWHERE = """
[database]
path = "{tmp_path}/other.db"
[[providers]]
name = "alpha"
url = "http://127.0.0.1:9"
models = ["m"]
"""


def test_a_bad_value_is_a_usage_error_and_an_unknown_name_is_none(ask: Ask) -> None:
    small_ledger()
    usage: tuple[tuple[tuple[str, ...], str], ...] = (
        (("stats", "--range", "week"), "arbstr: --range must be one of last_1h, last_24h"),
        (("stats", "--group-by", "id"), "arbstr: --group-by must be one of model, provider"),
        (("stats", "--since", "tuesday"), "arbstr: --since must be a date or time"),
        (("stats", "--model", ""), "arbstr: --model is empty"),
        (
            ("requests", "--per-page", "1000"),
            "arbstr: --per-page must be a whole number from 1 to 100",
        ),
        (
            ("requests", "--sort", "id; DROP TABLE requests"),
            "arbstr: --sort must be one of timestamp",
        ),
        (("requests", "--unknown-cost", "1"), "arbstr: --unknown-cost must be one of true, false"),
        (
            ("stats", "--range", "today", "--until", "today"),
            "goes with no --since or --until",
        ),
        (("requests", "abcd", "--page", "2"), "an ID goes with no other option but --json"),
        (("requests", "abc"), "an ID needs its first or last 4 characters at least"),
        (("stats", "--modell", "m"), "unrecognized arguments"),
    )
    for arguments, said in usage:
        done = ask(*arguments)
        assert (done.code, done.out) == (2, ""), arguments
        assert said in done.err
    unknown: tuple[tuple[tuple[str, ...], str], ...] = (
        (("stats", *SPAN, "--model", "m"), 'No model "m" is configured, and the log has none'),
        (("stats", *SPAN, "--model", "m", "--json"), 'Known are "gpt-4o".'),
        (("requests", *SPAN, "--provider", "\udcff"), 'Known are "alpha", "beta".'),
        (("requests", "zzzz"), "The log has no request with this id."),
        (("requests", "zzzz\udcff", "--json"), "The log has no request with this id."),
        (("requests", "abcd"), "Several ids begin or end so; give more of it."),
    )
    for arguments, said in unknown:
        done = ask(*arguments)
        assert (done.code, done.out) == (1, ""), arguments
        assert done.err.startswith("arbstr: ")
        assert said in done.err


def test_a_whole_id_is_found_though_another_begins_like_it(ask: Ask) -> None:
    write_ledger(Path("arbstr.db"), [request("abcd"), request("abcd-e")])
    assert ask("requests", "abcd", "--json").json["correlation_id"] == "abcd"


def test_an_id_is_found_by_its_beginning_or_its_end(ask: Ask) -> None:
    ids = ["019c3b68-0001-7aaaaaaa", "019c3b68-0002-7bbbbbbb", "019d0000-0003-7aabbbbb"]
    write_ledger(Path("arbstr.db"), [request(each) for each in ids])
    for part, whole in (
        ("019c3b68-0001", ids[0]),
        ("019d", ids[2]),
        ("7bbbbbbb", ids[1]),
        ("aabbbbb", ids[2]),
        (ids[1], ids[1]),
    ):
        assert ask("requests", part, "--json").json["correlation_id"] == whole
    for part, said in (
        ("019c", "Several ids begin or end so"),
        ("bbbbb", "Several ids begin or end so"),
        ("0002", "The log has no request with this id"),
        ("%bbb", "The log has no request with this id"),
    ):
        done = ask("requests", part)
        assert (done.code, done.out) == (1, "")
        assert said in done.err


def test_the_list_shows_of_an_id_what_finds_it(ask: Ask) -> None:
    write_ledger(Path("arbstr.db"), a_week())
    lines = ask("requests", *SPAN).out.splitlines()
    shown = [line.split()[2] for line in lines if re.match(r"02-0\d ", line)]
    assert len(set(shown)) == len(shown) > 5
    for end in shown:
        assert ask("requests", end, "--json").json["correlation_id"].endswith(end)


# -- where they look


def test_requests_of_unknown_cost_are_listed_however_many_there_are(ask: Ask) -> None:
    rows = [request(f"known-{n:03}", tries=[attempt()]) for n in range(120)]
    lost = {**dict(LOST), "cost_sats": None}
    odd = [request("lost-0001", status="failed", cost_sats=None, tries=[lost])]
    blank = attempt(cost_sats=None, input_tokens=None, output_tokens=None)
    odd += [request(f"odd-000{n}", cost_sats=None, tries=[blank]) for n in range(2)]
    write_ledger(Path("arbstr.db"), [*odd, *rows])
    counted = ask("stats", *SPAN, "--json").json["counts"]["unknown_cost"]
    found = ask("requests", *SPAN, "--unknown-cost", "true", "--json").json
    assert found["total"] == counted == len(found["data"]) > 0
    assert all(row["cost"]["cost_sats"] is None for row in found["data"])
    others = ask("requests", *SPAN, "--unknown-cost", "false", "--json").json
    assert others["total"] == len(odd) + len(rows) - counted


def test_without_a_database_one_line_says_what_to_do(ask: Ask, tmp_path: Path) -> None:
    for command in ("stats", "requests"):
        done = ask(command)
        assert (done.code, done.out) == (1, "")
        assert done.err == (
            f"arbstr: database {tmp_path}/arbstr.db: there is no such file yet: "
            "let `arbstr run` begin it (what `run --mock` was asked: arbstr stats --mock), or "
            "choose another file with [database] path or $DATABASE_URL\n"
        )
    assert not Path("arbstr.db").exists()


@pytest.mark.parametrize("command", [("stats",), ("requests",), ("backup", "copy.db")])
def test_what_is_no_file_is_called_so_and_no_error_of_the_disk(
    ask: Ask, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("folder").mkdir()
    os.mkfifo("pipe")
    for place, said in (
        ("folder", "it is a directory: choose another file with"),
        ("pipe", "it is no regular file: choose another file with"),
        ("a" * 300, "it cannot be looked at (File name too long): see who may read it, and the"),
    ):
        monkeypatch.setenv("DATABASE_URL", place)
        done = ask(*command)
        assert (done.code, done.out, said in done.err) == (1, "", True), done.err


def test_what_may_not_be_looked_at_is_not_the_ledger_of_mocks(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_ledger("mocks.db")
    monkeypatch.setattr("arbstr.cli.mock_ledger.latest", lambda anywhere: "mocks.db")
    assert "these are the requests of `arbstr run --mock`" in ask("stats").err
    for place, said in (
        ("a" * 300, "it cannot be looked at (File name too long)"),
        (":memory:", "the ledger is kept in memory: ask the arbstr that has it, by GET /v1/stats"),
    ):
        monkeypatch.setenv("DATABASE_URL", place)
        done = ask("stats")
        assert (done.code, done.out, said in done.err) == (1, "", True), done.err


def test_a_move_names_its_own_options(ask: Ask) -> None:
    small_ledger()
    Path("folder").mkdir()
    Path("notes.txt").write_text("not a ledger, and long enough to be looked at" * 50)
    for options, said in (
        (("--to", "folder"), "folder: it is a directory: choose another file with --to\n"),
        (("--to", "no/a.db"), "/no does not exist: create it, or choose another file with --to\n"),
        (("--from", "notes.txt", "--to", "a.db"), "or choose another file with --from\n"),
        (("--from", "folder", "--to", "a.db"), "it is a directory: choose another file with --f"),
    ):
        done = ask("migrate", *options)
        assert (done.code, done.out, said in done.err) == (1, "", True), done.err


def test_the_configuration_says_which_database_though_its_variables_are_not_set(ask: Ask) -> None:
    Path("ledger").mkdir()
    small_ledger("ledger/here.db")
    Path("config.toml").write_text(CONFIG.replace("${ALPHA_URL}", "http://127.0.0.1:9"))
    assert ask("stats", *SPAN, "--json").json["counts"]["total"] == 3


def test_the_environment_names_the_database(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    small_ledger("elsewhere.db")
    monkeypatch.setenv("DATABASE_URL", "sqlite:///elsewhere.db")
    assert ask("requests", *SPAN, "--json").json["total"] == 3


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (CONFIG, 'providers."alpha".url needs the environment variable ALPHA_URL'),
        (CONFIG.replace("ledger/here", "${PLACE}"), "database.path needs the environment variable"),
        ("[database]\npaht = 1", 'database.paht is not a known key; did you mean "path"?'),
    ],
)
def test_a_configuration_that_cannot_be_read_is_said_to_be_so(
    config: str, said: str, ask: Ask
) -> None:
    Path("config.toml").write_text(config)
    done = ask("stats")
    assert done.code == cli.CONFIGURATION
    assert said in done.err


def test_a_named_configuration_must_be_there(ask: Ask) -> None:
    assert "nowhere.toml: there is no such file" in ask("stats", "-c", "nowhere.toml").err


def test_files_of_others_and_of_other_versions_are_refused(ask: Ask) -> None:
    def refused(sql: str) -> str:
        Path("arbstr.db").unlink(missing_ok=True)
        with closing(sqlite3.connect("arbstr.db")) as connection:
            connection.executescript(sql)
        before = Path("arbstr.db").read_bytes()
        done = ask("stats")
        assert (done.code, done.out, len(done.err.splitlines())) == (1, "", 1)
        assert Path("arbstr.db").read_bytes() == before
        return done.err

    assert "it belongs to another program" in refused("CREATE TABLE theirs (x)")
    ours = f"PRAGMA application_id = {0x61726273}; CREATE TABLE requests (x);"
    assert "a newer arbstr wrote it (schema 99" in refused(f"{ours} PRAGMA user_version = 99")
    assert "start `arbstr run` once" in refused(f"{ours} PRAGMA user_version = 1")
    Path("arbstr.db").write_bytes(b"not a database, but long enough to be looked at" * 100)
    assert "file is not a database" in ask("stats").err


def test_a_ledger_nobody_has_open_is_read_from_a_directory_nobody_may_write_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As root no directory is closed; the check is told so.
    small_ledger("arbstr.db")
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not (mode & os.W_OK) and real(path, mode))
    assert cli.main(["stats", *SPAN, "--json"]) == 0
    assert os.listdir(tmp_path) == ["arbstr.db"]


def test_what_a_killed_arbstr_left_in_its_journal_is_read(tmp_path: Path) -> None:
    config = ELSEWHERE.format(tmp_path=tmp_path)
    with arbstr_process(config_text=config, directory=tmp_path) as process:
        process.database = tmp_path / "other.db"
        assert process.chat("gpt-4o").status_code == 404
        process.wait_rows(1)
        assert process.stop(SIGKILL) == -SIGKILL
        assert (tmp_path / "other.db-wal").stat().st_size > 0
        done = run_arbstr("requests", "--json", directory=tmp_path)
    assert [row["status"] for row in json.loads(done.stdout)["data"]] == ["rejected"]


# -- what is printed


def test_an_empty_ledger_is_no_error(ask: Ask) -> None:
    write_ledger(Path("arbstr.db"))
    span = "from 2026-02-03 00:00:00 to 2026-02-04 00:00:00 UTC"
    assert ask("stats", *SPAN).out == f"0 requests  {span}\n"
    assert ask("requests", *SPAN).out == f"0 requests  {span}\n"


def test_what_was_free_or_not_sent_has_no_unknown_cost(ask: Ask) -> None:
    free = attempt(failure="account", money="free")
    write_ledger(
        Path("arbstr.db"),
        [
            request("free-1", status="failed", cost_sats=None, tries=[free, free]),
            request("never-sent", status="rejected", provider=None, cost_sats=None),
            request("lost-1", status="failed", cost_sats=None, tries=[free, LOST]),
            request("running-1", status="in_flight", cost_sats=None, tries=[attempt(money=None)]),
        ],
    )
    printed = ask("requests", *SPAN, "--order", "asc").out
    lines = [line for line in printed.splitlines() if line.startswith("02-03 ")]
    assert [line.split()[8] for line in lines] == ["-", "-", "unknown", "unknown"]


def test_a_request_shows_what_was_stated_and_what_was_expected_where_they_differ(ask: Ask) -> None:
    stated = {"cost_sats": 20.0, "expected_sats": 2.0, "provider_cost_sats": 20.0}
    alike = {"cost_sats": 2.0, "expected_sats": 2.0, "provider_cost_sats": 2.0}
    tries = [attempt(failure="stream_cut", **alike), attempt(**stated)]
    write_ledger(
        Path("arbstr.db"),
        [
            request("differ-1", tries=tries, **stated),
            request("alike-1", tries=[attempt(**alike)], **alike),
            request("ours-1", tries=[attempt(cost_sats=0.125)]),
        ],
    )
    printed = ask("requests", "differ-1").out
    assert (
        "sats      20 stated by the provider, 2 expected by our rates, 0.5 estimated\n" in printed
    )
    rows = [line.split() for line in printed.splitlines()]
    assert ["attempt", "provider", "model", "failure", "HTTP", "money", "sats", "expected"] in [
        row[:8] for row in rows
    ]
    assert [row[6:9] for row in rows if row[:1] in (["1"], ["2"])] == [
        ["2", "-", "0.5"],
        ["20", "2", "0.5"],
    ]
    printed = ask("requests", "alike-1").out
    assert "sats      2 stated by the provider, 0.5 estimated\n" in printed
    assert "expected" not in printed
    assert "sats      0.125 by our rates, 0.5 estimated\n" in ask("requests", "ours-1").out


def test_a_provider_that_only_failed_is_in_the_table(ask: Ask) -> None:
    dead = attempt(provider="dead", failure="not_sent", money="free")
    write_ledger(Path("arbstr.db"), [request("a", tries=[dead, dead, attempt()])])
    printed = ask("stats", *SPAN, "--group-by", "provider").out
    rows = [line.split()[:5] for line in printed.splitlines()]
    assert ["dead", "0", "0", "0", "2"] in rows
    assert ["alpha", "1", "1", "0", "0"] in rows


def test_no_amount_is_rounded_to_nothing(ask: Ask) -> None:
    write_ledger(
        Path("arbstr.db"),
        [
            request("a", cost_sats=0.00025),
            request("b", cost_sats=1234.5),
            request("c", cost_sats=1e-9),
            request("d", cost_sats=None, tries=[attempt()]),
            request("e", cost_sats=0),
        ],
    )
    lines = ask("requests", *SPAN, "--order", "asc").out.splitlines()[2:7]
    assert [line.split()[8] for line in lines] == [
        "0.00025",
        "1,234",
        "<0.000001",
        "unknown",
        "0",
    ]
    assert "1,235 sats for" in ask("stats", *SPAN).out


def test_days_without_requests_have_a_line_and_every_cost_has_a_bar(ask: Ask) -> None:
    rows = [
        request("a", timestamp="2026-02-03T04:05:06.789Z", cost_sats=1000),
        request("b", timestamp="2026-02-05T04:05:06.789Z", cost_sats=0.001),
        request("c", timestamp="2026-02-06T04:05:06.789Z", cost_sats=0),
    ]
    write_ledger(Path("arbstr.db"), rows)
    printed = ask("stats", "--since", "2026-02-01", "--until", "2026-02-10").out
    bars = {
        line.split()[0]: line.count("\N{FULL BLOCK}")
        for line in printed.splitlines()
        if line.startswith("2026-")
    }
    assert bars == {"2026-02-03": 40, "2026-02-04": 0, "2026-02-05": 1, "2026-02-06": 0}


def test_a_long_time_is_shown_by_its_last_two_months(ask: Ask) -> None:
    rows = [
        request("a", timestamp="2020-01-01T00:00:00.000Z"),
        request("b", timestamp="2026-02-03T00:00:00.000Z"),
    ]
    write_ledger(Path("arbstr.db"), rows)
    printed = ask("stats", "--since", "2020-01-01", "--until", "2026-02-10").out
    days = [line[:10] for line in printed.splitlines() if line.startswith("202")]
    assert (len(days), days[0], days[-1]) == (62, "2025-12-04", "2026-02-03")


@pytest.mark.parametrize("group", ["model", "provider", "policy", "day", "hour"])
def test_one_group_is_one_table(group: str, ask: Ask) -> None:
    small_ledger()
    done = ask("stats", *SPAN, "--group-by", group)
    first = {"model": "gpt-4o", "provider": "alpha", "policy": "code", "day": "2026-02-03"}
    assert f"\n{first.get(group, '2026-02-03 04:00')}  " in done.out
    assert done.out.count("requests  answered") == 1


EVIL = "\x1b[31mred[/red][bold]\n\x07\u202e" + "m" * 200


def test_names_cannot_play_with_the_terminal(ask: Ask) -> None:
    write_ledger(
        Path("arbstr.db"),
        [request("evil-1", model=EVIL, requested_model=f"{EVIL}!", tries=[attempt(model=EVIL)])],
    )
    for arguments in (("stats", *SPAN), ("requests", *SPAN), ("requests", "evil-1")):
        done = ask(*arguments)
        assert done.code == 0
        assert all(char.isprintable() or char == "\n" for char in done.out)
        assert "?[31mred[/red]" in "".join(done.out.split())


def test_colours_are_for_terminals_that_want_them(
    monkeypatch: pytest.MonkeyPatch, ask: Ask
) -> None:
    small_ledger()
    assert "\x1b" not in ask("requests", *SPAN).out
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[32mok" in ask("requests", *SPAN).out


def test_a_terminal_without_unicode_gets_ascii() -> None:
    write_ledger(Path("arbstr.db"), [request("a", model="gpt-ö")])
    done = run_arbstr("stats", *SPAN, environ={"PYTHONIOENCODING": "ascii"}, directory=Path.cwd())
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()
    assert "gpt-?" in done.stdout
    assert "#" * 40 in done.stdout


# -- init


def test_init_writes_the_example_for_its_owner_alone_and_says_what_to_do(ask: Ask) -> None:
    old = os.umask(0)
    try:
        done = ask("init")
    finally:
        os.umask(old)
    assert (done.code, done.err) == (0, "")
    path = Path("config.toml")
    assert path.read_text("utf-8") == (ROOT / "config.example.toml").read_text("utf-8")
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir() == ["config.toml"]
    for step in ("1. put your own providers", "export ALPHA_KEY=", "arbstr check", "arbstr run"):
        assert step in done.out
    checked = run_arbstr("check", environ={"ALPHA_KEY": "k"}, directory=Path.cwd())
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "warning" not in checked.stdout


@pytest.mark.parametrize("there", ["file", "directory", "dangling link"])
def test_init_leaves_alone_what_is_there(there: str, ask: Ask) -> None:
    path = Path("mine.toml")
    match there:
        case "file":
            path.write_text("mine")
        case "directory":
            path.mkdir()
        case _:
            path.symlink_to("nowhere.toml")
    done = ask("init", "-c", "mine.toml")
    assert (done.code, done.out) == (1, "")
    assert done.err == (
        "arbstr: mine.toml: is there already and was left alone; name another with -c PATH\n"
    )
    assert os.listdir() == ["mine.toml"]
    if there == "file":
        assert path.read_text() == "mine"


def test_init_says_what_it_could_not_write(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    done = ask("init", "-c", "no/where.toml")
    assert done.err == ("arbstr: no/where.toml: there is no such directory as no; make it first\n")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    done = ask("init")
    assert done.err == "arbstr: config.toml: cannot be written: No space left on device\n"
    assert os.listdir() == []  # half a configuration would be worse than none


def test_init_names_the_file_in_the_commands_that_follow(ask: Ask) -> None:
    done = ask("init", "-c", "other.toml")
    assert "arbstr check -c other.toml" in done.out
    assert "arbstr run -c other.toml" in done.out


# -- the doors


def test_doors_are_shown_and_asked_for_where_there_are_several(ask: Ask) -> None:
    tries = [attempt(cost_sats=2.0)]
    rows = [
        request("chatted", cost_sats=1.0, tries=[attempt(cost_sats=1.0)]),
        request("answered", cost_sats=2.0, endpoint="responses", moved=1, tries=tries),
    ]
    write_ledger(Path("arbstr.db"), rows)
    listed = ask("requests", *SPAN).out
    assert "endpoint" in listed.splitlines()[0]
    assert "responses" in listed
    assert "endpoint" in ask("stats", *SPAN).out
    asked = ask("requests", *SPAN, "--endpoint", "responses", "--json").json
    (row,) = asked["data"]
    assert (row["endpoint"], row["moved"]) == ("responses", True)
    figures = ask("stats", *SPAN, "--group-by", "endpoint", "--json").json
    assert [(g["endpoint"], g["costs"]["total_cost_sats"]) for g in figures["groups"]] == [
        ("chat", 1.0),
        ("responses", 2.0),
    ]
    shown = ask("requests", "answered").out
    assert "the conversation was answered elsewhere before" in shown


def test_who_only_chats_is_not_told_of_doors(ask: Ask) -> None:
    write_ledger(Path("arbstr.db"), [request("chatted", tries=[attempt()])])
    assert "endpoint" not in ask("requests", *SPAN).out
    assert "endpoint" not in ask("stats", *SPAN).out


# -- periods, zones, CSV


@pytest.fixture
def _in_nepal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A zone without a name, three quarters of an hour from UTC's hours."""
    monkeypatch.setenv("TZ", "<+0545>-5:45")
    time.tzset()
    yield
    monkeypatch.delenv("TZ")
    time.tzset()


@pytest.mark.usefixtures("_in_nepal")
def test_days_of_this_machine_begin_at_its_midnight(ask: Ask) -> None:
    rows = [
        request("late", timestamp="2026-02-03T18:14:59.999Z", tries=[attempt()]),
        request("early", timestamp="2026-02-03T18:15:00.000Z", tries=[attempt()]),
    ]
    write_ledger(Path("arbstr.db"), rows)
    span = ("--since", "2026-02-03", "--until", "2026-02-05")
    done = ask("stats", *span, "--group-by", "day", "--local")
    assert (done.code, done.err) == (0, "")
    assert "from 2026-02-03 00:00:00 +05:45 to 2026-02-05 00:00:00 +05:45" in done.out
    assert re.search(r"^day \(local\) +requests", done.out, re.MULTILINE)
    assert re.search(r"^2026-02-03 +1 .*\n2026-02-04 +1 ", done.out, re.MULTILINE)
    listed = ask("requests", *span, "--local").out
    assert re.search(r"^time \(local\) ", listed)
    assert "02-03 23:59:59" in listed
    assert "02-04 00:00:00" in listed
    report = ask("stats", *span, "--local", "--json").json
    assert (report["since"], report["zone"]) == ("2026-02-02T18:15:00.000Z", "local")


@pytest.mark.usefixtures("_in_nepal")
def test_the_budget_s_day_stays_utc_s_and_says_so(ask: Ask) -> None:
    small_ledger()
    write_config(Path.cwd(), "[budget]\nsats_per_day = 5\n" + ONE)
    assert "of today's budget are spent, whose day is UTC's" in ask("stats", "--local").out
    assert "whose day" not in ask("stats").out


def test_figures_come_as_csv(ask: Ask) -> None:
    write_ledger(Path("arbstr.db"), a_week())
    span = ("--since", "2026-02-02", "--until", "2026-02-09")
    done = ask("stats", *span, "--csv", "--group-by", "day,model")
    assert (done.code, done.err) == (0, "")
    rows = list(csv.DictReader(io.StringIO(done.out)))
    report = ask("stats", *span, "--json", "--group-by", "day,model").json
    assert [*rows[0]][:3] == ["day", "model", "total"]
    assert len(rows) == len(report["groups"])
    for row, group in zip(rows, report["groups"], strict=True):
        assert (row["day"], row["model"]) == (group["day"], group["model"])
        assert float(row["total_cost_sats"]) == group["costs"]["total_cost_sats"]
        assert float(row["total"]) == group["counts"]["total"]
    (sums,) = csv.DictReader(io.StringIO(ask("stats", *span, "--csv").out))
    assert sums["since"] == "2026-02-02T00:00:00.000Z"
    assert float(sums["total_cost_sats"]) == report["costs"]["total_cost_sats"]
    assert "p95_latency_ms" in sums


def test_a_name_is_no_formula_and_moves_no_cursor(ask: Ask) -> None:
    rows = [request("one", model='=HYPERLINK("x")'), request("two", model="a\x1b[2J,b")]
    write_ledger(Path("arbstr.db"), rows)
    printed = ask("stats", *SPAN, "--csv", "--group-by", "model").out
    names = [row["model"] for row in csv.DictReader(io.StringIO(printed))]
    assert names[0].startswith("'=")
    assert "\x1b" not in printed
    assert len(names) == 2


def test_nothing_is_a_csv_with_a_head_alone(ask: Ask) -> None:
    small_ledger()
    done = ask("stats", "--range", "12h", "--csv", "--group-by", "week")
    assert done.out.startswith("week,total,")
    assert done.out.count("\n") == 1
    assert ask("stats", "--csv", "--json").code == 2


def test_the_span_before_is_compared_with(ask: Ask) -> None:
    rows = [
        request(
            f"of-{day}",
            timestamp=f"2026-02-0{day}T10:00:00.000Z",
            cost_sats=sats,
            tries=[attempt(cost_sats=sats)],
        )
        for day, sats in ((2, 4.0), (3, 5.0))
    ]
    write_ledger(Path("arbstr.db"), rows)
    out = ask("stats", *SPAN).out
    assert "before: 4 sats for 1 request (+25 %)  from 2026-02-02 00:00:00" in out
    earlier = ask("stats", "--since", "2026-02-02", "--until", "2026-02-03").out
    assert "before:" not in earlier  # there was nothing
