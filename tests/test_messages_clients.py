"""Programs of Node at /v1/messages: Anthropic's SDK, the AI SDK, Claude Code (`pytest -m node`).

Each is run in a process of its own; arbstr and its scripted providers are in this one. See
clients/README.md for how they are installed.
"""

import json
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from tests.fakes import Play, Request, json_answer, open_fake_provider, stream
from tests.process import arbstr_process, clean_environ
from tests.proxy import Proxy, config, open_proxy, provider
from tests.test_messages import one, streamed, two

pytestmark = [pytest.mark.clients, pytest.mark.node]

CLIENTS: Final = Path(__file__).parent / "clients"
PACKAGES: Final = CLIENTS / "node_modules"
CLAUDE: Final = PACKAGES / "@anthropic-ai" / "claude-code-linux-x64" / "claude"
TEXT: Final = 'Café "type":"error" \U0001f680'

needs_sdks = pytest.mark.skipif(
    not (PACKAGES / "@ai-sdk" / "anthropic").exists(), reason="npm install --prefix tests/clients"
)
needs_claude = pytest.mark.skipif(
    not CLAUDE.exists(), reason="npm install --prefix tests/clients, on Linux"
)
each = pytest.mark.parametrize("use", ["loop", "helper", "ai"])


async def drive(use: str, proxy: Proxy) -> Any:
    command = ["node", str(CLIENTS / "drive_messages.mjs"), use, proxy.url]
    with trio.fail_after(60):
        done = await trio.run_process(command, capture_stdout=True, env=clean_environ())
    # The AI SDK writes warnings around it.
    (told,) = (line for line in done.stdout.splitlines() if line.startswith((b'{"text"', b'{"err')))
    return json.loads(told)


@needs_sdks
@each
@pytest.mark.parametrize("name", ["text", "routstr-whole"])
async def test_a_stream(use: str, name: str) -> None:
    async with open_fake_provider(streamed(name)) as fake, open_proxy(one(fake)) as proxy:
        assert await drive(use, proxy) == {"text": TEXT}


@needs_sdks
@each
@pytest.mark.parametrize("name", ["error", "clean-end"])
async def test_a_broken_stream_is_said_and_asked_once(use: str, name: str) -> None:
    async with open_fake_provider(streamed(name)) as fake, open_proxy(one(fake)) as proxy:
        found = await drive(use, proxy)
        assert fake.hits == 1
    assert "The answer is not complete" in found["error"]


@needs_sdks
@each
async def test_a_provider_that_breaks_before_output_is_never_noticed(use: str) -> None:
    async with (
        open_fake_provider(streamed("error-at-once")) as first,
        open_fake_provider(streamed("text")) as second,
        open_proxy(two(first, second)) as proxy,
    ):
        assert await drive(use, proxy) == {"text": TEXT}


# -- Claude Code, with a task of two rounds of tools


def event(type_: str, **members: Any) -> bytes:
    return f"event: {type_}\ndata: {json.dumps({'type': type_, **members})}\n\n".encode()


def run(number: int, command: str) -> dict[str, Any]:
    given = {"command": command, "description": "a round"}
    return {"type": "tool_use", "id": f"toolu_{number}", "name": "Bash", "input": given}


ROUNDS: Final = (run(1, "echo one > one.txt"), run(2, "cat one.txt > two.txt"))
HEAD: Final = event(
    "message_start",
    message={
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [],
        "usage": {"input_tokens": 9, "output_tokens": 1},
    },
)


def agent(request: Request) -> Play:
    """The next round, by how many results of tools the request has; then the last word."""
    contents = [m["content"] for m in request.json["messages"] if isinstance(m["content"], list)]
    results = [b for content in contents for b in content if b["type"] == "tool_result"]
    working = request.json.get("tools") and len(results) < len(ROUNDS)
    block = ROUNDS[len(results)] if working else {"type": "text", "text": "All done."}
    delta = (
        {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
        if working
        else {"type": "text_delta", "text": block["text"]}
    )
    begun = {**block, **({"input": {}} if working else {"text": ""})}
    reason = {"stop_reason": "tool_use" if working else "end_turn", "stop_sequence": None}
    return stream(
        [
            HEAD,
            event("content_block_start", index=0, content_block=begun),
            event("content_block_delta", index=0, delta=delta),
            event("content_block_stop", index=0),
            event("message_delta", delta=reason, usage={"output_tokens": 5}),
            event("message_stop"),
        ]
    )


async def claude(url: str, folder: Path, prompt: str = "make the files", **more: str) -> str:
    """What it prints of a task. `more` is beside the rest of its environment."""
    environ = {
        "HOME": str(folder),
        "ANTHROPIC_BASE_URL": url.removesuffix("/v1"),
        "ANTHROPIC_AUTH_TOKEN": "anything",
        "ANTHROPIC_MODEL": "gpt-4o",
        "ANTHROPIC_SMALL_FAST_MODEL": "gpt-4o",
        "CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK": "1",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        **more,
    }
    command = [str(CLAUDE), "-p", prompt, "--allowedTools", "Bash"]
    with trio.fail_after(100):
        done = await trio.run_process(
            command, capture_stdout=True, check=False, cwd=folder, env=clean_environ(environ)
        )
    return done.stdout.decode()


@needs_claude
async def test_claude_code_does_its_task(tmp_path: Path) -> None:
    async with open_fake_provider(agent) as fake, open_proxy(one(fake)) as proxy:
        assert "All done." in await claude(proxy.url, tmp_path)
        assert {row.status for row in proxy.log.final} == {"ok"}
    assert (tmp_path / "two.txt").read_text() == "one\n"


@needs_claude
async def test_claude_code_says_that_a_stream_broke_and_asks_once(tmp_path: Path) -> None:
    broken = stream(list(agent_pieces()))
    async with open_fake_provider(broken) as fake, open_proxy(one(fake)) as proxy:
        assert "The answer is not complete" in await claude(proxy.url, tmp_path)
        assert fake.hits == 1


@needs_claude
async def test_what_claude_code_asks_again_unstreamed_is_not_paid_twice(tmp_path: Path) -> None:
    broken = stream(list(agent_pieces()))
    again = {"CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK": "0"}
    async with open_fake_provider(broken) as fake, open_proxy(one(fake)) as proxy:
        said = await claude(proxy.url, tmp_path, **again)
        await proxy.wait_idle()
        rows = [(row.status, row.streaming, row.error_status) for row in proxy.log.final]
        assert fake.hits == 1
    assert "The same request was sent before" in said
    assert "X-Arbstr-Respend: allow" in said
    assert rows == [("stream_incomplete", True, 502), ("rejected", False, 400)]


@needs_claude
async def test_claude_code_counts_tokens(tmp_path: Path) -> None:
    def script(request: Request) -> Play:
        counted = "/count_tokens" in request.path
        return json_answer({"input_tokens": 4321}) if counted else agent(request)

    async with open_fake_provider(script) as fake, open_proxy(one(fake)) as proxy:
        said = await claude(proxy.url, tmp_path, prompt="/context")
        assert fake.hits > 5
        assert proxy.log.final == []
    assert "4.3k" in said


@needs_claude
async def test_claude_code_talks_to_the_mock_providers(tmp_path: Path) -> None:
    with arbstr_process(arguments=["--mock"]) as process:
        said = await claude(process.base_url, tmp_path, prompt="Say hello to the mock")
    assert "mock-cheap" in said
    assert "Say hello to the mock" in said


def agent_pieces() -> tuple[bytes, ...]:
    block = {"type": "text", "text": ""}
    delta = {"type": "text_delta", "text": "I beg"}
    return (
        HEAD,
        event("content_block_start", index=0, content_block=block),
        event("content_block_delta", index=0, delta=delta),
    )


@needs_claude
async def test_claude_code_never_notices_who_breaks_before_output(tmp_path: Path) -> None:
    async with (
        open_fake_provider(streamed("error-at-once")) as first,
        open_fake_provider(agent) as second,
        open_proxy(
            config(provider("alpha", first.url, rate=1), provider("beta", second.url, rate=2))
        ) as proxy,
    ):
        assert "All done." in await claude(proxy.url, tmp_path)
    assert (tmp_path / "two.txt").exists()
