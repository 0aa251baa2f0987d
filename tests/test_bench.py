"""The benchmark runs, cleans up and tells the truth about what it read. No time is judged here."""

import http.server
import json
import random
import subprocess
import sys
import threading
from math import inf
from pathlib import Path

import pytest

from arbstr.sansio.dialects.dialect import Answer, Asked
from arbstr.sansio.dialects.doors import DOORS
from arbstr.sansio.dialects.relay import Relay
from arbstr.trio_runtime.ledger.database import open_database
from bench import million_rows
from bench.load import PLAYED, WARM_UP, Plan, run
from bench.overhead import main, parse_peers
from bench.provider import SHAPES, plain_answer
from bench.scenarios import SCENARIOS, chosen, shortened
from bench.stall import measure as measure_stalls
from bench.wire import ENDS, PATHS, AnswerReader, Order, body_of
from bench.workers import main as measure_workers

ROOT = Path(__file__).resolve().parent.parent

linux = pytest.mark.skipif(sys.platform != "linux", reason="CPU clocks of other processes")

CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    b"4\r\nwhol\r\n1;x=y\r\ne\r\n0\r\n\r\n"
)
COUNTED = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwhole"


@linux
def test_a_short_run_reports_every_scenario_and_target(tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    names = ["plain-1k-c1", "stream-1", "messages-1k-c8"]
    command = [sys.executable, "bench/overhead.py", *names]
    command += ["--rounds", "1", "--seconds", "0.05", "--json", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "plain-1k-c1: 1 kB asked" in done.stdout
    assert "as a multiple of the floor" in done.stdout

    report = json.loads(out.read_text())
    assert {"cpu", "cores", "python"} <= set(report["machine"])
    assert report["arbstr_idle_mb"] > 0
    assert {scenario["name"] for scenario in report["scenarios"]} == set(names)
    for scenario in report["scenarios"]:
        assert set(scenario["targets"]) == {"direct", "floor", "arbstr"}
        for name, target in scenario["targets"].items():
            assert target["errors"] == 0
            assert set(target["latency_ms"]) == {"p50", "p90", "p99"}
            assert target["per_second"]["mid"] > 0
            if name != "direct":
                assert target["cpu_us"]["mid"] > 0
                assert set(target["ratio_to_floor"]) == {"mid", "low", "high"}
    assert report["scenarios"][1]["targets"]["arbstr"]["event_delay_ms"]["p50"] > 0


@linux
def test_a_gateway_that_does_not_start_is_named_with_its_last_words(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert main(["plain-1k-c1", "--arbstr", f"{sys.executable} -m no_such_module"]) == 1
    error = capfd.readouterr().err
    assert "arbstr ended" in error
    assert "no_such_module" in error


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["no-such-scenario"], id="an unknown scenario"),
        pytest.param(["--peer", "x=https://example.com/v1"], id="a peer elsewhere"),
        pytest.param(["--peer", "floor=http://127.0.0.1:1/v1"], id="a name that is taken"),
        pytest.param(["--peer-header", "x=A: b"], id="a header for nobody"),
        pytest.param(["--rounds", "0"], id="no rounds"),
    ],
)
def test_a_wrong_command_is_refused_before_anything_starts(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2


def test_peers_come_with_their_headers() -> None:
    (peer,) = parse_peers(["x=http://127.0.0.1:99/v1/"], ["x=X-Host: {provider}", "x=A: b:c"])
    assert peer.url == "http://127.0.0.1:99/v1"
    assert peer.headers == (("X-Host", "{provider}"), ("A", "b:c"))


@pytest.mark.parametrize("wire", [CHUNKED, COUNTED])
def test_an_answer_is_read_the_same_however_it_is_cut(wire: bytes) -> None:
    for size in range(1, len(wire) + 1):
        reader = AnswerReader()
        body = b"".join(reader.feed(wire[at : at + size]) for at in range(0, len(wire), size))
        assert body == b"whole"
        assert reader.complete
        assert reader.status == 200
        assert reader.closes == (wire is CHUNKED)


def test_an_open_loop_asks_as_often_whatever_the_answers_take() -> None:
    """One connection, and a server that holds its first answer back until others are due."""
    held, count = threading.Event(), 0

    class Server(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            nonlocal count
            self.rfile.read(int(self.headers["content-length"]))
            count += 1
            if count == WARM_UP + 1:
                held.wait(0.2)
            self.send_response(200)
            self.send_header("content-length", "1")
            self.end_headers()
            self.wfile.write(b"x")

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    with server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        host, port = server.server_address[:2]
        plan = Plan(
            str(host), int(port), "/", (), "m", 1, 100, Order(answer=1), seconds=0.3, rate=100.0
        )
        result = run(plan)
        server.shutdown()
    moments, due = random.Random(PLAYED), list[float]()
    while sum(due) < plan.seconds:
        due.append(moments.expovariate(100.0))
    assert (result.errors, result.error) == (0, "")
    assert result.count == len(due) - 1
    # Who came in the meantime waited for it, too.
    assert sum(each > 50_000 for each in result.latency) > 5


def test_an_order_survives_its_way_through_every_door() -> None:
    for scenario in SCENARIOS:
        body = body_of(scenario.door, "some-model", scenario.order, scenario.request_bytes)
        assert Order.found_in(body) == scenario.order
        assert abs(len(body) - scenario.request_bytes) < scenario.request_bytes / 10 + 200
        assert json.loads(body).get("stream", False) == (scenario.order.events > 0)


def test_every_door_is_measured_and_those_that_stream_by_streams_too() -> None:
    assert set(PATHS.items()) == {(door.name, door.path) for door in DOORS.values()}
    assert PATHS.keys() - ENDS.keys() == {"embeddings"}
    assert {s.door for s in SCENARIOS if s.order.answer} == PATHS.keys()
    assert {s.door for s in SCENARIOS if s.order.events} == ENDS.keys()


@pytest.mark.parametrize("door", ENDS)
def test_the_streams_of_every_door_are_whole_and_flow(door: str) -> None:
    dialect = DOORS[door]
    asked = dialect.parse(body_of(door, "bench", Order(events=3), 1000), {}, b"")
    assert isinstance(asked, Asked)
    shape = SHAPES[dialect.path]
    relay = Relay(dialect.reading(asked))
    begun = relay.feed(unchunked(shape.begin) + shape.event)
    assert b"@" in begun  # output has begun
    assert relay.feed(shape.event) is shape.event
    end = relay.feed(unchunked(shape.end(3) + shape.usage(3)) + b"data: [DONE]\n\n")
    assert relay.complete
    assert relay.usage is not None
    assert ENDS[door] in end + relay.finish(b"{}")


def unchunked(data: bytes) -> bytes:
    reader = AnswerReader()
    return reader.feed(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + data)


@pytest.mark.parametrize("door", PATHS)
def test_the_answers_of_every_door_are_answers_of_about_the_size_asked_for(door: str) -> None:
    dialect = DOORS[door]
    asked = dialect.parse(body_of(door, "bench", Order(answer=5000), 1000), {}, b"")
    assert isinstance(asked, Asked)
    _, _, body = plain_answer(dialect.path, 5000).partition(b"\r\n\r\n")
    verdict = dialect.judge(body, asked, "")
    assert isinstance(verdict, Answer)
    assert verdict.usage is not None
    assert 5000 <= len(body) < 6000


def test_a_shortened_stream_has_fewer_events_of_the_same_pace() -> None:
    (scenario,) = chosen(["burst-50"])
    short = shortened(scenario, 1, 0.1)
    assert short.order.events < scenario.order.events
    assert short.order.every_us == scenario.order.every_us


@pytest.mark.parametrize(("limit_ms", "code"), [(inf, 0), (0.0, 1)], ids=["in time", "late"])
def test_the_ledger_benchmark_asks_everything_and_cleans_up(
    limit_ms: float,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["--rows", "600", "--rounds", "1", "--directory", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["million_rows.py", *arguments])
    monkeypatch.setattr(million_rows, "LIMIT_MS", limit_ms)
    assert million_rows.main() == code
    out, err = capsys.readouterr()
    assert err == ""
    for question in ("stats, 30 days, by hour", "requests, the dearest", "a batch of 250 old rows"):
        assert question in out
    assert list(tmp_path.iterdir()) == []


@linux
def test_the_benchmark_of_workers_measures_one_and_more(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--rounds", "1", "--seconds", "0.1", "--connections", "1"]
    assert measure_workers(options) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| 1 |")]
    assert [row.split("|")[2].strip() for row in rows] == ["1", "2"]
    assert all(float(row.split("|")[3]) > 0 for row in rows)


@linux
async def test_the_benchmark_of_stalls_writes_batches_and_leaves_the_interpreter_as_it_was(
    tmp_path: Path,
) -> None:
    before = sys.getswitchinterval()
    async with open_database(str(tmp_path / "a.db")) as database:
        found = await measure_stalls(database, rounds=1, count=3)
        (written,) = await database.read(
            lambda session: session.execute("SELECT count(*) FROM requests").fetchone()
        )
    assert list(found) == ["nothing", "reads", "0.5 ms", "5 ms"]
    assert found["nothing"]
    assert written == 2 * 3
    assert sys.getswitchinterval() == before
