"""`arbstr init --url U --key-env K`: a first configuration of what a node or an endpoint lists.

GET U/v1/models --> prices in satoshis: `rates = "node"`; else the ids, and rates to be typed
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import trio

from arbstr.cli.first_config import write
from arbstr.sansio.config.addresses import parse_url
from arbstr.sansio.config.reader import parse_config
from arbstr.sansio.errors import ConfigError, StartError
from arbstr.sansio.routing.catalog import Provider, build_catalog
from arbstr.sansio.routing.listing import parse_models
from arbstr.sansio.secrets import VARIABLE_NAME
from arbstr.sansio.visible import first_unseen
from arbstr.trio_runtime.upstream.ask import Replied, ask
from arbstr.trio_runtime.upstream.node import MODELS_PATH, MOST_LISTING_BYTES
from arbstr.trio_runtime.upstream.transport import Transport

ASK_SECONDS: Final = 20.0
"""How long it may take to list its models."""

MOST_MODELS: Final = 50
"""Of an endpoint without prices: more than a person wants to type rates for."""

LONGEST_ID: Final = 200

_HEAD: Final = """\
# arbstr configuration, of what {host} lists. `arbstr help configuration` says what else there is.

[[providers]]
name = {name}
url = {url}
api_key = "${{{variable}}}"
"""

_NODE: Final = """\
kind = "routstr"
rates = "node"                         # {count} models, at the prices it lists
"""

_ENDPOINT: Final = """\
models = [{models}]
# It names no prices in satoshis. Type them per 1000 tokens; without rates it is asked last, and
# under a cap or budget not at all.
# input_rate = 10
# output_rate = 30
"""


def what_is_wrong(url: str, variable: str) -> str | None:
    """With what was typed; None if it will do."""
    try:
        parse_url(url)
    except ValueError as error:
        return f"--url {error}"
    if VARIABLE_NAME.fullmatch(variable) is None:
        return "--key-env must be the name of a variable: letters, digits and underscores"
    return None


def run(path: Path, url: str, variable: str, environ: Mapping[str, str]) -> int:
    """Asks, writes, and says what is next. Raises `StartError`: nothing is written then."""
    if not environ.get(variable):
        raise StartError((f"the variable {variable} is not set: export {variable}=... first",))
    provider = _provider(url, variable, environ)
    listing = trio.run(_listing, provider)
    host = url.partition("://")[2].partition("/")[0].rpartition("@")[2]
    text = _HEAD.format(
        host=host, name=json.dumps(provider.name), url=json.dumps(url), variable=variable
    )
    priced = parse_models(listing)
    if isinstance(priced, str) or not priced:
        ids = _ids(listing, url)
        text += _ENDPOINT.format(models=", ".join(json.dumps(each) for each in ids[:MOST_MODELS]))
        next_steps = ["type its rates", "arbstr check", "arbstr run"]
        if len(ids) > MOST_MODELS:
            next_steps.insert(0, f"choose among its {len(ids)} models: {MOST_MODELS} are written")
    else:
        text += _NODE.format(count=len(priced))
        next_steps = ["arbstr check --network", "arbstr run"]
    parse_config(text, environ)  # what is written is right
    write(path, text)
    print(f"{path} is written; only you can read it. The key stays in {variable}. Now")
    for number, step in enumerate(next_steps, 1):
        named = f" -c {path}" if step.startswith("arbstr") and path.name != str(path) else ""
        print(f"  {number}. {step}{named}")
    return 0


def _provider(url: str, variable: str, environ: Mapping[str, str]) -> Provider:
    host = url.partition("://")[2].partition("/")[0].rpartition("@")[2].partition(":")[0]
    name = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in host)[:64]
    text = (
        f"[[providers]]\nname = {json.dumps(name or 'provider')}\nurl = {json.dumps(url)}\n"
        f'api_key = "${{{variable}}}"\nkind = "openai"\nmodels = ["*"]\n'
    )
    try:
        config = parse_config(text, environ)
    except ConfigError as error:
        raise StartError(error.problems) from None
    (provider,) = build_catalog(config).providers
    return provider


async def _listing(provider: Provider) -> bytes:
    where = provider.url_of(MODELS_PATH)
    async with Transport() as transport:
        with trio.move_on_after(ASK_SECONDS):
            answer = await ask(
                transport, where, headers=provider.credentials, most_bytes=MOST_LISTING_BYTES
            )
            if not isinstance(answer, Replied):
                raise StartError((f"{provider.name}: {answer.sentence}",))
            if answer.status != 200:
                raise StartError(
                    (f"{provider.name}: answered status {answer.status} at {MODELS_PATH}",)
                )
            return answer.body
    raise StartError((f"{provider.name}: did not list its models within {ASK_SECONDS:g} s",))


def _ids(listing: bytes, url: str) -> list[str]:
    try:
        value = json.loads(listing)
    except (ValueError, RecursionError):
        value = None
    data = value.get("data") if isinstance(value, dict) else None
    every = (
        (item.get("id") for item in data or () if isinstance(item, dict))
        if isinstance(data, list)
        else ()
    )
    ids = [
        each
        for each in every
        if isinstance(each, str) and 0 < len(each) <= LONGEST_ID and first_unseen(each) is None
    ]
    if not ids:
        raise StartError((f"{url}: lists no models; type them into what `arbstr init` writes",))
    return list(dict.fromkeys(ids))
