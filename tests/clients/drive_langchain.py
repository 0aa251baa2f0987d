"""LangChain's ChatOpenAI, one case after another; see driver.py."""

from typing import Any

from langchain_openai import ChatOpenAI

from tests.clients.driver import TOOLS, Case, Said, drive


def ask(base_url: str, case: Case) -> Said:
    chat = ChatOpenAI(
        base_url=base_url,
        api_key="unused",
        model=case.model,
        stream_usage=case.usage,
    )
    asked: Any = chat.bind_tools(TOOLS) if case.tools else chat
    if case.stream:
        whole = None
        for chunk in asked.stream("Hi"):
            whole = chunk if whole is None else whole + chunk
    else:
        whole = asked.invoke("Hi")
    assert whole is not None
    counted = whole.usage_metadata
    return Said(
        text=str(whole.content),
        tools=[[call["name"], call["args"]] for call in whole.tool_calls],
        usage=[counted["input_tokens"], counted["output_tokens"]] if counted else None,
    )


drive(ask)
