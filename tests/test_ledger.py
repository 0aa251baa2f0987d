"""One row and one line for each chat request, whatever becomes of it."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL
from socket import SHUT_WR
from typing import Any, Final, final

import pytest

from tests.fakes import FakeProcess
from tests.process import CHAT_HEAD, NOTHING, ArbstrProcess, arbstr_process, wait_until

MODELS: Final = (
    "fake-ok",
    "fake-no-usage",
    "fake-routstr",
    "fake-hang",
    "fake-stall",
    "fake-endless",
    "fake-cut",
    "fake-cut-reset",
    "fake-400",
    "fake-error-first",
    "fake-503",
)


def config_of(fake: FakeProcess, more: str = "") -> str:
    """A provider for each model, so that the troubles of one are not those of another."""
    providers = (
        f"""
[[providers]]
name = "at-{model}"
url = "{fake.url}"
models = ["{model}"]
input_rate = 0.1
output_rate = 12.5
base_fee = 0.0003
"""
        for model in MODELS
    )
    return f"""
{"".join(providers)}
[[policies.rules]]
name = "frugal"
max_sats_per_1k_output = 1
[retry]
backoff = 60
repeat_guard = 0
[breaker]
failures = 1
{more}"""


@pytest.fixture(scope="module")
def arbstr(providers: FakeProcess) -> Iterator[ArbstrProcess]:
    with arbstr_process(config_text=config_of(providers)) as process:
        yield process


def attempts_of(arbstr: ArbstrProcess, row: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """Failure, HTTP status and money of each attempt of a request."""
    assert row["attempts"] == sum(
        one["correlation_id"] == row["correlation_id"] for one in arbstr.attempts()
    )
    return [
        (one["failure"], one["http_status"], one["money"])
        for one in arbstr.attempts()
        if one["correlation_id"] == row["correlation_id"]
    ]


# -- what became of it ---------------------------------------------------------------------------


@final
@dataclass(frozen=True, slots=True)
class Case:
    """A request, and what is expected: its HTTP status, some columns, its attempts."""

    model: str
    status: int
    row: Mapping[str, object]
    attempts: tuple[tuple[object, ...], ...] = ()
    policy: str | None = None
    stream: bool = False


ANSWERED: Final = {
    "status": "ok",
    "success": 1,
    "model": "fake-ok",
    "provider": "at-fake-ok",
    "input_tokens": 10,
    "output_tokens": 5,
    "cost_sats": 0.0638,  # (10 * 0.1 + 5 * 12.5) / 1000 + 0.0003
    "error_status": None,
    "error_message": None,
    "possibly_spent": 0,
}
REJECTED: Final = {"status": "rejected", "success": 0, "provider": None, "cost_sats": None}

CASES: Final = {
    "a plain answer": Case("fake-ok", 200, ANSWERED, ((None, 200, "spent"),)),
    "a stream": Case("fake-ok", 200, ANSWERED, ((None, 200, "spent"),), stream=True),
    "an answer without usage": Case(
        "fake-no-usage",
        200,
        {"status": "ok", "success": 1, "input_tokens": None, "cost_sats": None},
        ((None, 200, "spent"),),
    ),
    "an answer that states its price": Case(
        "fake-routstr",
        200,
        {
            "status": "ok",
            "input_tokens": 100,
            "cost_sats": 0.505,
            "expected_sats": 0.6353,
            "provider_cost_sats": 0.505,
        },
        ((None, 200, "spent"),),
        stream=True,
    ),
    "a model nobody serves": Case(
        "fake-ko", 404, {**REJECTED, "error_status": 404, "requested_model": "fake-ko"}
    ),
    "a policy that does not exist": Case(
        "fake-ok", 400, {**REJECTED, "error_status": 400}, policy="thrifty"
    ),
    "a policy no provider meets": Case(
        "fake-ok", 400, {**REJECTED, "error_status": 400, "policy": "frugal"}, policy="frugal"
    ),
    "a request the provider refuses": Case(
        "fake-400",
        400,
        {"status": "failed", "success": 0, "error_status": 400, "possibly_spent": 0},
        (("client_error", 400, "free"),),
    ),
    "an answer that was cut": Case(
        "fake-cut-reset",
        400,
        {"status": "failed", "success": 0, "error_status": 400, "possibly_spent": 1},
        (("bad_answer", 200, "spent"),),
    ),
    "a stream that was cut": Case(
        "fake-cut",
        200,
        {"status": "stream_incomplete", "success": 0, "cost_sats": None, "possibly_spent": 1},
        (("stream_cut", 200, "spent"),),
        stream=True,
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_request_has_one_row_and_one_line_that_say_what_became_of_it(
    case: Case, arbstr: ArbstrProcess
) -> None:
    headers = {} if case.policy is None else {"x-arbstr-policy": case.policy}
    reply = arbstr.chat(case.model, headers=headers, stream=case.stream)
    assert reply.status_code == case.status
    request_id = reply.headers["x-arbstr-request-id"]
    row = arbstr.wait_final(request_id)
    assert {column: row[column] for column in case.row} == case.row
    assert attempts_of(arbstr, row) == list(case.attempts)
    assert row["streaming"] == case.stream
    assert row["requested_model"] == case.model
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", row["timestamp"])
    assert (row["ttft_ms"] is not None) == (row["stream_duration_ms"] is not None) == case.stream
    (line,) = (line for line in wait_finished(arbstr, request_id) if " INFO " in line)
    assert f"model={row['model']} provider={row['provider'] or '-'} status=" in line
    assert f"ms={row['latency_ms']} " in line
    assert f"policy={row['policy'] or '-'} " in line
    may_have_cost = any(money != "free" for _, _, money in attempts_of(arbstr, row))
    nothing = "unknown" if may_have_cost else "0"
    sats = nothing if row["cost_sats"] is None else row["cost_sats"]
    assert f" sats={sats} " in line


def wait_finished(arbstr: ArbstrProcess, request_id: str) -> list[str]:
    """What the log says of a request, once it says that it is over: its row may be there first."""

    def lines() -> list[str]:
        return [line for line in arbstr.stderr().splitlines() if request_id in line]

    wait_until(lambda: any(" INFO " in line for line in lines()), f"the last line of {request_id}")
    return lines()


def test_a_total_failure_has_a_row_and_so_has_what_the_open_circuit_rejects(
    arbstr: ArbstrProcess,
) -> None:
    replies = [arbstr.chat("fake-error-first") for _ in range(2)]
    assert [reply.status_code for reply in replies] == [502, 503]
    rows = [arbstr.wait_final(reply.headers["x-arbstr-request-id"]) for reply in replies]
    assert [(row["status"], row["error_status"]) for row in rows] == [
        ("failed", 502),
        ("rejected", 503),
    ]
    assert [attempts_of(arbstr, row) for row in rows] == [[("error_answer", 200, "free")], []]


# -- clients that leave --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "stream", "failure", "half"),
    [
        ("fake-hang", False, ("client_left", None, "unknown"), False),
        ("fake-hang", True, ("client_left", None, "unknown"), False),
        ("fake-endless", True, ("client_left", 200, "unknown"), False),
        ("fake-endless", True, ("client_left", 200, "unknown"), True),
        ("fake-503", False, ("server_error", 503, "free"), False),
    ],
    ids=[
        "while it waits for an answer",
        "while it waits for a stream",
        "in a stream",
        "in a stream, by half",
        "between two attempts",
    ],
)
def test_a_client_that_leaves_has_a_row_and_costs_no_further_attempt(
    model: str,
    stream: bool,
    failure: tuple[object, ...],
    half: bool,
    arbstr: ArbstrProcess,
    fake: FakeProcess,
) -> None:
    known = len(arbstr.rows())
    with closing(arbstr.send_chat(model, stream=stream)) as client:
        fake.wait(requests=1)
        if model == "fake-endless":
            client.recv(1)
        if model == "fake-503":
            arbstr.wait_stderr('provider "at-fake-503"')
        if half:
            client.shutdown(SHUT_WR)
            assert final_rows_after(known, arbstr)  # while the other half is open
    (row,) = final_rows_after(known, arbstr)
    assert (row["status"], row["success"], row["error_status"]) == ("client_disconnected", 0, None)
    assert row["possibly_spent"] == (failure[2] == "unknown")
    (attempt,) = attempts_of(arbstr, row)
    assert attempt == failure
    if failure[0] == "client_left":
        fake.wait(left=1)  # its provider was not left waiting
    assert fake.connections()["hits"] == 1
    lines = [line.split()[1] for line in wait_finished(arbstr, row["correlation_id"])]
    assert lines == ["WARNING", "INFO"] if model == "fake-503" else ["INFO"]


def final_rows_after(known: int, arbstr: ArbstrProcess) -> list[dict[str, Any]]:
    """The rows after the first so many, once there are some and all of them are final."""

    def there() -> bool:
        statuses = [row["status"] for row in arbstr.rows()[known:]]
        return bool(statuses) and "in_flight" not in statuses

    wait_until(there, "a final row")
    return arbstr.rows()[known:]


def test_a_client_that_leaves_in_the_middle_of_its_request_has_no_row(
    arbstr: ArbstrProcess,
) -> None:
    known = len(arbstr.rows())
    arbstr.send(CHAT_HEAD % 1000 + b'{"model":').close()
    arbstr.send(CHAT_HEAD[:30]).close()
    arbstr.send(b"\x16\x03\x01 no HTTP at all\r\n\r\n").close()
    reply = arbstr.chat("fake-ok")
    arbstr.wait_final(reply.headers["x-arbstr-request-id"])
    assert len(arbstr.rows()) == known + 1


def test_rows_left_in_flight_by_kill_minus_9_are_abandoned_at_the_next_start(
    fake: FakeProcess, tmp_path: Path
) -> None:
    with (
        arbstr_process(config_text=config_of(fake), directory=tmp_path) as first,
        closing(first.send_chat("fake-hang")),
    ):
        (row,) = first.wait_rows(status="in_flight")
        assert (row["latency_ms"], row["success"]) == (0, 0)
        assert first.stop(SIGKILL) == -SIGKILL
    quiet = {"arguments": ["--log-level", "warning"], "environ": {"ARBSTR_LOG": "debug"}}
    with arbstr_process(config_text=config_of(fake), directory=tmp_path, **quiet) as second:  # type: ignore[arg-type]  # each value fits
        assert second.chat("fake-ok").status_code == 200
        assert second.stop() == 0
    abandoned, answered = second.rows()
    assert abandoned["correlation_id"] == row["correlation_id"]
    assert (abandoned["status"], abandoned["possibly_spent"]) == ("abandoned", 1)
    assert [one["money"] for one in second.attempts()] == ["unknown", "spent"]
    assert answered["status"] == "ok"
    assert answered["boot_id"] != abandoned["boot_id"]
    assert second.stderr() == ""  # --log-level goes before $ARBSTR_LOG


# -- the log -------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["x\n2026 INFO forged", "\x1b[31mred", "\r", "\ud800"], ids=ascii)
def test_a_model_that_would_forge_the_log_or_colour_it_is_no_model(
    model: str, arbstr: ArbstrProcess
) -> None:
    reply = arbstr.chat(model)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "model")
    request_id = reply.headers["x-arbstr-request-id"]
    arbstr.wait_stderr(f"request_id={request_id}")
    text = arbstr.stderr()
    assert all(char.isprintable() or char == "\n" for char in text)
    assert all(re.match(r"\d{4}-\d\d-\d\dT\S+Z [A-Z]+ +\S", line) for line in text.splitlines())


def test_json_lines_and_no_rows_for_what_is_no_chat_request(fake: FakeProcess) -> None:
    more = '[server]\nauth_token = "let-me-in"\n[logging]\nformat = "json"\nlevel = "error"\n'
    token = {"authorization": "Bearer let-me-in"}
    environ = {"ARBSTR_LOG": "info"}  # goes before the configuration
    with arbstr_process(config_text=config_of(fake, more), environ=environ) as process:
        good = json.dumps({"model": "fake-ok", "messages": []}).encode()
        refused = [
            (b"{", token),
            (b"[]", token),
            (b'{"messages": []}', token),
            (b'{"model": "fake-ok"}', token),
            (b'{"model": "fake-ok", "model": "fake-400", "messages": []}', token),
            (b'{"model": "\\n", "messages": []}', token),
            (good, NOTHING),
            (good, {"authorization": "Bearer let-me-out"}),
            (good, {**token, "origin": "https://evil.example"}),
            (good, {**token, "host": "evil.example"}),
        ]
        statuses = [
            process.ask("POST", "/v1/chat/completions", headers=headers, content=body).status_code
            for body, headers in refused
        ]
        assert fake.requests() == []
        reply = process.chat("fake-ok", headers=token)
        assert process.stop() == 0
    assert statuses == [400, 400, 400, 400, 400, 400, 401, 401, 403, 403]
    request_id = reply.headers["x-arbstr-request-id"]
    assert [row["correlation_id"] for row in process.rows()] == [request_id]
    lines = [json.loads(line) for line in process.stderr().splitlines()]
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
    of_chat = [line for line in lines if line.get("request_id") == request_id]
    assert [line["level"] for line in of_chat] == ["info"]
