"""LiteLLM's client, one case after another; see driver.py."""

import json
from typing import Any

import litellm

from tests.clients.driver import TOOLS, Case, Said, drive


def ask(base_url: str, case: Case) -> Said:
    options: dict[str, Any] = {"tools": TOOLS} if case.tools else {}
    if case.usage:
        options["stream_options"] = {"include_usage": True}
    answer: Any = litellm.completion(
        model=f"openai/{case.model}",
        base_url=base_url,
        api_key="unused",
        messages=[{"role": "user", "content": "Hi"}],
        stream=case.stream,
        **options,
    )
    if case.stream:
        answer = litellm.stream_chunk_builder(list(answer))
    message, usage = answer.choices[0].message, getattr(answer, "usage", None)
    return Said(
        text=message.content or "",
        tools=[
            [call.function.name, json.loads(call.function.arguments)]
            for call in message.tool_calls or ()
        ],
        usage=[usage.prompt_tokens, usage.completion_tokens] if usage else None,
    )


drive(ask)
