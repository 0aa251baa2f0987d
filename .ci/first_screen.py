"""Follows the README from a bare machine to the first answer: `first_screen.py PYTHON`.

For .ci/run. Run it where README.md lies and nothing is installed: it executes the line that tries
arbstr as it stands there, and beside it what the README then asks with, curl and a client.
PYTHON takes the place of `python3`, and another port that of 8080 if somebody has it.
"""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

PORT = "8080"
PATIENCE = 300
"""Seconds for a step. The first installs what pip finds, which takes a minute on a slow line."""


def main() -> None:
    """Fails loudly if any of it does."""
    text = Path("README.md").read_text("utf-8").replace("python3 ", f"{shlex.quote(sys.argv[1])} ")
    port = free_port()
    text = text.replace(f"127.0.0.1:{PORT}", f"127.0.0.1:{port}")
    start = the_line(r"^(.* run --mock)$", text)
    if port != PORT:
        start += f" --listen 127.0.0.1:{port}"
    print(f"$ {start}")
    process = subprocess.Popen(
        ["bash", "-c", start], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdout is not None
        announced = next((line for line in process.stdout if "listens on" in line), None)
        assert announced is not None, "it did not start"
        answer = obeyed(the_line(r"^(curl (?:.*\\\n)*.*)$", text))
        assert re.match(r"HTTP/1.1 200 ", answer), answer
        obeyed(the_line(r"`(.* -m pip install openai)`", text))
        program = the_line(r"```python\n(.*?)```", text, re.DOTALL)
        answer = obeyed(f".venv/bin/python -c {shlex.quote(program)}")
        assert re.search(r"^mock-cheap [0-9.]+ sats$", answer, re.MULTILINE), answer
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(PATIENCE)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def free_port() -> str:
    """8080, as the README says, or one that is free."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", int(PORT)))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def the_line(pattern: str, text: str, flags: re.RegexFlag = re.MULTILINE) -> str:
    """What the README has of it, first."""
    found = re.search(pattern, text, flags)
    assert found is not None, f"README.md has nothing like {pattern}"
    return found[1]


def obeyed(line: str) -> str:
    """What it prints; it must end with 0."""
    print(f"$ {line}")
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    return done.stdout


main()
