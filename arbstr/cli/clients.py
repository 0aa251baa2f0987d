"""What to set in each client to have it ask arbstr: a table, for `arbstr connect` and the manual.

In a `text` stand, for what is different everywhere:

    <root>, <v1>           http://127.0.0.1:8080, and the same with /v1
    <key>                  the token of [server] auth_token, as this client takes it (`Key`)
    <model>                a model that somebody serves at the client's door
    <members>, <ids>       all of them, as `"a": {}, "b": {}` and `{"id": "a"}, {"id": "b"}`

Sources: the clients themselves, as they were run against arbstr's doors, and their documentation.
"""

from enum import Enum
from typing import Final, final

from arbstr.sansio.frozen import dataclass


@final
class Syntax(Enum):
    """How a name is written into a text so that it stays one word."""

    SHELL = "shell"
    FILE = "within double quotes of JSON, TOML, YAML, Python or JavaScript"
    PERSON = "read and typed by a person"


@final
@dataclass(frozen=True, slots=True)
class Key:
    """What <key> is: `named` when there is a token, kept in the variable NAME, else `free`."""

    named: str
    free: str


@final
@dataclass(frozen=True, slots=True)
class Client:
    """One client. Without a `text` it cannot be connected, and the `notes` say why.

    door     the API it speaks, as in `endpoints`
    where    what the text is, or where it belongs; a colon follows
    """

    name: str
    title: str
    door: str
    where: str
    text: str
    syntax: Syntax
    key: Key
    notes: tuple[str, ...] = ()


_SHELL: Final = Key('"$NAME"', "anything")
_PYTHON: Final = Key('os.environ["NAME"]', '"anything"')
_NODE: Final = Key("process.env.NAME", '"anything"')
_TYPED: Final = Key("the value of $NAME", "anything")

_IN_SHELL: Final = "In the shell that it is started from"
_IN_PYTHON: Final = "In Python"
_IN_NODE: Final = "In JavaScript or TypeScript"
_FOR_OPENAI: Final = "export OPENAI_BASE_URL=<v1>\nexport OPENAI_API_KEY=<key>"

CLIENTS: Final = (
    Client(
        "claude-code",
        "Claude Code",
        "messages",
        _IN_SHELL,
        "export ANTHROPIC_BASE_URL=<root>\n"
        "export ANTHROPIC_AUTH_TOKEN=<key>\n"
        "export ANTHROPIC_MODEL=<model>\n"
        "export ANTHROPIC_DEFAULT_HAIKU_MODEL=<model>       # for its small tasks\n"
        "export CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK=1",
        Syntax.SHELL,
        _SHELL,
        (
            "Without the last line Claude Code asks again, unstreamed, whenever a stream broke "
            "off, whatever the error said. arbstr refuses that for a minute; with the line, Claude "
            "Code shows the message at once.",
        ),
    ),
    Client(
        "codex",
        "Codex",
        "responses",
        "In ~/.codex/config.toml",
        'model = "<model>"                # one that your providers have\n'
        'model_provider = "arbstr"\n'
        "\n"
        "[model_providers.arbstr]\n"
        'name = "arbstr"\n'
        'base_url = "<v1>"\n'
        'wire_api = "responses"          # Codex speaks no other\n'
        "<key>",
        Syntax.FILE,
        Key(
            'env_key = "NAME"',
            '# env_key = "ARBSTR_TOKEN"      # the variable with [server] auth_token, '
            "if there is one",
        ),
        (
            "Codex repeats by itself what did not succeed, five times, whatever the status, but "
            "for a 400 and for one code in a broken stream. arbstr answers with these where to "
            "repeat could cost again or would be in vain.",
        ),
    ),
    Client(
        "opencode",
        "opencode",
        "chat",
        "In opencode.json, of a project or in ~/.config/opencode",
        "{\n"
        '  "$schema": "https://opencode.ai/config.json",\n'
        '  "model": "arbstr/<model>",\n'
        '  "provider": {\n'
        '    "arbstr": {\n'
        '      "npm": "@ai-sdk/openai-compatible",\n'
        '      "name": "arbstr",\n'
        '      "options": {"baseURL": "<v1>", "apiKey": "<key>"},\n'
        '      "models": {<members>}\n'
        "    }\n"
        "  }\n"
        "}",
        Syntax.FILE,
        Key("{env:NAME}", "anything"),
    ),
    Client(
        "aider",
        "aider",
        "chat",
        _IN_SHELL,
        "export OPENAI_API_BASE=<v1>\nexport OPENAI_API_KEY=<key>\naider --model openai/<model>",
        Syntax.SHELL,
        _SHELL,
    ),
    Client(
        "cline",
        "Cline",
        "chat",
        "In its settings",
        "API Provider  OpenAI Compatible\nBase URL      <v1>\nAPI Key       <key>\n"
        "Model ID      <model>",
        Syntax.PERSON,
        _TYPED,
    ),
    Client(
        "continue",
        "Continue",
        "chat",
        "In ~/.continue/config.yaml (a token's variable, in ~/.continue/.env)",
        "name: arbstr\nversion: 1.0.0\nschema: v1\nmodels:\n"
        '  - name: "<model>"\n    provider: openai\n    model: "<model>"\n'
        '    apiBase: "<v1>"\n    apiKey: "<key>"',
        Syntax.FILE,
        Key("${{ secrets.NAME }}", "anything"),
    ),
    Client(
        "open-webui",
        "Open WebUI",
        "chat",
        _IN_SHELL,
        "export OPENAI_API_BASE_URL=<v1>\nexport OPENAI_API_KEY=<key>",
        Syntax.SHELL,
        _SHELL,
        (
            "It keeps what it was first started with; later: Admin Settings, Connections.",
            "In a container, 127.0.0.1 is the container itself. There it is the host's name, "
            "host.docker.internal for example, for which arbstr has to `listen` on more than "
            "loopback, with an auth_token and that name in allowed_hosts.",
        ),
    ),
    Client(
        "cursor",
        "Cursor",
        "chat",
        "In Cursor Settings, Models, API Keys",
        "OpenAI API Key            <key>\nOverride OpenAI Base URL  <v1>\n"
        "Add model                 <model>",
        Syntax.PERSON,
        _TYPED,
        (
            "Cursor's own servers send the requests, so they do not reach an address of your "
            "machine or network: put the public https:// address of a reverse proxy or tunnel in "
            "place of this one, its name into allowed_hosts, and set an auth_token.",
            "For some models it sends bodies of another API, which are refused.",
        ),
    ),
    Client(
        "copilot-cli",
        "Copilot CLI",
        "chat",
        _IN_SHELL,
        "export COPILOT_PROVIDER_TYPE=openai\nexport COPILOT_PROVIDER_BASE_URL=<v1>\n"
        "export COPILOT_PROVIDER_API_KEY=<key>\nexport COPILOT_MODEL=<model>",
        Syntax.SHELL,
        _SHELL,
    ),
    Client(
        "qwen-code",
        "Qwen Code",
        "chat",
        _IN_SHELL,
        f"{_FOR_OPENAI}\nexport OPENAI_MODEL=<model>",
        Syntax.SHELL,
        _SHELL,
    ),
    Client(
        "pi",
        "pi",
        "chat",
        "In ~/.pi/agent/models.json",
        '{\n  "providers": {\n    "arbstr": {\n      "baseUrl": "<v1>",\n'
        '      "api": "openai-completions",\n      "apiKey": "<key>",\n'
        '      "models": [<ids>]\n    }\n  }\n}',
        Syntax.FILE,
        Key("$NAME", "anything"),
    ),
    Client(
        "shell-gpt",
        "shell-gpt",
        "chat",
        _IN_SHELL,
        "export API_BASE_URL=<v1>\nexport OPENAI_API_KEY=<key>\nexport DEFAULT_MODEL=<model>",
        Syntax.SHELL,
        _SHELL,
    ),
    Client(
        "aichat",
        "aichat",
        "chat",
        "In config.yaml of its configuration directory (`aichat --info` names it)",
        'model: "arbstr:<model>"\nclients:\n  - type: openai-compatible\n    name: arbstr\n'
        '    api_base: "<v1>"\n    api_key: "<key>"\n    models:\n      - name: "<model>"',
        Syntax.FILE,
        _TYPED,
    ),
    Client(
        "llm",
        "llm",
        "chat",
        "In extra-openai-models.yaml, beside what `llm logs path` names",
        '- model_id: "arbstr/<model>"\n  model_name: "<model>"\n  api_base: "<v1>"\n'
        "  api_key_name: arbstr          # llm keys set arbstr --value <key>",
        Syntax.FILE,
        _SHELL,
    ),
    Client(
        "litellm",
        "LiteLLM",
        "chat",
        _IN_PYTHON,
        'litellm.completion(\n    model="openai/<model>", api_base="<v1>", api_key=<key>,\n'
        '    messages=[{"role": "user", "content": "Hello!"}],\n)',
        Syntax.FILE,
        _PYTHON,
    ),
    Client(
        "openai-python",
        "OpenAI SDK for Python",
        "chat",
        _IN_PYTHON,
        'client = OpenAI(base_url="<v1>", api_key=<key>)',
        Syntax.FILE,
        _PYTHON,
    ),
    Client(
        "openai-node",
        "OpenAI SDK for Node",
        "chat",
        _IN_NODE,
        'const client = new OpenAI({ baseURL: "<v1>", apiKey: <key> });',
        Syntax.FILE,
        _NODE,
    ),
    Client(
        "openai-agents",
        "OpenAI Agents SDK",
        "responses",
        _IN_SHELL,
        _FOR_OPENAI,
        Syntax.SHELL,
        _SHELL,
        ("It sends traces to OpenAI by itself; OPENAI_AGENTS_DISABLE_TRACING=1 ends that.",),
    ),
    Client(
        "anthropic-python",
        "Anthropic SDK for Python",
        "messages",
        _IN_PYTHON,
        'client = Anthropic(base_url="<root>", api_key=<key>)',
        Syntax.FILE,
        _PYTHON,
    ),
    Client(
        "anthropic-node",
        "Anthropic SDK for Node",
        "messages",
        _IN_NODE,
        'const client = new Anthropic({ baseURL: "<root>", apiKey: <key> });',
        Syntax.FILE,
        _NODE,
    ),
    Client(
        "vercel-ai-sdk",
        "Vercel AI SDK",
        "chat",
        _IN_NODE,
        "const arbstr = createOpenAICompatible({        // of @ai-sdk/openai-compatible\n"
        '  name: "arbstr", baseURL: "<v1>", apiKey: <key>,\n'
        '});\nconst model = arbstr("<model>");',
        Syntax.FILE,
        _NODE,
    ),
    Client(
        "langchain",
        "LangChain",
        "chat",
        _IN_PYTHON,
        'model = ChatOpenAI(model="<model>", base_url="<v1>", api_key=<key>)',
        Syntax.FILE,
        _PYTHON,
    ),
    Client(
        "llamaindex",
        "LlamaIndex",
        "chat",
        _IN_PYTHON,
        "llm = OpenAILike(\n"
        '    model="<model>", api_base="<v1>", api_key=<key>, is_chat_model=True\n)',
        Syntax.FILE,
        _PYTHON,
        ("Without is_chat_model=True it asks /v1/completions.",),
    ),
    Client(
        "pydantic-ai",
        "Pydantic AI",
        "chat",
        _IN_PYTHON,
        'provider = OpenAIProvider(base_url="<v1>", api_key=<key>)\n'
        'model = OpenAIChatModel("<model>", provider=provider)',
        Syntax.FILE,
        _PYTHON,
    ),
    Client(
        "haystack",
        "Haystack",
        "chat",
        _IN_PYTHON,
        "generator = OpenAIChatGenerator(\n"
        '    model="<model>", api_base_url="<v1>", api_key=Secret.from_token(<key>)\n)',
        Syntax.FILE,
        _PYTHON,
        ("OpenAITextEmbedder and OpenAIDocumentEmbedder take the same three.",),
    ),
    Client(
        "dspy",
        "DSPy",
        "chat",
        _IN_PYTHON,
        'lm = dspy.LM("openai/<model>", api_base="<v1>", api_key=<key>)',
        Syntax.FILE,
        _PYTHON,
    ),
    Client(
        "crewai",
        "CrewAI",
        "chat",
        _IN_PYTHON,
        'llm = LLM(model="openai/<model>", base_url="<v1>", api_key=<key>)',
        Syntax.FILE,
        _PYTHON,
    ),
    Client(
        "agno",
        "Agno",
        "chat",
        _IN_PYTHON,
        'model = OpenAILike(id="<model>", base_url="<v1>", api_key=<key>)',
        Syntax.FILE,
        _PYTHON,
    ),
    Client(
        "gemini-cli",
        "Gemini CLI",
        "",
        "",
        "",
        Syntax.SHELL,
        _SHELL,
        (
            "Gemini CLI speaks Gemini's own API alone, which arbstr does not have: it cannot be "
            "connected. Qwen Code, which was made of it, can: `arbstr connect qwen-code`.",
        ),
    ),
)
"""In the order in which they are listed: agents and editors, then programs, then libraries."""
