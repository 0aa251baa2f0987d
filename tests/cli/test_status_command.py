"""`arbstr status`: one line of what the running arbstr says of itself, and a code for scripts."""

import json
from pathlib import Path
from typing import Any

import pytest

from arbstr.cli.commands import main
from arbstr.cli.status_command import line, reported
from tests.process import ONE, arbstr_process, clean_environ, write_config

HEALTH = {"status": "ok", "log": {"queued": 0}}
COUNTS = {"in_flight": 0, "total": 7, "unknown_cost": 0}
COSTS = {"total_cost_sats": 12.5, "possibly_spent_sats": 0.25}


def provider(name: str, **more: object) -> dict[str, Any]:
    return {"name": name, "circuit": "closed", "resting_until": None, **more}


def test_without_a_budget_the_day_is_that_of_the_log() -> None:
    report = reported(HEALTH, {"counts": COUNTS, "costs": COSTS}, {"providers": [provider("a")]})
    assert line(report) == "arbstr ok | 0 in flight | 12.75 sats today"
    assert report["limit"] is None


def test_what_is_not_as_it_should_be_is_told() -> None:
    health = {
        "status": "degraded",
        "log": {"queued": 4, "waiting_seconds": 61.4, "trouble": "disk full\n"},
        "budget": {"spent": 812.345678, "limit": 1000.0, "set_aside": 3.0},
    }
    counts = {"in_flight": 2, "total": 7, "unknown_cost": 1}
    providers = [
        provider("a"),
        provider("b", circuit="open", resting_until="2026-02-03T04:05:06Z"),
        provider("c", resting_until="2026-02-03T04:05:06Z"),
        provider("d", circuits={"m": {}}),
    ]
    report = reported(health, {"counts": counts, "costs": COSTS}, {"providers": providers})
    assert report["trouble"] == {"b": "open", "c": "resting", "d": "1 model"}
    assert line(report) == (
        "arbstr degraded | 2 in flight | 812.3 of 1000 sats today | b open | c resting | "
        "d 1 model | 1 of unknown cost | "
        r"4 rows wait to be written, for 61 s (disk full\n)"
    )
    many = {f"p{n}": "open" for n in range(4)}
    assert " | 4 providers in trouble | " in line({**report, "trouble": many})


def test_one_that_is_not_there_is_down(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.environ", clean_environ())
    monkeypatch.chdir(tmp_path)
    write_config(tmp_path, f'[server]\nlisten = "127.0.0.1:9"\n{ONE}')
    assert main(["status"]) == 1
    printed = capsys.readouterr()
    assert printed.out == "arbstr down\n"
    assert "could not be reached" in printed.err
    assert main(["status", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["status"] == "down"
    write_config(tmp_path, f'[server]\nlisten = "127.0.0.1:0"\n{ONE}')
    assert main(["status"]) == 1
    assert "leaves the port open" in capsys.readouterr().err


def test_a_running_one_is_asked_with_its_token(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = 'auth_token = "${MY_TOKEN}"\n'
    budget = "[budget]\nsats_per_day = 100\n"
    environ = {"MY_TOKEN": "a-token-of-a-test"}
    monkeypatch.setattr("os.environ", clean_environ())
    with arbstr_process(config_text=f"[server]\n{server}{budget}{ONE}", environ=environ) as process:
        text = f'[server]\nlisten = "127.0.0.1:{process.port}"\n{server}{budget}{ONE}'
        path = str(write_config(tmp_path, text))
        assert main(["status", "-c", path]) == 1
        assert "wants [server] auth_token" in capsys.readouterr().err
        monkeypatch.setenv("MY_TOKEN", "a-token-of-a-test")
        assert main(["status", "-c", path]) == 0
        assert capsys.readouterr().out == "arbstr ok | 0 in flight | 0 of 100 sats today\n"
        assert main(["status", "-c", path, "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
    assert (report["status"], report["limit"], report["trouble"]) == ("ok", 100, {})
