"""pydantic-ai with the model "openai:gpt-4o": `python -m ... BASE_URL plain|streamed`."""

import asyncio
import os
import sys

from pydantic_ai import Agent

from tests.clients.agent import report


async def work(streamed: bool) -> str:
    agent = Agent("openai:gpt-4o", instructions="Look twice.")

    @agent.tool_plain  # type: ignore[untyped-decorator]  # mypy does not look into it
    def look(place: str) -> str:
        """Looks at a place."""
        return f"Nothing at {place}."

    if not streamed:
        return str((await agent.run("Look.")).output)
    async with agent.run_stream("Look.") as run:
        return str(await run.get_output())


os.environ |= {"OPENAI_BASE_URL": sys.argv[1], "OPENAI_API_KEY": "unused"}
report(lambda: asyncio.run(work(sys.argv[2] == "streamed")))
