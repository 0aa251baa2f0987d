"""The parent of several workers, at its end of their posts; whole processes are in
tests/test_workers.py."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any, Final

import pytest

from arbstr.sansio import workers as machine
from arbstr.sansio.config.reader import parse_config
from arbstr.sansio.fates import Word
from arbstr.trio_runtime import workers
from arbstr.trio_runtime.main import Options
from arbstr.trio_runtime.worker import Lines, line_of
from arbstr.trio_runtime.workers import _Parent, _Seat

CONFIG: Final = "[server]\nworkers = 3\n"


def heard(post: socket.socket) -> list[dict[str, Any]]:
    """What has come to a worker."""
    post.setblocking(False)
    lines, found = Lines(), []
    while True:
        try:
            found += lines.feed(post.recv(1 << 20))
        except BlockingIOError:
            return found


@pytest.fixture
def family(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[_Parent, dict[int, socket.socket]]]:
    """A parent whose workers 1 to 3 are sockets; 1 and 2 serve, 3 starts."""
    monkeypatch.setattr(os, "kill", lambda pid, number: pytest.fail("nobody is to be killed"))
    parent = _Parent(parse_config(CONFIG, {}), Options("arbstr.db"), lambda url: None, [])
    posts = {}
    parent._workers.start()
    for number in (1, 2, 3):
        ours, posts[number] = socket.socketpair()
        ours.setblocking(False)
        seat = parent._seats[number] = _Seat(number, 100 + number, ours)
        parent._selector.register(ours, 1, seat)
        if number < 3:
            parent._happened(machine.Ready(number))
    yield parent, posts
    for seat in parent._seats.values():
        seat.post.close()
    for post in posts.values():
        post.close()
    parent._selector.close()


def test_a_question_goes_to_those_who_serve_and_its_answer_to_whoever_asked(
    family: tuple[_Parent, dict[int, socket.socket]],
) -> None:
    parent, posts = family
    parent._carry(parent._seats[1], {"ask": 7, "what": "health"})
    assert heard(posts[2]) == [{"ask": 7, "from": 1, "what": "health"}]
    assert heard(posts[3]) == []
    who = [
        {"worker": 1, "pid": 101, "state": "serving"},
        {"worker": 2, "pid": 102, "state": "serving"},
        {"worker": 3, "pid": 103, "state": "starting"},
    ]
    assert heard(posts[1]) == [{"who": 7, "workers": who}]
    answer = {"told": 7, "to": 1, "by": 2, "report": {"status": "ok"}}
    parent._carry(parent._seats[2], answer)
    parent._carry(parent._seats[2], {**answer, "to": 9})  # who is gone by now
    assert heard(posts[1]) == [answer]


def test_what_one_has_seen_goes_to_all_others_and_to_those_that_come_later(
    family: tuple[_Parent, dict[int, socket.socket]],
) -> None:
    parent, posts = family
    seen = {"node": ["alpha", "http://alpha"]}
    kept = {"stored": [["resp_1"], [], "alpha", "m", None]}
    for message in (seen, seen, kept):
        parent._carry(parent._seats[2], message)
    assert [heard(posts[number]) for number in (1, 2, 3)] == [
        [seen, seen, kept],
        [],
        [seen, seen, kept],
    ]
    assert parent._nodes == [("alpha", "http://alpha")]


def test_how_far_the_day_has_come_is_said_once_for_all(
    family: tuple[_Parent, dict[int, socket.socket]], caplog: pytest.LogCaptureFixture
) -> None:
    parent, posts = family
    for worker, day, limit, mark in (
        *((1, 7, "10", "MOST"), (2, 7, "10", "MOST"), (2, 7, "10", "ALL"), (1, 7, "10", "ALL")),
        *((1, 7, "20", "ALL"), (2, 7, "20", "MOST")),  # another limit, and it was late
        *((1, 8, "20", "MOST"), (2, 8, "20", "MOST")),
    ):
        parent._carry(
            parent._seats[worker],
            {"mark": [day, limit, mark], "line": f"{mark} of {limit} on {day}"},
        )
    assert [record.message for record in caplog.records if " on " in record.message] == [
        *("MOST of 10 on 7", "ALL of 10 on 7", "ALL of 20 on 7", "MOST of 20 on 8"),
    ]
    assert [heard(posts[number]) for number in (1, 2)] == [[], []]


def test_one_that_reads_nothing_holds_up_nobody_and_is_told_to_stop_all_the_same(
    family: tuple[_Parent, dict[int, socket.socket]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "MOST_WAITING", 1_000_000)
    parent, posts = family
    long = {"stored": [["x" * 300_000], [], "alpha", "m", None]}
    for _ in range(20):
        parent._carry(parent._seats[1], long)
    seat = parent._seats[2]
    assert 0 < len(seat.waiting) <= 1_000_000
    parent._tell(Word.STOP, "SIGTERM")
    found: list[dict[str, Any]] = []
    lines = Lines()
    with closing(posts[2]):
        posts[2].setblocking(False)
        while {"word": "stop", "why": "SIGTERM"} not in found:
            found += lines.feed(posts[2].recv(1 << 20))
            parent._write(seat)
    assert len(found) < 20


def test_one_that_hangs_is_asked_nothing_and_alone_is_killed(
    family: tuple[_Parent, dict[int, socket.socket]], monkeypatch: pytest.MonkeyPatch
) -> None:
    parent, posts = family
    ended: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: ended.append((pid, number)))
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[-1])

    def beat(number: int) -> None:
        posts[number].send(line_of({"beat": number}))
        parent._read_post(parent._seats[number])

    beat(1)
    beat(2)
    clock.append(1005.0)
    beat(1)
    parent._happened(machine.Elapsed())
    parent._carry(parent._seats[1], {"ask": 7, "what": "health"})
    assert heard(posts[2]) == []
    (told,) = heard(posts[1])
    assert told["workers"][1] == {"worker": 2, "pid": 102, "state": "hung"}
    clock.append(1030.0)
    beat(1)
    parent._todo.clear()  # what was to be said and started until here
    parent._happened(machine.Elapsed())
    while parent._todo:
        parent._do(parent._todo.popleft())
    assert ended == [(102, signal.SIGKILL)]


def test_a_post_that_is_closed_is_left_alone(
    family: tuple[_Parent, dict[int, socket.socket]],
) -> None:
    parent, posts = family
    posts[2].close()
    parent._read_post(parent._seats[2])
    parent._tell(Word.HURRY, "SIGTERM")
    assert heard(posts[1]) == [{"word": "hurry", "why": "SIGTERM"}]
    assert parent._seats[2].post.fileno() == -1


@pytest.mark.parametrize(
    ("code", "how"),
    [(0, "ended with exit code 0"), (-9, "killed by SIGKILL"), (-40, "killed by signal 40")],
)
def test_an_end_is_told_whatever_it_was(
    code: int, how: str, family: tuple[_Parent, dict[int, socket.socket]]
) -> None:
    parent, _ = family
    parent._todo.clear()
    parent._ended(parent._seats[2], code)
    (said,) = parent._todo
    assert isinstance(said, machine.Say)
    assert f"worker 2 (pid 102) {how}" in said.sentence.replace("was killed", "killed")
    assert 2 not in parent._seats
