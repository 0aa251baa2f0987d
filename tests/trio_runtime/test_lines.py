"""Lines before a standard error that takes them, takes nothing for now, or is broken."""

import errno
import os
import pty
import select
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, final

import pytest

from arbstr.trio_runtime.lines import LineWriter, LogFile
from tests.process import PATIENCE, wait_until

INFO, WARNING, ERROR = 20, 30, 40
NEVER: Final = 1e6
"""Seconds that a test must not wait."""

STUFFING: Final = b"#"


def lost(count: int) -> str:
    return f"{count} lost\n"


@final
class Gate:
    """An os.write that waits until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.written: list[bytes] = []
        self.reached, self.opened = threading.Event(), threading.Event()
        monkeypatch.setattr(os, "write", self._write)

    def _write(self, _: int, data: bytes) -> int:
        self.reached.set()
        assert self.opened.wait(PATIENCE)
        self.written.append(bytes(data))
        return len(data)


@final
class Ends:
    """Both ends of a pipe or terminal, and who writes into it."""

    def __init__(self, reader: int, end: int) -> None:
        self.reader, self.end = reader, end
        self.lines = LineWriter(os.dup(end), lost)

    def stuff(self) -> None:
        """Fills it to the last byte, as it is some time after its reader has gone to sleep."""
        os.set_blocking(self.end, False)
        for piece in (STUFFING * 4096, STUFFING):
            with suppress(BlockingIOError):
                while os.write(self.end, piece):
                    pass
        os.set_blocking(self.end, True)

    def there(self) -> str:
        """What can be read now."""
        os.set_blocking(self.reader, False)
        found = b""
        with suppress(BlockingIOError):
            while piece := os.read(self.reader, 65536):
                found += piece
        return self._text(found)

    def read_until(self, text: str) -> str:
        """What comes, as far as this text, without the stuffing."""
        found = b""
        while text not in self._text(found):
            ready, _, _ = select.select([self.reader], [], [], PATIENCE)
            assert ready, found
            found += os.read(self.reader, 65536)
        return self._text(found)

    def close(self) -> None:
        self.there()
        wait_until(lambda: self.lines.close(PATIENCE), "the last line")
        os.close(self.reader)
        os.close(self.end)

    @staticmethod
    def _text(found: bytes) -> str:
        return found.replace(STUFFING, b"").replace(b"\r\n", b"\n").decode()


@pytest.fixture
def pipe() -> Iterator[Ends]:
    made = Ends(*os.pipe())
    yield made
    made.close()


def test_a_line_that_is_taken_is_written_at_once_and_takes_no_thread(pipe: Ends) -> None:
    pipe.lines.offer(INFO, "one\n")
    assert pipe.there() == "one\n"
    pipe.lines.offer(ERROR, "größe \udc80\n")
    assert pipe.there() == "größe \\udc80\n"
    assert pipe.lines._thread is None


def test_where_nothing_is_taken_nobody_waits_and_the_order_stays(pipe: Ends) -> None:
    pipe.stuff()
    pipe.lines.offer(INFO, "one\n")
    pipe.lines.offer(ERROR, "two\n")
    pipe.lines.offer(INFO, "three\n")
    assert pipe.read_until("three\n") == "one\ntwo\nthree\n"
    assert pipe.lines.flush(PATIENCE)
    pipe.lines.offer(INFO, "four\n")
    assert pipe.there() == "four\n"  # by who offered it, again


def test_a_line_that_a_pipe_may_not_take_at_once_is_left_to_the_thread(pipe: Ends) -> None:
    long = "x" * 1_000_000 + "\n"
    pipe.lines.offer(INFO, long)
    pipe.lines.offer(INFO, "short\n")
    assert pipe.read_until("short\n") == long + "short\n"


def test_a_pipe_that_somebody_made_nonblocking_is_waited_for(pipe: Ends) -> None:
    pipe.stuff()
    os.set_blocking(pipe.end, False)
    long = "x" * 1_000_000 + "\n"
    pipe.lines.offer(INFO, long)
    assert pipe.read_until("x\n") == long


def test_a_terminal_that_shows_nothing_holds_up_nobody() -> None:
    terminal = Ends(*pty.openpty())
    terminal.lines.offer(INFO, "one\n")
    assert terminal.read_until("one\n") == "one\n"
    terminal.stuff()
    terminal.lines.offer(INFO, "two\n")
    terminal.lines.offer(INFO, "three\n")
    assert terminal.read_until("three\n").endswith("two\nthree\n")
    terminal.close()


def test_what_has_waited_is_written_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, writer = Gate(monkeypatch), LineWriter(os.open(os.devnull, os.O_WRONLY), lost)
    monkeypatch.setattr(writer, "_takes", lambda size: False)
    writer.offer(INFO, "first\n")
    assert gate.reached.wait(PATIENCE)
    for n in range(100):
        writer.offer(INFO, f"{n}\n")
    gate.opened.set()
    assert writer.close(PATIENCE)
    assert gate.written == [b"first\n", "".join(f"{n}\n" for n in range(100)).encode()]


def test_a_full_queue_drops_the_oldest_of_the_lowest_level_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate = Gate(monkeypatch)
    writer = LineWriter(os.open(os.devnull, os.O_WRONLY), lost, capacity=3)
    monkeypatch.setattr(writer, "_takes", lambda size: False)
    writer.offer(INFO, "first\n")
    assert gate.reached.wait(PATIENCE)  # that one is out of the queue
    writer.offer(INFO, "info 1\n")
    writer.offer(WARNING, "warning\n")
    writer.offer(ERROR, "error 1\n")
    writer.offer(INFO, "info 2\n")  # for info 1
    writer.offer(ERROR, "error 2\n")  # for info 2
    writer.offer(INFO, "info 3\n")  # for itself
    writer.offer(ERROR, "error 3\n")  # for the warning
    gate.opened.set()
    assert writer.flush(PATIENCE)
    writer.offer(INFO, "after\n")
    assert writer.close(PATIENCE)
    assert gate.written == [b"first\n", b"4 lost\nerror 1\nerror 2\nerror 3\n", b"after\n"]


def test_a_pipe_without_a_reader_loses_lines_and_no_more() -> None:
    reader, end = os.pipe()
    os.close(reader)
    writer = LineWriter(end, lost)
    for _ in range(3):
        writer.offer(INFO, "one\n")
    writer.offer(INFO, "x" * 100_000)  # by the thread
    assert writer.close(PATIENCE)


def test_a_full_disk_loses_lines_and_says_so_when_there_is_room_again(
    pipe: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, room = os.write, 5

    def nearly_full(descriptor: int, data: bytes) -> int:
        nonlocal room
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = write(descriptor, data[:room])
        room -= taken
        return taken

    monkeypatch.setattr(os, "write", nearly_full)
    for line in ("one\n", "two\n", "three\n"):
        pipe.lines.offer(INFO, line)
    assert pipe.lines.flush(PATIENCE)
    assert pipe.there() == "one\nt"
    room = 1000
    pipe.lines.offer(INFO, "four\n")
    assert pipe.read_until("four\n") == "\n2 lost\nfour\n"
    assert pipe.lines.flush(PATIENCE)
    pipe.lines.offer(INFO, "five\n")
    assert pipe.there() == "five\n"


def test_flushing_waits_once_for_what_takes_nothing(pipe: Ends) -> None:
    assert pipe.lines.flush(NEVER)
    pipe.stuff()
    pipe.lines.offer(INFO, "one\n")
    assert not pipe.lines.flush(0)
    assert not pipe.lines.flush(NEVER)
    assert pipe.read_until("one\n") == "one\n"
    wait_until(lambda: pipe.lines.flush(NEVER), "it notices")


def test_after_the_end_lines_are_lost_and_the_descriptor_is_closed(pipe: Ends) -> None:
    pipe.stuff()
    pipe.lines.offer(INFO, "one\n")
    assert not pipe.lines.close(0)
    pipe.lines.offer(INFO, "late\n")
    assert pipe.read_until("one\n") == "one\n"
    os.set_blocking(pipe.reader, True)
    os.close(pipe.end)
    assert os.read(pipe.reader, 1) == b""  # the other one is closed too
    pipe.end = os.open(os.devnull, os.O_WRONLY)


def test_without_a_thread_the_end_closes_the_descriptor() -> None:
    reader, end = os.pipe()
    writer = LineWriter(end, lost)
    writer.offer(INFO, "one\n")
    assert writer.close(PATIENCE)
    assert writer.close(PATIENCE)
    writer.offer(INFO, "late\n")
    assert os.read(reader, 100) == b"one\n"
    assert os.read(reader, 100) == b""
    os.close(reader)


def test_where_no_thread_can_be_had_the_lines_wait(
    pipe: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    pipe.stuff()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        pipe.lines.offer(INFO, "one\n")
    pipe.lines.offer(INFO, "two\n")
    assert pipe.read_until("two\n") == "one\ntwo\n"


def test_lines_of_several_threads_stay_whole_and_each_threads_in_order(pipe: Ends) -> None:
    def say(name: str) -> None:
        for n in range(500):
            pipe.lines.offer(INFO, f"{name} {n} {'x' * 100}\n")

    threads = [threading.Thread(target=say, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    found = ""
    while found.count("\n") < 2000:
        found += pipe.read_until("\n")
    for thread in threads:
        thread.join()
    said = [line.split(" ") for line in found.splitlines()]
    for name in "abcd":
        assert [int(n) for who, n, _ in said if who == name] == list(range(500))
    assert {rest for _, _, rest in said} == {"x" * 100}


FORKED: Final = """
import os, threading
from arbstr.trio_runtime.lines import LineWriter, LogFile
reader, end = os.pipe()
lines = LineWriter(end, str)
lines._takes = lambda size: False  # a terminal: all by the thread
lines.offer(20, "parent\\n")
assert lines.flush(60) and os.read(reader, 99) == b"parent\\n"
holder = threading.Thread(target=lines._lock.acquire)  # as the log's thread may at the fork
holder.start()
holder.join()
child = os.fork()
if child == 0:
    lines.forked()
    lines.offer(20, "child\\n")
    os._exit(0 if lines.flush(60) else 1)
assert os.waitpid(child, 0)[1] == 0
assert os.read(reader, 99) == b"child\\n"
os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system that does not fork")
def test_a_child_has_neither_the_lines_nor_the_thread_nor_the_lock_of_its_parent() -> None:
    done = subprocess.run([sys.executable, "-c", FORKED], timeout=PATIENCE, check=False)
    assert done.returncode == 0


# --- a file that was moved --------------------------------------------------------------------


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux says what it is called")
class TestLogFile:
    """Somebody, mostly logrotate, gave the log another name."""

    APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT

    def test_one_of_its_name_takes_its_place_with_its_mode(self, tmp_path: Path) -> None:
        path = tmp_path / "a.log"
        descriptor = os.open(path, self.APPEND, 0o640)
        file = LogFile(descriptor)
        os.write(descriptor, b"one ")
        assert not file.reopen(), "nobody has moved it"
        path.rename(tmp_path / "a.log.1")
        assert file.reopen()
        os.write(descriptor, b"two ")
        assert not file.reopen()
        # Another worker may have made the new one: it is appended to.
        other = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.write(other, b"three")
        assert (tmp_path / "a.log.1").read_bytes() == b"one "
        assert path.read_bytes() == b"two three"
        assert path.stat().st_mode & 0o777 == 0o640
        for each in (descriptor, other):
            os.close(each)

    @pytest.mark.parametrize("trap", ["link", "pipe", "folder"])
    def test_what_is_no_file_there_is_not_written_to(self, tmp_path: Path, trap: str) -> None:
        path, mine = tmp_path / "a.log", tmp_path / "mine"
        mine.write_bytes(b"mine")
        descriptor = os.open(path, self.APPEND, 0o600)
        file = LogFile(descriptor)
        path.rename(tmp_path / "a.log.1")
        if trap == "link":
            path.symlink_to(mine)
        elif trap == "pipe":
            os.mkfifo(path)
        else:
            path.mkdir()
        with pytest.raises(OSError, match=r"links|No such device|directory"):
            file.reopen()
        os.write(descriptor, b"on")
        assert ((tmp_path / "a.log.1").read_bytes(), mine.read_bytes()) == (b"on", b"mine")
        os.close(descriptor)

    def test_what_is_not_appended_to_stays(self, tmp_path: Path) -> None:
        reader, pipe = os.pipe()
        written = os.open(tmp_path / "a.log", os.O_WRONLY | os.O_CREAT)
        for descriptor in (pipe, written):
            assert (LogFile(descriptor).path, LogFile(descriptor).reopen()) == (None, False)
        for descriptor in (reader, pipe, written):
            os.close(descriptor)
