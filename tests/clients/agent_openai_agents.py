"""openai-agents in its default mode, Responses: `python -m ... BASE_URL plain|streamed`."""

import asyncio
import sys

from agents import Agent, Runner, function_tool, set_default_openai_client, set_tracing_disabled
from openai import AsyncOpenAI

from tests.clients.agent import report


@function_tool  # type: ignore[untyped-decorator]  # mypy does not look into it
def look(place: str) -> str:
    """Looks at a place."""
    return f"Nothing at {place}."


async def work(base_url: str, streamed: bool) -> str:
    set_tracing_disabled(True)
    set_default_openai_client(AsyncOpenAI(base_url=base_url, api_key="unused"))
    agent = Agent(name="looker", instructions="Look twice.", tools=[look], model="gpt-4o")
    if not streamed:
        return str((await Runner.run(agent, "Look.")).final_output)
    run = Runner.run_streamed(agent, "Look.")
    async for _ in run.stream_events():
        pass
    return str(run.final_output)


report(lambda: asyncio.run(work(sys.argv[1], sys.argv[2] == "streamed")))
