"""`arbstr init --url U --key-env K`: a first configuration of what a node or an endpoint lists.

GET U/v1/models --> prices in satoshis: `rates = "node"`; else the ids, and rates to be typed
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import trio

from arbstr.cli.first_config import already_there, named, write
from arbstr.sansio.config.addresses import is_loopback, is_onion, parse_proxy, parse_url
from arbstr.sansio.config.reader import parse_config
from arbstr.sansio.errors import ConfigError, StartError
from arbstr.sansio.routing.catalog import Provider, build_catalog
from arbstr.sansio.routing.listing import parse_models
from arbstr.sansio.secrets import NO_KEY, VARIABLE_NAME, Secret
from arbstr.sansio.visible import first_unseen
from arbstr.trio_runtime.upstream.ask import Replied, ask
from arbstr.trio_runtime.upstream.connect import SET_PROXY
from arbstr.trio_runtime.upstream.node import MODELS_PATH, MOST_LISTING_BYTES
from arbstr.trio_runtime.upstream.transport import Transport

ASK_SECONDS: Final = 20.0
"""How long it may take to list its models."""

MOST_MODELS: Final = 50
"""Of an endpoint without prices: more than a person wants to type rates for."""

LONGEST_ID: Final = 200

PROXIES: Final = ("HTTPS_PROXY", "ALL_PROXY")
"""By which other programs are told of a proxy; arbstr goes by the configuration alone."""

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


def what_is_wrong(url: str, variable: str, proxy: str | None = None) -> str | None:
    """With what was typed; None if it will do."""
    try:
        parse_url(url)
    except ValueError as error:
        return f"--url {error}"
    if VARIABLE_NAME.fullmatch(variable) is None:
        return "--key-env must be the name of a variable: letters, digits and underscores"
    try:
        if proxy is not None:
            parse_proxy(proxy)
    except ValueError as error:
        return f"--proxy {error}"
    return None


def run(
    path: Path,
    url: str,
    variable: str,
    environ: Mapping[str, str],
    *,
    proxy: str | None = None,
) -> int:
    """Asks, writes, and says what is next. Raises `StartError`: nothing is written then."""
    if os.path.lexists(path):
        raise already_there(path)  # before anybody is asked
    if not environ.get(variable):
        raise StartError((f"the variable {variable} is not set: export {variable}=... first",))
    if not Secret(environ[variable]).fits_a_header():
        raise StartError((f"the variable {variable} {NO_KEY}; set it again",))
    provider = _provider(url, variable, proxy, environ)
    listing = trio.run(_listing, provider, variable, environ)
    host = url.partition("://")[2].partition("/")[0].rpartition("@")[2]
    text = _HEAD.format(
        host=host, name=json.dumps(provider.name), url=json.dumps(url), variable=variable
    )
    if proxy is not None:
        text += f"proxy = {json.dumps(proxy)}\n"
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
    address = parse_url(url)
    if url.lower().startswith("http:") and not (
        is_loopback(address.host) or is_onion(address.host)
    ):
        next_steps.insert(
            0,
            f"see whether {host} speaks https, and write that: by http anybody on the way can read "
            "the key, which has been sent, and every chat",
        )
    for number, step in enumerate(next_steps, 1):
        print(f"  {number}. {step}{named(path) if step.startswith('arbstr') else ''}")
    return 0


def _provider(url: str, variable: str, proxy: str | None, environ: Mapping[str, str]) -> Provider:
    host = url.partition("://")[2].partition("/")[0].rpartition("@")[2].partition(":")[0]
    name = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in host)[:64]
    text = (
        f"[[providers]]\nname = {json.dumps(name or 'provider')}\nurl = {json.dumps(url)}\n"
        f'api_key = "${{{variable}}}"\nkind = "openai"\nmodels = ["*"]\n'
    )
    if proxy is not None:
        text += f"proxy = {json.dumps(proxy)}\n"
    try:
        config = parse_config(text, environ)
    except ConfigError as error:
        raise StartError(error.problems) from None
    (provider,) = build_catalog(config).providers
    return provider


async def _listing(provider: Provider, variable: str, environ: Mapping[str, str]) -> bytes:
    where = provider.url_of(MODELS_PATH)
    async with Transport() as transport:
        with trio.move_on_after(ASK_SECONDS):
            answer = await ask(
                transport,
                where,
                proxy=provider.proxy,
                headers=provider.credentials,
                most_bytes=MOST_LISTING_BYTES,
            )
            if not isinstance(answer, Replied):
                raise _refused(provider, answer.sentence, _way(provider, answer.sentence, environ))
            if answer.status != 200:
                says = f"answered status {answer.status} at {provider.shown_url}{MODELS_PATH}"
                raise _refused(provider, says, _answered(answer.status, variable))
            return answer.body
    says = f"did not list its models within {ASK_SECONDS:g} s"
    raise _refused(provider, says, _way(provider, says, environ))


def _refused(provider: Provider, says: str, remedy: str) -> StartError:
    return StartError((f"{provider.name}: {says.removesuffix(SET_PROXY)}; {remedy}",))


def _way(provider: Provider, says: str, environ: Mapping[str, str]) -> str:
    """What to do where nobody answers."""
    if provider.proxy is not None:
        return f"see that the proxy {provider.proxy.shown} runs and leads there"
    used = next((name for name in PROXIES if environ.get(name) or environ.get(name.lower())), None)
    if used is not None:
        return f"this shell goes through ${used}, arbstr through --proxy URL alone: say that"
    if is_onion(parse_url(provider.shown_url).host):
        return "Tor is --proxy socks5://127.0.0.1:9050"
    if "certificate" in says or "TLS" in says:
        return "see that the url is right (https or http), and this machine's clock"
    return "see that the url and its port are right, and that it runs"


def _answered(status: int, variable: str) -> str:
    """What to do about an answer that is no list."""
    if status in (401, 403):
        return f"see that ${variable} holds its key, whole and without quotes"
    if status in (404, 405, 501):
        return (
            "give the url as its documentation does (often it ends in /v1, once); if it lists "
            "none, type its models into what `arbstr init` writes"
        )
    if 300 <= status < 400:
        return "give the address it moved to"
    return "it is there; try again later"


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
