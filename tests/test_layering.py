"""The import rule, held by what the source says and by what an interpreter really loads.

A machine that imports no clock, no socket and no logger cannot use one; everything else that makes
the sansio half testable follows from that. `arbstr/sansio/ruff.toml` holds the first part of the
rule as well, for whoever types; the two lists are compared here.
"""

import ast
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]
PACKAGE: Final = ROOT / "arbstr"


def row(modules: str) -> tuple[str, ...]:
    """Modules beside each other at the top of a half."""
    return tuple(modules.split())


def wing(name: str, modules: str) -> tuple[str, ...]:
    """`config/values`, for each module of a folder."""
    return tuple(f"{name}/{module}" for module in modules.split())


ORDER: Final = {
    "sansio": (
        *row("frozen errors secrets money moments ids visible heads chunks endpoints"),
        *wing(
            "config",
            "addresses ledger_url credentials values settings faults tables models cautions reader "
            "reload",
        ),
        *row("callers"),
        *wing(
            "dialects",
            "flat members usage sse dialect complaints request relay_states relay whole",
        ),
        *wing(
            "dialects/chat", "request glance facts ending reading assembly answer door completions"
        ),
        *wing("dialects/responses", "request events answer door"),
        *wing("dialects/messages", "errors events answer request door"),
        *wing("dialects", "embeddings"),
        *wing("dialects", "doors"),
        *wing(
            "routing",
            "listing announced prices catalog paths affinity policy origins latency ratios holds "
            "refusals plan quote budget lease gauge",
        ),
        *wing(
            "failover",
            "kinds refusal capable rests failure statuses classify watch cut_off evidence verdicts "
            "breaker board last_word retry repeats",
        ),
        *wing(
            "ledger",
            "record intents dropped alarms reconcile lanes attempt periods reports retention",
        ),
        *row("life exchange"),
        *row("fates workers combined"),
    ),
    "trio_runtime": (
        *row("lines logs change heavy descriptors groups"),
        *wing(
            "ledger",
            "port statements boot_lock sqlite_session sqlite_soundness sqlite_readers sqlite "
            "sqlite_backup postgres_session postgres_readers postgres database "
            "budget lease_rows ratios prices on_lanes checkpoints store intents leases log_writer "
            "put_back move retention sums walks stats charges zones reports",
        ),
        *wing(
            "upstream",
            "pipe deadlines tunnel connect readers http11 content_coding transport ask node "
            "websocket discovery target pieces witness answering call",
        ),
        *wing(
            "server",
            "framing request asgi http11 client_socket listener connection server bodies responder "
            "silences",
        ),
        *wing("mock", "said chat completions responses messages embeddings answers providers"),
        *row(
            "snapshot packed repeats nodes accounts lane_file lane_keys lane_words lanes "
            "left_lanes hub reload status"
        ),
        *row("whom drains permit attempts cutting relaying books delivery"),
        *row("sharing run joined exchange free counting kept"),
        *row("stopping worker"),
        *row("unrouted quart_routes app main workers"),
    ),
    "cli": (
        *row(
            "output progress figures cells tables config_file first_config init_asked node_prices "
            "provider_text check_command "
            "providers_command cost_command ledger_options clients "
            "connect_command routes status_command stats_csv stats_text "
            "request_text ledger_commands reconcile_command discover_command backup_command "
            "import_command migrate_command mock_ledger run_command"
        ),
        *wing("watch", "keys model view detail screen lines reader terminal command"),
        *wing("doctor", "findings machine providers command"),
        *row("service_command help_command command_line grammar completion_command commands"),
    ),
}
"""The modules of each half, in wings and beside them, each below those it may import. What the rows
are, the docstrings of the packages say."""

BANNED: Final = frozenset(
    {
        *("trio", "asyncio", "threading", "subprocess", "arbstr.trio_runtime"),
        *("socket", "ssl", "httpx", "h11", "hypercorn", "quart", "quart_trio"),
        *("sqlite3", "os", "pathlib", "logging"),
        *("time", "datetime", "random"),
    }
)
"""What nothing in sansio imports: what acts, the network, the disk, what differs between runs."""

LIBRARIES: Final = {
    "pydantic": {"sansio/config/tables"},
    "pydantic_core": {"sansio/dialects/usage"},
    "hypercorn": {
        *(
            "trio_runtime/server/http11",
            "trio_runtime/server/client_socket",
            "trio_runtime/server/connection",
        ),
    },
    "quart": {"trio_runtime/quart_routes"},
    "quart_trio": {"trio_runtime/app", "trio_runtime/quart_routes"},
    "werkzeug": {"trio_runtime/quart_routes"},
    "httpx": {"trio_runtime/upstream/connect"},
    "h11": {
        *("trio_runtime/server/http11", "trio_runtime/server/framing"),
        *(
            "trio_runtime/upstream/http11",
            "trio_runtime/upstream/readers",
            "trio_runtime/upstream/tunnel",
        ),
        "trio_runtime/mock/providers",
    },
    "socksio": {"trio_runtime/upstream/tunnel"},
    "wsproto": {"trio_runtime/upstream/websocket"},
    "rich": {"cli/help_command", "cli/request_text", "cli/stats_text", "cli/tables"},
    "sqlite3": {
        *("trio_runtime/ledger/sqlite", "trio_runtime/ledger/sqlite_session"),
        *("trio_runtime/ledger/sqlite_soundness", "trio_runtime/ledger/sqlite_backup"),
        "trio_runtime/ledger/sqlite_readers",
    },
    "psycopg": {
        f"trio_runtime/ledger/{name}"
        for name in ("postgres", "postgres_readers", "postgres_session")
    },
}
"""Who may import what is large, or a detail of one subject. trio is the whole runtime's."""


def loaded_by(module: str) -> set[str]:
    """All that a process has in memory which has imported this."""
    code = f"import {module}, sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stdout.split())


def modules(folder: str = "") -> list[Path]:
    """All of a folder, those of its wings too."""
    return sorted((PACKAGE / folder).rglob("*.py"))


def wings(half: str) -> list[str]:
    """The folders of a half, in the order of their first modules."""
    return list(dict.fromkeys(module.split("/")[0] for module in ORDER[half] if "/" in module))


def name_of(path: Path) -> str:
    """`sansio/exchange`."""
    return path.relative_to(PACKAGE).with_suffix("").as_posix()


@cache
def imported(path: Path) -> set[str]:
    """Every dotted name the source imports, wherever in it, also for type checkers alone."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively, which hides what it imports"
            # `from arbstr import trio_runtime` imports a module, `from os import path` a name.
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def is_in(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


@pytest.mark.parametrize("path", modules("sansio"), ids=name_of)
def test_a_machine_imports_nothing_that_acts(path: Path) -> None:
    faults = {name for name in imported(path) for ban in BANNED if is_in(name, ban)}
    assert not faults


def banned_by_ruff(folder: str) -> set[str]:
    """What the folder's own `ruff.toml` bans, each with a reason, and nothing else of its rules."""
    path = PACKAGE / folder / "ruff.toml"
    rules = tomllib.loads(path.read_text("utf-8"))
    # `lint.select` stands in pyproject.toml alone, which the file extends.
    assert (path.parent / rules["extend"]).resolve() == ROOT / "pyproject.toml"
    assert "select" not in rules["lint"]
    bans = rules["lint"]["flake8-tidy-imports"]["banned-api"]
    assert all(ban["msg"] for ban in bans.values())
    return set(bans)


def test_ruff_holds_what_is_banned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert "TID251" in project["tool"]["ruff"]["lint"]["select"]


def test_what_ruff_bans_in_sansio_is_what_this_test_bans() -> None:
    assert banned_by_ruff("sansio") == BANNED


@pytest.mark.parametrize("name", wings("sansio"))
def test_ruff_bans_in_a_wing_of_sansio_the_wings_above_it(name: str) -> None:
    rooms = list(dict.fromkeys(module.split("/")[0] for module in ORDER["sansio"]))
    above = rooms[rooms.index(name) + 1 :]
    # callers stands above config, and imports nothing anybody would want to import there.
    expected = {f"arbstr.sansio.{room}" for room in above if room != "callers"}
    assert banned_by_ruff(f"sansio/{name}") == BANNED | expected


@pytest.mark.parametrize("name", wings("trio_runtime"))
def test_ruff_bans_in_a_wing_of_the_runtime_its_neighbours_and_what_stands_above(name: str) -> None:
    others = [other for other in wings("trio_runtime") if other != name]
    rooms = list(dict.fromkeys(module.split("/")[0] for module in ORDER["trio_runtime"]))
    above = rooms[max(map(rooms.index, wings("trio_runtime"))) + 1 :]
    banned = {f"arbstr.trio_runtime.{room}" for room in (*others, *above)}
    assert banned_by_ruff(f"trio_runtime/{name}") == banned
    faults = [
        f"{path.name} imports {found}"
        for path in modules(f"trio_runtime/{name}")
        for found in imported(path)
        for ban in banned
        if is_in(found, ban)
    ]
    assert faults == []


def test_nothing_stands_outside_the_halves_and_the_commands() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} == {"__init__", "__main__"}


@pytest.mark.parametrize("half", ORDER)
def test_every_module_has_its_place_in_the_order(half: str) -> None:
    there = {
        path.relative_to(PACKAGE / half).with_suffix("").as_posix()
        for path in modules(half)
        if path.stem != "__init__"
    }
    assert there == set(ORDER[half]), "put it into ORDER and into the table of its package"
    assert len(ORDER[half]) == len(there)


@pytest.mark.parametrize("half", ORDER)
def test_a_module_imports_only_modules_above_it(half: str) -> None:
    order = ORDER[half]
    faults = [
        f"{module} imports {other}, which stands below it"
        for below, module in enumerate(order)
        for other in order[below:]
        for name in imported(PACKAGE / half / f"{module}.py")
        if is_in(name, f"arbstr.{half}.{other.replace('/', '.')}")
    ]
    assert faults == []


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_stays_in_the_modules_it_is_for(library: str) -> None:
    users = {
        name_of(path) for path in modules() if any(is_in(name, library) for name in imported(path))
    }
    assert users == LIBRARIES[library]


PAGES: Final = [
    *ORDER,
    *(f"{half}/{name}" for half in ORDER for name in wings(half)),
    "sansio/dialects/chat",
    "sansio/dialects/responses",
]
"""The folders whose `__init__` says what they are for."""


def page(folder: str) -> ast.Module:
    return ast.parse((PACKAGE / folder / "__init__.py").read_text("utf-8"))


@pytest.mark.parametrize("folder", PAGES)
def test_the_theory_of_operation_is_text_and_no_code(folder: str) -> None:
    assert ast.get_docstring(page(folder))
    assert len(page(folder).body) == 1


@pytest.mark.parametrize("folder", PAGES)
def test_the_theory_of_operation_names_the_modules_in_their_order(folder: str) -> None:
    half, _, name = folder.partition("/")
    table = (ast.get_docstring(page(folder)) or "").partition("The order of the modules")[2]
    if name or half == "cli":  # a line a module
        named = [line.split()[0] for line in table.splitlines() if line.startswith("    ")]
        there = [
            module.removeprefix(f"{name}/") for module in ORDER[half] if module.startswith(name)
        ]
        # A door that is a folder is one line of its wing, and has a page of its own.
        rooms = dict.fromkeys(module.partition("/")[0] for module in there)
        assert [room.removesuffix("/") for room in named] == list(rooms)
    else:  # a line a row
        words = table.replace(",", " ").replace("/", " ").split()
        rooms = dict.fromkeys(module.split("/")[0] for module in ORDER[half])
        places = [words.index(room) for room in rooms]
        assert places == sorted(places)


def test_importing_the_machines_loads_no_runtime() -> None:
    loaded = loaded_by("arbstr.sansio.exchange")
    assert "arbstr.sansio.exchange" in loaded
    libraries = {"trio", "httpx", "h11", "quart", "quart_trio", "hypercorn", "sqlite3", "asyncio"}
    assert loaded & libraries == set()
    assert not any(is_in(name, "arbstr.trio_runtime") for name in loaded)


def test_what_few_requests_need_is_not_in_the_memory_of_an_idle_arbstr() -> None:
    """Quart is imported with the first request for one of its routes, httpx with a proxy."""
    loaded = loaded_by("arbstr.trio_runtime.main")
    assert "trio" in loaded
    assert loaded & {"quart", "quart_trio", "werkzeug", "jinja2", "flask", "httpx"} == set()
    assert loaded & {"asyncio", "psycopg", "concurrent.futures"} == set()
