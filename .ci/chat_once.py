"""Answers one chat through `arbstr run --mock`: `chat_once.py PATH_OF_ARBSTR`. For .ci/run."""

import json
import subprocess
import sys
import urllib.request

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Are you there?"}]}


def main() -> None:
    """Starts it, asks, stops it; fails loudly if any of the three does."""
    command = [sys.argv[1], "run", "--mock", "--listen", "127.0.0.1:0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        request = urllib.request.Request(
            f"{url}/v1/chat/completions",
            json.dumps(CHAT).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            print(answer.headers["x-arbstr-provider"], answer.headers["x-arbstr-cost-sats"], "sats")
            print(json.load(answer)["choices"][0]["message"]["content"])
        process.terminate()
        assert process.wait(20) == 0, "arbstr did not end with 0"
    finally:
        process.kill()
        process.wait()


main()
