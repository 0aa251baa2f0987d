"""Agents that speak Responses, through arbstr: `pytest -m clients`; see clients/README.md.

Each does a task of two rounds with a tool against a scripted provider; then the provider breaks off
in the middle of an answer, which has to be said and must not be paid again; then it fails before
output, which the agent must not notice, for a second provider answers.
"""

import importlib.util
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, final

import pytest
import trio

from arbstr.sansio.dialects.responses.door import RESPONSES
from tests.fakes import (
    FakeProvider,
    Play,
    Request,
    error_answer,
    json_answer,
    open_fake_provider,
    sse,
    stream,
)
from tests.process import arbstr_process, clean_environ
from tests.proxy import Proxy, config, open_proxy, provider

pytestmark = pytest.mark.clients

CLIENTS: Final = Path(__file__).parent / "clients"
HOW: Final = "tests/clients/README.md says how to install it"
DONE: Final = "I looked twice, and there was nothing."
ROUNDS: Final = 2


@final
@dataclass(frozen=True, slots=True)
class Agent:
    """How to run one, and the Python module or Node package that has to be there."""

    command: tuple[str, ...]
    module: str | None = None
    package: str | None = None

    def check(self) -> None:
        """Fails if it is not installed: who chose these tests wants it."""
        if self.module is not None:
            assert importlib.util.find_spec(self.module), f"{self.module} is not installed; {HOW}"
        if self.package is not None:
            there = (CLIENTS / "node_modules" / self.package).is_dir()
            assert there, f"the Node package {self.package} is not installed; {HOW}"


def python(name: str, module: str, *modes: str) -> Iterator[Any]:
    for mode in modes:
        agent = Agent((sys.executable, "-m", f"tests.clients.{name}"), module=module)
        yield pytest.param(agent, mode, id=f"{module}-{mode}")


def node(name: str, package: str, *modes: str) -> Iterator[Any]:
    for mode in modes:
        agent = Agent(("node", str(CLIENTS / name)), package=package)
        yield pytest.param(agent, mode, id=f"{package}-{mode}", marks=pytest.mark.node)


AGENTS: Final = [
    *python("agent_openai_agents", "agents", "plain", "streamed"),
    *python("agent_pydantic_ai", "pydantic_ai", "plain", "streamed"),
    *node("agent_openai.mjs", "openai", "plain", "streamed", "helper"),
    *node("agent_ai_sdk.mjs", "@ai-sdk/openai", "plain", "streamed"),
]
STREAMED: Final = [agent for agent in AGENTS if agent.values[1] != "plain"]
each = pytest.mark.parametrize(("agent", "mode"), AGENTS)


# -- the provider


def response(request: Request, *output: dict[str, Any]) -> bytes:
    usage = {
        "input_tokens": 100,
        "input_tokens_details": {"cached_tokens": 40},
        "output_tokens": 10,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 110,
    }
    head = {"id": "resp_1", "object": "response", "created_at": 7, "status": "completed"}
    more: dict[str, Any] = {
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
    }
    tools = {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True}
    model = request.json["model"]
    whole = {**head, **more, **tools, "model": model, "output": list(output), "usage": usage}
    return json.dumps(whole).encode()


def message(text: str) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": []}
    head = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed"}
    return {**head, "content": [part]}


def call(name: str, number: int, **arguments: Any) -> dict[str, Any]:
    return {
        "type": "function_call",
        "id": f"fc_{number}",
        "call_id": f"call_{number}",
        "status": "completed",
        "name": name,
        "arguments": json.dumps(arguments),
    }


def task(request: Request) -> Play:
    """The next step: a call of the tool, twice, and then a text."""
    items = request.json["input"]
    given = items if isinstance(items, list) else []
    done = sum(item.get("type") == "function_call_output" for item in given)
    shell = any(tool.get("name") == "exec_command" for tool in request.json.get("tools", ()))
    if done >= ROUNDS:
        body = response(request, message(DONE))
    elif shell:
        body = response(request, call("exec_command", done, cmd=f"echo step {done} >> steps"))
    else:
        body = response(request, call("look", done, place=f"place {done}"))
    return played(request, body)


def played(request: Request, body: bytes) -> Play:
    if request.wants_stream:
        return stream([RESPONSES.as_stream(body)])
    return json_answer(json.loads(body))


def broken(request: Request) -> Play:
    """A message whose stream is cut behind its first words."""
    events = RESPONSES.as_stream(response(request, message("Half of an"))).split(b"\n\n")
    upto = next(at for at, event in enumerate(events) if b"output_text.delta" in event)
    return stream([event + b"\n\n" for event in events[: upto + 1]], ending="fin")


def never(request: Request) -> Play:
    """It fails before any output."""
    if not request.wants_stream:
        return error_answer(503)
    error = {"code": "server_error", "message": "The server had an error."}
    failed = {**json.loads(response(request)), "status": "failed", "error": error, "usage": None}
    created = {"type": "response.created", "response": {**failed, "status": "in_progress"}}
    events = (created, {"type": "response.failed", "response": failed})
    return stream([sse({**event, "sequence_number": n}) for n, event in enumerate(events)])


@asynccontextmanager
async def arbstr(
    script: Callable[[Request], Play], *, second: Callable[[Request], Play] | None = None
) -> AsyncIterator[tuple[Proxy, FakeProvider]]:
    """arbstr in front of a provider, and of a dearer one if `second` answers there."""
    async with (
        open_fake_provider(script) as first,
        open_fake_provider(second or error_answer(503)) as other,
    ):
        tables = [provider("alpha", first.url, rate=1, more="cached_input_rate = 0.5")]
        if second is not None:
            tables.append(provider("beta", other.url, rate=2, more="cached_input_rate = 1"))
        async with open_proxy(config(*tables, more="[retry]\nmax_retries = 0")) as proxy:
            yield proxy, first


async def run(agent: Agent, proxy: Proxy, mode: str) -> dict[str, Any]:
    agent.check()
    with trio.fail_after(120):
        done = await trio.run_process(
            [*agent.command, proxy.url, mode],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env=clean_environ({"OPENAI_AGENTS_DISABLE_TRACING": "1"}),
            cwd=Path(__file__).parents[1],
        )
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, Any] = json.loads(done.stdout.decode().splitlines()[-1])
    return found


# -- SDKs and frameworks


@each
async def test_a_task_of_two_rounds_is_done(agent: Agent, mode: str) -> None:
    async with arbstr(task) as (proxy, fake):
        assert await run(agent, proxy, mode) == {"text": DONE}
        record = await proxy.record(ROUNDS + 1)
    assert fake.hits == ROUNDS + 1
    assert (record.endpoint, record.status) == ("responses", "ok")
    assert record.cost_sats == Decimal("0.09")  # 60 tokens of input, 40 cached ones, 10 of output
    assert record.moved is False


@pytest.mark.parametrize(("agent", "mode"), STREAMED)
async def test_a_broken_stream_is_said_and_not_asked_for_again(agent: Agent, mode: str) -> None:
    async with arbstr(broken) as (proxy, fake):
        found = await run(agent, proxy, mode)
    assert "The answer is not complete" in found["error"]
    assert fake.hits == 1


@each
async def test_who_fails_before_output_is_not_noticed(agent: Agent, mode: str) -> None:
    async with arbstr(never, second=task) as (proxy, _):
        assert await run(agent, proxy, mode) == {"text": DONE}
        await proxy.wait_idle()
        assert {record.provider for record in proxy.log.final} == {"beta"}


# -- Codex


CODEX: Final = CLIENTS / "node_modules" / ".bin" / "codex"
CODEX_CONFIG: Final = """\
model = "gpt-4o"
model_provider = "arbstr"

[model_providers.arbstr]
name = "arbstr"
base_url = "{url}"
wire_api = "responses"
"""


async def codex(url: str, home: Path) -> tuple[int, str]:
    """Its exit code, and all it said."""
    assert CODEX.exists(), f"Codex is not installed; {HOW}"
    work = home / "work"
    work.mkdir()
    (home / "config.toml").write_text(CODEX_CONFIG.format(url=url))
    with trio.fail_after(120):
        done = await trio.run_process(
            [
                str(CODEX),
                *(
                    "exec",
                    "--skip-git-repo-check",
                    "--sandbox",
                    "danger-full-access",
                    "Look twice.",
                ),
            ],
            stdin=b"",
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env={**os.environ, "HOME": str(home), "CODEX_HOME": str(home)},
            cwd=work,
        )
    return done.returncode, (done.stdout + done.stderr).decode()


@pytest.mark.node
async def test_codex_does_a_task_of_two_rounds(tmp_path: Path) -> None:
    async with arbstr(task) as (proxy, fake):
        code, said = await codex(proxy.url, tmp_path)
        record = await proxy.record(ROUNDS + 1)
    assert (code, DONE in said) == (0, True), said
    assert (tmp_path / "work" / "steps").read_text() == "step 0\nstep 1\n"
    assert fake.hits == ROUNDS + 1
    assert (record.endpoint, record.moved) == ("responses", False)


@pytest.mark.node
async def test_codex_talks_to_the_mock_providers(tmp_path: Path) -> None:
    with arbstr_process(arguments=["--mock"]) as process:
        code, said = await codex(process.base_url, tmp_path)
    assert code == 0, said
    assert "mock-cheap" in said


@pytest.mark.node
async def test_codex_says_that_a_stream_broke_and_asks_once(tmp_path: Path) -> None:
    async with arbstr(broken) as (proxy, fake):
        code, said = await codex(proxy.url, tmp_path)
    assert "The answer is not complete" in said
    assert code != 0
    assert fake.hits == 1


@pytest.mark.node
async def test_codex_never_notices_who_failed_before_output(tmp_path: Path) -> None:
    async with arbstr(never, second=task) as (proxy, _):
        code, said = await codex(proxy.url, tmp_path)
        await proxy.wait_idle()
        assert {record.provider for record in proxy.log.final} == {"beta"}
    assert (code, DONE in said) == (0, True), said
