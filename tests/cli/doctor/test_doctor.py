"""`arbstr doctor`: each fault is found, and said with what to do about it."""

import json
import os
import socket
from collections.abc import Iterable
from dataclasses import replace
from decimal import Decimal
from email.utils import formatdate
from pathlib import Path
from typing import Any, Final

import pytest

from arbstr.cli.commands import main
from arbstr.cli.doctor.findings import (
    Finding,
    Grade,
    Holding,
    Listing,
    Unknown,
    day_findings,
    disk_findings,
    limit_findings,
    provider_findings,
    server_findings,
)
from arbstr.cli.doctor.machine import books, in_the_way
from arbstr.cli.doctor.providers import ask_providers
from arbstr.sansio.config.reader import parse_config
from arbstr.trio_runtime.ledger.database import open_database
from arbstr.trio_runtime.ledger.log_writer import open_log_writer
from tests.fakes import answer, error_answer, json_answer, open_fake_provider
from tests.ledgers import attempt, request, write_ledger
from tests.process import ONE, clean_environ, write_config
from tests.proxy import config, provider
from tests.records import RECORD

NOW: Final = 1_770_120_245.0
MODELS: Final = frozenset({"gpt-4o", "other"})


def settings(more: str = "", **columns: Any) -> Any:
    text = config(provider("alpha", "http://127.0.0.1:9/v1", more=more, **columns))
    return parse_config(text, {}).providers[0]


def listed(**more: Any) -> Listing:
    return Listing(**{"status": 200, "models": MODELS, "now": NOW, **more})


def worst(found: Iterable[Finding]) -> Finding:
    every = list(found)
    assert all((each.remedy is None) == (each.grade is Grade.OK) for each in every)
    order = (Grade.OK, Grade.NOTE, Grade.FAULT)
    return sorted(every, key=lambda each: order.index(each.grade))[-1]


@pytest.mark.parametrize(
    ("listing", "says", "remedy"),
    [
        (Listing("could not be reached: name not found"), "name not found", "DNS"),
        (Listing("could not be reached: connection refused"), "refused", "port"),
        (Listing("could not be reached: its certificate has expired"), "expired", "clock"),
        (Listing("did not answer within 10 s"), "within 10 s", "firewall"),
        (Listing("could not be reached: too many open files", own=True), "files", "this machine"),
        (listed(status=401), "refuses the key: it answered status 401", "api_key"),
        (listed(status=302), "moved", "address it moved to"),
        (listed(status=503), "is there and answered status 503", "try again later"),
        (listed(models=None), "no list of models", "web page"),
        (listed(models=frozenset({"x"})), "does not list gpt-4o", "model_ids"),
        (listed(date=formatdate(NOW - 900)), "15 min fast", "set it"),
        (listed(date=formatdate(NOW + 900)), "15 min slow", "set it"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_what_a_provider_answers(listing: Listing, says: str, remedy: str) -> None:
    found = worst(provider_findings(settings(), listing, None))
    assert found.grade is Grade.FAULT
    assert says in found.says
    assert found.remedy is not None
    assert remedy in found.remedy


def test_what_is_no_fault_of_a_provider() -> None:
    assert worst(provider_findings(settings(), listed(), None)).grade is Grade.OK
    for date in (formatdate(NOW - 60), "soon", "", "Mon, 99 Foo 2026"):
        assert worst(provider_findings(settings(), listed(date=date), None)).grade is Grade.OK
    assert worst(provider_findings(settings(), listed(status=404), None)).grade is Grade.NOTE
    keyless = worst(provider_findings(settings(key=None), listed(), None))
    assert keyless.remedy == "set ARBSTR_ALPHA_API_KEY if it wants one"
    other = settings('[providers.model_ids]\n"gpt-4o" = "other"\n')
    known = listed(models=frozenset({"other"}))
    assert worst(provider_findings(other, known, None)).grade is Grade.OK


@pytest.mark.parametrize("path", ["/v1/v1", "/api/v1/v1/chat/completions"])
def test_a_base_url_that_says_v1_twice_is_a_fault(path: str) -> None:
    text = config(provider("alpha", f"http://127.0.0.1:9{path}"))
    (configured,) = parse_config(text, {}).providers
    found = worst(provider_findings(configured, listed(status=404), None))
    assert (found.grade, "says the same twice: http://" in found.says) == (Grade.FAULT, True)


def test_a_proxy_that_does_not_answer_is_named() -> None:
    silent = Listing("could not be reached: the proxy refused")
    found = worst(provider_findings(settings('proxy = "socks5://127.0.0.1:9050"'), silent, None))
    assert "socks5://127.0.0.1:9050" in str(found.remedy)


@pytest.mark.parametrize(
    ("holding", "grade", "says"),
    [
        (Holding(Decimal(100), Decimal(5)), Grade.OK, "100 sats are free"),
        (Holding(Decimal(4), Decimal(5)), Grade.NOTE, "5 were spent there in a day"),
        (Holding(Decimal(0)), Grade.FAULT, "nothing is left"),
        (Holding(trouble="answered status 401 at /balance/info"), Grade.FAULT, "refuses the key"),
        (Holding(trouble="answered no JSON"), Grade.NOTE, "not known"),
    ],
    ids=str,
)
def test_what_a_key_of_a_node_holds(holding: Holding, grade: Grade, says: str) -> None:
    found = worst(provider_findings(settings(kind="routstr"), listed(), holding))
    assert (found.grade, says in found.says) == (grade, True)


HEALTH: Final[dict[str, Any]] = {
    "status": "ok",
    "providers": {"alpha": {"state": "closed"}},
    "log": {},
}


@pytest.mark.parametrize(
    ("health", "way", "grade", "says"),
    [
        (HEALTH, None, Grade.OK, "is ok"),
        ({**HEALTH, "log": {"damaged": True}}, None, Grade.FAULT, "damaged"),
        ({**HEALTH, "providers": {"a": {"state": "open"}}}, None, Grade.NOTE, "a (open)"),
        ("could not be reached: connection refused", None, Grade.NOTE, "does not run"),
        ("could not be reached: x", "Permission denied", Grade.FAULT, "Permission denied"),
        ("is something else than arbstr", None, Grade.FAULT, "something else"),
        ("wants [server] auth_token; set", None, Grade.NOTE, "auth_token"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_arbstr_and_its_port(health: Any, way: str | None, grade: Grade, says: str) -> None:
    found = worst(server_findings("127.0.0.1:8080", health, way))
    assert (found.grade, says in found.says) == (grade, True)


def test_money_room_and_limits() -> None:
    assert worst(day_findings(Decimal(5), Decimal(5), ())).grade is Grade.FAULT
    assert worst(day_findings(Decimal(4), Decimal(5), ())).grade is Grade.OK
    (note,) = list(day_findings(Decimal(4), None, [Unknown("n", 3, is_node=True)]))[1:]
    assert (note.grade, str(note.remedy).startswith("arbstr reconcile asks")) == (Grade.NOTE, True)
    assert worst(day_findings(Decimal(4), None, [Unknown("n", 0, is_node=False)])).grade is Grade.OK
    assert worst(disk_findings(10**7, 5)).grade is Grade.FAULT
    assert worst(disk_findings(5 * 10**8, 5)).grade is Grade.NOTE
    assert worst(disk_findings(10**10, 5)).grade is Grade.OK
    assert worst(limit_findings(256, 64)).grade is Grade.NOTE
    assert worst(limit_findings(None, 64)).grade is Grade.OK


def test_a_port_that_somebody_has_is_in_the_way() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        text = f'[server]\nlisten = "127.0.0.1:{server.getsockname()[1]}"\n{ONE}'
        assert in_the_way(parse_config(text, {})) is not None


# -- the ledger


def test_a_sound_ledger_and_what_is_open_in_it(tmp_path: Path) -> None:
    lost = attempt(failure="no_answer", money="unknown")
    path = write_ledger(tmp_path / "a.db", [request("one", status="failed", tries=[lost])])
    path.chmod(0o644)
    findings = books(str(path), parse_config(ONE, {})).findings
    says = "\n".join(each.says for each in findings)
    assert "can be read and is sound" in says
    assert "others can read a.db" in says
    assert "of 1 attempts there nobody knows what they cost" in says
    assert "arbstr requests --unknown-cost true shows which they are" in {
        each.remedy for each in findings
    }, "no node has books of it"


def test_what_the_formula_has_a_price_for_is_no_riddle_but_at_a_node(tmp_path: Path) -> None:
    path = write_ledger(tmp_path / "a.db", [request("one", tries=[attempt(cost_sats=0.5)])])
    for text, riddles in ((ONE, 0), (f'{ONE}kind = "routstr"\n', 1)):
        findings = books(str(path), parse_config(text, {})).findings
        assert sum("nobody knows" in each.says for each in findings) == riddles


@pytest.mark.skipif(os.name != "posix", reason="a mode is POSIX's")
def test_every_file_of_a_ledger_that_others_can_read_is_named(tmp_path: Path) -> None:
    path = write_ledger(tmp_path / "a.db", [request("one")])
    for name, mode in (("", 0o600), (".lanes", 0o640), (".change", 0o604), (".bak", 0o644)):
        (tmp_path / f"a.db{name}").touch()
        (tmp_path / f"a.db{name}").chmod(mode)
    (found,) = (each for each in books(str(path), parse_config(ONE, {})).findings if each.remedy)
    assert (found.grade, found.says) == (Grade.NOTE, "others can read a.db.change, a.db.lanes")
    assert found.remedy == f"chmod 600 {path}.change {path}.lanes, unless they are meant to"


async def test_rows_that_lie_in_the_wal_alone_are_told_of(tmp_path: Path) -> None:
    path, settled = tmp_path / "a.db", parse_config(ONE, {})

    def told() -> list[str]:
        return [each.says for each in books(str(path), settled).findings if "-wal" in each.says]

    async with open_database(str(path)) as database:
        async with open_log_writer(database) as log:
            log.offer(RECORD)
        (of_a_new_one,) = told()
    assert of_a_new_one.startswith("1 of its 1 requests lie in a.db-wal alone, so cp of ")
    assert "arbstr backup FILE" in of_a_new_one
    assert told() == []  # a clean end folds them in
    async with open_database(str(path)) as database:
        async with open_log_writer(database) as log:
            log.offer(replace(RECORD, correlation_id="another"))
        (of_an_older_one,) = told()
    assert of_an_older_one.startswith("1 of its 2 requests lie in a.db-wal alone")


def test_a_ledger_that_is_damaged_or_none(tmp_path: Path) -> None:
    path = write_ledger(tmp_path / "a.db", [request(str(n)) for n in range(500)])
    with path.open("r+b") as file:
        file.seek(-20 * 4096, 2)
        file.write(b"\xff" * 16 * 4096)
    settled = parse_config(ONE, {})
    damaged = worst(books(str(path), settled).findings)
    assert (damaged.grade, "is damaged" in damaged.says) == (Grade.FAULT, True), damaged
    path.write_bytes(b"no database at all" * 100)
    assert worst(books(str(path), settled).findings).grade is Grade.FAULT
    assert worst(books(str(tmp_path / "none.db"), settled).findings).grade is Grade.OK
    nowhere = books(str(tmp_path / "no" / "where.db"), settled).findings
    assert worst(nowhere).grade is Grade.FAULT


# -- providers that are there


async def test_providers_are_asked_what_costs_nothing_and_with_their_key() -> None:
    models = json_answer({"data": [{"id": "gpt-4o"}]}, headers=[("date", formatdate(0))])
    async with (
        open_fake_provider(models) as well,
        open_fake_provider(error_answer(401)) as strict,
        open_fake_provider(answer(200, b"<html>")) as page,
    ):
        text = config(
            provider("well", well.url),
            provider("strict", strict.url),
            provider("page", page.url),
            provider("gone", "http://127.0.0.1:9"),
        )
        found = await ask_providers(parse_config(text, {}), {})
        (asked,) = well.requests
        assert (asked.method, asked.path.rpartition("/")[2]) == ("GET", "models")
        assert asked.header("authorization") is not None
    said = {name: " ".join(each.says for each in every) for name, every in found.items()}
    assert "fast of that of provider well" in said["well"]
    assert "took the key" in said["well"]
    assert "refuses the key" in said["strict"]
    assert "no list of models" in said["page"]
    assert "could not be reached" in said["gone"]


async def test_a_nodes_key_is_asked_what_it_holds() -> None:
    account = {"balance": 0, "reserved": 0, "total_spent": 7, "total_requests": 1}
    script = [json_answer({"data": [{"id": "gpt-4o"}]}), json_answer(account)]
    async with open_fake_provider(script) as node:
        text = config(provider("node", node.url, kind="routstr"))
        (every,) = (await ask_providers(parse_config(text, {}), {})).values()
        free, held = node.requests
        assert free.header("authorization") is None
        assert held.path.endswith("/balance/info")
        assert held.header("authorization") is not None
    assert worst(every).says.startswith("nothing is left on its key"), every


# -- the command


@pytest.fixture
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.environ", clean_environ())


@pytest.mark.usefixtures("_place")
def test_the_command_ends_with_what_it_found(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_config(tmp_path, f'[server]\nlisten = "127.0.0.1:9"\n{ONE}')
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "fault  provider alpha: it could not be reached: connection refused\n       -> " in out
    assert "arbstr: " in out
    assert out.splitlines()[-1].endswith("to look at")
    assert not (tmp_path / "arbstr.db").exists()
    assert main(["doctor", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False
    assert {each["grade"] for each in report["findings"]} >= {"ok", "fault"}


@pytest.mark.usefixtures("_place")
def test_a_configuration_that_cannot_be_used_is_what_is_wrong(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["doctor"]) == 1
    assert "there is no such file" in capsys.readouterr().out
    write_config(tmp_path, '[server]\nlissten = "x"\n')
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "server.lissten is not a known key\n       -> did you mean" in out
