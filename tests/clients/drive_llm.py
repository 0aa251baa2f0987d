"""The `llm` tool's models, one case after another; see driver.py."""

from llm import Tool
from llm.default_plugins.openai_models import Chat

from tests.clients.driver import TOOLS, Case, Said, drive


def ask(base_url: str, case: Case) -> Said:
    model = Chat(case.model, model_name=case.model, api_base=base_url, supports_tools=True)
    declared = TOOLS[0]["function"]
    tool = Tool(
        name=declared["name"],
        description=declared["description"],
        input_schema=declared["parameters"],
        implementation=None,  # only the call is wanted
    )
    response = model.prompt(
        "Hi", stream=case.stream, key="unused", tools=[tool] if case.tools else None
    )
    text = response.text()
    usage = response.usage()
    counted = usage.input is not None and usage.output is not None
    return Said(
        text=text,
        tools=[[call.name, call.arguments] for call in response.tool_calls()],
        usage=[usage.input, usage.output] if counted else None,
    )


drive(ask)
