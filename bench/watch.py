"""What `arbstr watch` costs: CPU of itself and of the arbstr that it looks at.

    python bench/watch.py                 # a minute: idle, then 20 requests a second
    python bench/watch.py --seconds 30

An `arbstr run --mock` is looked at through a pty of 120 columns and 40 lines. CPU times are those
of the processes' own clocks; what arbstr spends on being looked at is its time with a watcher less
its time without, at the same load. Start-up is from exec to the first screen.
"""

import argparse
import http.client
import json
import os
import pty
import select
import subprocess
import sys
import tempfile
import termios
import threading
import time
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.clock import cpu_seconds, megabytes

RATE: Final = 20.0
"""Requests a second of the busy half."""

START_SECONDS: Final = 30.0

BODY: Final = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=15.0, help="of each of the four parts")
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as folder:
        arbstr, port = started()
        config = Path(folder, "config.toml")
        config.write_text(
            f'[server]\nlisten = "127.0.0.1:{port}"\n[[providers]]\nname = "mock-cheap"\n'
            'url = "http://127.0.0.1:9"\nmodels = ["*"]\n'
        )
        print("| | arbstr, alone | arbstr, looked at | the watch itself | its memory |")
        print("|---|---|---|---|---|")
        try:
            for rate in (0.0, RATE):
                measure(arbstr.pid, port, config, rate, seconds)
        finally:
            arbstr.terminate()
            arbstr.wait()


def measure(pid: int, port: int, config: Path, rate: float, seconds: float) -> None:
    alone = percent(pid, port, rate, seconds)
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (40, 120))
    began = time.perf_counter()
    watch = subprocess.Popen(
        [sys.executable, "-m", "arbstr", "watch", "-c", str(config)],
        stdin=slave,
        stdout=slave,
        env={**os.environ, "TERM": "xterm"},
    )
    seen = threading.Event()
    threading.Thread(target=swallow, args=(master, seen), daemon=True).start()
    if not seen.wait(START_SECONDS):
        raise SystemExit("arbstr watch showed nothing")
    first = time.perf_counter() - began
    before = used(watch.pid)
    looked_at = percent(pid, port, rate, seconds)
    own = (used(watch.pid) - before) / seconds * 100
    memory = megabytes([watch.pid], "VmRSS") or 0.0
    watch.terminate()
    watch.wait()
    what = f"{rate:g} requests a second" if rate else "idle"
    print(f"| {what} | {alone:.2f} % | {looked_at:.2f} % | {own:.2f} % | {memory:.0f} MB |")
    print(f"first screen after {first * 1000:.0f} ms", file=sys.stderr)


def used(pid: int) -> float:
    """Seconds of CPU so far."""
    seconds = cpu_seconds([pid])
    if seconds is None:
        raise SystemExit("this needs Linux, and a process that lives")
    return seconds


def percent(pid: int, port: int, rate: float, seconds: float) -> float:
    """CPU of that process while so many requests a second are answered."""
    before, end = used(pid), time.monotonic() + seconds
    connection = http.client.HTTPConnection("127.0.0.1", port)
    while time.monotonic() < end:
        if rate:
            connection.request("POST", "/v1/chat/completions", BODY)
            connection.getresponse().read()
        time.sleep(1 / rate if rate else end - time.monotonic())
    return (used(pid) - before) / seconds * 100


def swallow(master: int, seen: threading.Event) -> None:
    """Reads what is drawn, as a terminal does; `seen` once figures of arbstr are on it."""
    drawn = b""
    while True:
        select.select([master], [], [])
        try:
            data = os.read(master, 65536)
        except OSError:
            return
        drawn = (drawn + data)[-65536:]
        if b"today" in drawn:
            seen.set()


def started() -> tuple["subprocess.Popen[str]", int]:
    """`arbstr run --mock` on a port of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "arbstr", "run", "--mock", "-l", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "listens on" in line:
            return process, int(line.rpartition(":")[2])
    raise SystemExit("arbstr did not start")


if __name__ == "__main__":
    main()
