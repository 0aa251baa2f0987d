"""Other clients than the OpenAI Python SDK, through a whole `arbstr run` (`pytest -m clients`).

Each client is driven in a process of its own, through all cases of clients/cases.json in one run;
see clients/README.md. What is compared: what the client made of an answer, which of its exceptions
a failure became, and how often the provider was asked.
"""

import importlib.util
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeAlias, final

import pytest

from tests.fakes import FakeProcess, fake_process
from tests.process import arbstr_process, clean_environ
from tests.sdk import provider

pytestmark = pytest.mark.clients

ROOT: Final = Path(__file__).parents[1]
CLIENTS: Final = ROOT / "tests" / "clients"
CASES: Final[dict[str, dict[str, Any]]] = json.loads((CLIENTS / "cases.json").read_text("utf-8"))

SETTINGS: Final = """
[stream]
keepalive = 0.05        # the slow provider's events are twice as far apart

[breaker]
failures = 1000         # every case finds every provider ready

[retry]
repeat_guard = 0        # two clients may ask the same
"""


@final
@dataclass(frozen=True, slots=True)
class Client:
    """A client and what it needs: a Python module of the extra, or a Node package.

    The class names are those of the exceptions it documents for a stream that breaks off, a 429,
    and a 400. `guesses` the tokens nobody told it, or `asks`
    for them by itself.
    """

    driver: str
    needs: str
    broken_off: str
    rate_limited: str
    refused: str
    guesses: bool = False
    asks: bool = False


PYTHON: Final = {
    "langchain": Client(
        "drive_langchain",
        "langchain_openai",
        "APIError",
        "OpenAIRateLimitError",
        "OpenAIInvalidRequestError",
    ),
    "llm": Client("drive_llm", "llm", "APIError", "RateLimitError", "BadRequestError", asks=True),
    "litellm": Client(
        "drive_litellm",
        "litellm",
        "MidStreamFallbackError",
        "RateLimitError",
        "BadRequestError",
        guesses=True,
    ),
}

NODE: Final = {
    "openai-node": Client(
        "drive_openai.mjs", "openai", "APIError", "RateLimitError", "BadRequestError"
    ),
    # What breaks a stream is a part of the stream there, and holds our error object.
    "ai-sdk": Client("drive_ai_sdk.mjs", "ai", "Object", "APICallError", "APICallError"),
}

each = pytest.mark.parametrize(
    "client",
    [
        *(pytest.param(client, id=name) for name, client in PYTHON.items()),
        *(pytest.param(client, id=name, marks=pytest.mark.node) for name, client in NODE.items()),
    ],
)


@final
@dataclass(frozen=True, slots=True)
class Outcome:
    """What a client made of all cases, and how often each model was asked for."""

    cases: dict[str, dict[str, Any]]
    hits: Counter[str]

    def of(self, case: str) -> dict[str, Any]:
        return self.cases[case]


Drive: TypeAlias = Callable[[Client], Outcome]


def command(client: Client) -> list[str]:
    """How to run its driver. Fails if it is not installed: who chose these tests wants them."""
    how = "tests/clients/README.md says how to install it"
    if client.driver.endswith(".mjs"):
        there = (CLIENTS / "node_modules" / client.needs).is_dir()
        assert there, f"the Node package {client.needs} is not installed; {how}"
        return ["node", str(CLIENTS / client.driver)]
    there = importlib.util.find_spec(client.needs) is not None
    assert there, f"{client.needs} is not installed; {how}"
    return [sys.executable, "-m", f"tests.clients.{client.driver}"]


@pytest.mark.node
def test_the_node_sdk_that_asks_again_after_its_timeout_gets_the_answer_that_is_paid() -> None:
    client = Client("again_openai.mjs", "openai", "", "", "")
    with (
        fake_process() as fake,
        arbstr_process(config_text=provider("late", fake.url, "fake-late")) as process,
    ):
        done = subprocess.run(
            [*command(client), process.base_url],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert len(fake.requests()) == 2
        rows = {row["correlation_id"]: row for row in process.wait_rows(4)}
        assert process.stop() == 0
    for text, joined in json.loads(done.stdout).values():
        assert text == "Hello there"
        assert rows.pop(joined)["cost_sats"] == 0.25
    assert [(row["status"], row["cost_sats"]) for row in rows.values()] == [("ok", 0)] * 2


def run(client: Client, base_url: str, fake: FakeProcess) -> Outcome:
    fake.reset()
    # LiteLLM fetches a price list over the network when it is imported, unless told not to.
    environ = clean_environ({"LITELLM_LOCAL_MODEL_COST_MAP": "True"})
    done = subprocess.run(
        [*command(client), base_url],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert list(found) == list(CASES)
    return Outcome(found, Counter(str(request.json["model"]) for request in fake.requests()))


@pytest.fixture(scope="module")
def drive() -> Iterator[Drive]:
    """Runs a client's driver, once."""
    models = dict.fromkeys(case["model"] for case in CASES.values())
    with fake_process() as fake:
        tables = [provider(model, fake.url, model) for model in models]
        with arbstr_process(config_text=SETTINGS + "".join(tables)) as process:
            yield cache(lambda client: run(client, process.base_url, fake))


def usage_of(client: Client, *, told: bool) -> list[int] | None:
    return [10, 5] if told or client.asks else None


@each
def test_a_plain_chat(client: Client, drive: Drive) -> None:
    assert drive(client).of("plain") == {"text": "Hello there", "tools": [], "usage": [10, 5]}


@each
@pytest.mark.parametrize(
    ("case", "text"),
    [
        ("streamed", "Hello there"),
        ("streamed, comments between", " tick" * 20),
        ("streamed, usage asked", "Hello there"),
        ("no usage in the answer", "Hello there"),
    ],
)
def test_a_stream(case: str, text: str, client: Client, drive: Drive) -> None:
    found = drive(client).of(case)
    assert "error" not in found, found
    assert (found["text"], found["tools"]) == (text, [])
    told = CASES[case].get("usage", False)
    if case == "no usage in the answer":
        assert found["usage"] is None or client.guesses
    elif told or not client.guesses:
        assert found["usage"] == usage_of(client, told=told)


@each
@pytest.mark.parametrize("case", ["tools", "tools, streamed"])
def test_a_tool_call(case: str, client: Client, drive: Drive) -> None:
    found = drive(client).of(case)
    assert "error" not in found, found
    assert found["tools"] == [["weather", {"city": "Oslo"}]]
    assert found["text"] == ""


@each
def test_a_stream_that_breaks_off_is_the_error_the_client_has_for_it(
    client: Client, drive: Drive
) -> None:
    outcome = drive(client)
    found = outcome.of("cut in the middle")
    assert found["error"][0] == client.broken_off
    assert "The answer is not complete" in found["message"]
    assert outcome.hits["fake-cut"] == 1


@each
@pytest.mark.parametrize("case", ["rate limited", "rate limited, streamed"])
def test_a_rate_limit_is_the_error_the_client_has_for_it(
    case: str, client: Client, drive: Drive
) -> None:
    found = drive(client).of(case)
    assert found["error"][0] == client.rate_limited
    assert "Rate limits: ask again later" in found["message"]


@each
@pytest.mark.parametrize("case", ["possibly paid", "possibly paid, streamed"])
def test_what_may_have_been_paid_is_not_repeated_by_any_client(
    case: str, client: Client, drive: Drive
) -> None:
    outcome = drive(client)
    found = outcome.of(case)
    assert found["error"][0] == client.refused
    assert "X-Arbstr-Respend: allow" in found["message"]
    assert outcome.hits["fake-close"] == 2  # once by each of the two cases
