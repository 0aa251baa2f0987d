"""`arbstr connect`: what to set in a client, by the configuration. Asks nobody, writes nothing.

    (client, address, token's variable, models) --told--> lines

A token is told by the name of a variable; its value only with --show-token.
"""

import argparse
import difflib
import json
import re
import shlex
import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from arbstr.cli.clients import CLIENTS, Client, Syntax
from arbstr.cli.config_file import NOT_SET
from arbstr.cli.output import complain, no_such
from arbstr.sansio.config.addresses import parse_listen
from arbstr.sansio.visible import escaped

if TYPE_CHECKING:
    from arbstr.sansio.config.reader import Config
    from arbstr.sansio.routing.catalog import Catalog

OWN_VARIABLE: Final = "ARBSTR_TOKEN"
"""The name for a token that the configuration does not take from a variable."""

NO_MODEL: Final = "MODEL"
"""Stands where none is known, because the nodes have not been asked yet."""

WIDTH: Final = 100
"""Columns that a note is broken at."""


def run(options: argparse.Namespace, config: "Config", catalog: "Catalog") -> int:
    """Prints it, or the list of the clients; returns the exit code."""
    if options.name is None:
        print(listed())
        return 0
    client = next((each for each in CLIENTS if each.name == options.name.lower()), None)
    if client is None:
        options.complain(_unknown(options.name))
        return 2
    if not client.text:
        complain(client.notes[0])
        return 1
    variable = None
    if config.server.auth_token is not None:
        variable = config.token_variable or OWN_VARIABLE
    models = [options.model] if options.model else _models(catalog, client.door)
    print(f"{client.where}:\n")
    text = told(client, base_url(config.server.listen), variable, models)
    print(text)
    notes = [
        *client.notes,
        *_about_escapes(text),
        *_about_token(config, variable, options.show_token),
    ]
    unserved = _unserved(config, catalog, client, options.model)
    if unserved is not None:
        notes.append(unserved)
    elif not models:
        notes.append(f"{NO_MODEL} is one that `arbstr providers` or GET /v1/models lists.")
    if parse_listen(config.server.listen)[1] == 0:
        notes.append("PORT is the one that `arbstr run` says: [server] listen leaves it open.")
    for note in notes:
        print(f"\n{textwrap.fill(note, WIDTH, break_long_words=False, break_on_hyphens=False)}")
    if options.show_token and config.server.auth_token is not None:
        return _show(variable, config.server.auth_token.reveal())
    return 0


def _unknown(name: str) -> str:
    names = [client.name for client in CLIENTS]
    near = difflib.get_close_matches(name.lower()[:100], names, n=1)
    return no_such("client", name, near, names)


def listed() -> str:
    """A line a client: its name, what it is called, the door it comes in by."""
    width = max(len(client.name) for client in CLIENTS)
    wide = max(len(client.title) for client in CLIENTS)
    return "\n".join(
        f"{client.name:{width}}  {client.title:{wide}}  {client.door or 'cannot be connected'}"
        for client in CLIENTS
    )


def client_table() -> str:
    """The same for the manual."""
    rows = [
        f"| `{client.name}` | {client.title} | "
        f"{f'`{client.door}`' if client.door else 'cannot be connected'} |"
        for client in CLIENTS
    ]
    return "\n".join(["| `arbstr connect ...` | | door |", "|---|---|---|", *rows])


def base_url(listen: str) -> str:
    """Where a client of this machine finds who listens so: http://HOST:PORT."""
    host, port = parse_listen(listen)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{port or 'PORT'}"


def told(client: Client, root: str, variable: str | None, models: Sequence[str]) -> str:
    """The text of a client. `variable` has the token, if there is one."""
    names = models or [NO_MODEL]
    within = [_within(name, client.syntax) for name in names]
    key = client.key.free if variable is None else client.key.named.replace("NAME", variable)
    facts = {
        "root": root,
        "v1": f"{root}/v1",
        "key": key,
        "model": within[0],
        "members": ", ".join(f'"{name}": {{}}' for name in within),
        "ids": ", ".join(f'{{"id": "{name}"}}' for name in within),
    }
    # In one pass: a model's name may look like a marker.
    return re.sub("<(" + "|".join(facts) + ")>", lambda found: facts[found[1]], client.text)


def _within(name: str, syntax: Syntax) -> str:
    name = escaped(name)  # a node may list what would move a terminal's cursor
    match syntax:
        case Syntax.SHELL:
            return shlex.quote(name)
        case Syntax.FILE:
            return json.dumps(name, ensure_ascii=False)[1:-1]
        case Syntax.PERSON:
            return name


def _models(catalog: "Catalog", door: str) -> list[str]:
    return [
        model
        for model in catalog.models()
        if any(door in offer.endpoints for offer in catalog.offers(model))
    ]


def _unserved(
    config: "Config", catalog: "Catalog", client: Client, model: str | None
) -> str | None:
    """What the client would be refused for, by the configuration, whatever its providers say."""
    if not config.providers:
        return None  # that of the mocks, or none yet
    if not any(
        client.door in provider.endpoints_for(named)
        for provider in config.providers
        for named in provider.named
    ):
        return (
            f"As it is configured, no provider serves {client.door}, by which {client.title} comes "
            "in: its requests would be refused ([[providers]] endpoints)."
        )
    offers = () if model is None else catalog.offers(model)
    asking = any(provider.asks_node for provider in config.providers)
    if model is None or asking or any(client.door in offer.endpoints for offer in offers):
        return None
    return f"As it is configured, no provider serves {escaped(model)} to it."


def _about_escapes(text: str) -> list[str]:
    """Who pastes the name of a model that was printed as an escape asks for another one."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    if text.encode(encoding, "replace").decode(encoding) == text:
        return []
    return [
        f"This output takes {encoding} alone, so that characters of a name are escapes here, which "
        f"no client knows; PYTHONIOENCODING=utf-8 arbstr connect prints them as they are."
    ]


def _about_token(config: "Config", variable: str | None, is_shown: bool) -> list[str]:
    if variable is None:
        return []
    note = f"{variable} is a variable that has [server] auth_token"
    return [note + (":" if is_shown else "; --show-token prints it, to be set where that runs.")]


def _show(variable: str | None, token: str) -> int:
    if NOT_SET in token:
        complain(f"the variable {variable} is not set here either")
        return 1
    print(f"\nexport {variable}={shlex.quote(token)}")
    return 0
