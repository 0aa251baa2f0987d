"""Canary keys in every place a key can stand, and a search of everything that comes out.

Each canary has `CANARY` in it behind its first six characters, which may be shown. The provider
echoes all it was sent, in every place of an answer that arbstr reads or could pass on.
"""

import base64
import json
import pprint
import traceback
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx
import trio

from arbstr.sansio.config.reader import parse_config
from arbstr.sansio.routing.catalog import build_catalog
from arbstr.trio_runtime.snapshot import Snapshot
from tests.fakes import (
    Behaviour,
    Request,
    answer,
    chunk,
    completion,
    hello,
    json_answer,
    open_fake_provider,
    raw,
    sse,
    stream,
)
from tests.process import ArbstrProcess, arbstr_process, chat_body, run_arbstr

CANARY: Final = "CANARY"
TOKEN: Final = "token-CANARY-1"
LITERAL: Final = "sk-lit-CANARY-2-in-the-file"
FROM_ENVIRONMENT: Final = "sk-env-CANARY-3-in-a-variable"
BY_NAME: Final = "sk-nam-CANARY-4-under-its-name"
CASHU: Final = "cashuBCANARY5money"
CHANGE: Final = "cashuACANARY6change"
ENVIRON: Final = {
    "SOME_KEY": FROM_ENVIRONMENT,
    "PASSWORD": "CANARY-7-password",
    "ARBSTR_BY_NAME_API_KEY": BY_NAME,
    "ARBSTR_OF_CASHU_API_KEY": CASHU,
}

PROVIDERS: Final = {
    "literal": (f'api_key = "{LITERAL}"', ""),
    "from-environment": ('api_key = "${SOME_KEY}"', ""),
    "by-name": ("", ""),
    "of-cashu": ("", ""),
    "in-the-url": ("", "someone:${PASSWORD}@"),
    "in-the-query": ("", "?api-version=1&key=CANARY-8-query%2Bescaped"),
}
"""Name -> its key in the file, and what its URL has in front of the host or behind the path."""


def config_of(url: str) -> str:
    tables = []
    for name, (key, in_url) in PROVIDERS.items():
        whole = url.replace("://", f"://{in_url}") if "@" in in_url else url + in_url
        models = json.dumps([f"{name}:{echo}" for echo in ECHOES])
        tables.append(
            f'[[providers]]\nname = "{name}"\nurl = "{whole}"\nmodels = {models}\n{key}\n'
        )
    retry = '[retry]\nmax_retries = 0\n[breaker]\nfailures = 1000\n[logging]\nlevel = "debug"\n'
    return f'[server]\nauth_token = "{TOKEN}"\n{retry}{"".join(tables)}'


# -- a provider that tells everything ------------------------------------------------------------


def everything(request: Request) -> str:
    """All of a request that could hold a key, as one line, and what is decoded of it."""
    words = [request.target, *(f"{name}: {value}" for name, value in request.headers)]
    authorization = request.header("authorization") or ""
    if authorization.startswith("Basic "):
        words.append(base64.b64decode(authorization.removeprefix("Basic ")).decode())
    words += [word.removeprefix("Bearer ").removeprefix("Basic ") for word in [authorization]]
    return " | ".join([*words, CHANGE])


def told(request: Request) -> list[tuple[str, str]]:
    """Headers of an answer, some of which arbstr passes on or keeps."""
    names = ("openai-organization", "x-ratelimit-reason", "x-routstr-note", "retry-after")
    kept = ("x-request-id", "content-language", "set-cookie", "www-authenticate")
    key = (request.header("authorization") or request.target).split()[-1]
    return [
        *((name, everything(request)) for name in names),
        *((name, key) for name in kept),
        ("x-cashu", CHANGE),
    ]


def error_of(request: Request) -> dict[str, object]:
    text = everything(request)
    more = {"param": text, "detail": {"said": text}, "refund_token": CHANGE}
    return {"error": {"message": text, "type": text, "code": text, **more}}


def failing(status: int) -> Any:
    return lambda request: json_answer(error_of(request), status, told(request))


def streamed(request: Request) -> Behaviour:
    """The error comes after output."""
    events = [sse(chunk("Hello")), sse(error_of(request))]
    return stream(events, headers=told(request)) if request.wants_stream else failing(200)(request)


def told_in_a_good_answer(request: Request) -> Behaviour:
    if request.wants_stream:
        return stream(hello(), headers=told(request))
    return json_answer(completion("Hello CANARY said"), headers=told(request))


ECHOES: Final[dict[str, Any]] = {
    "good": told_in_a_good_answer,
    "client-error": failing(400),
    "no-model": failing(404),
    "server-error": failing(500),
    "error-answer": failing(200),
    "late-error": streamed,
    "text": lambda request: answer(422, everything(request).encode(), content_type="text/plain"),
    "page": lambda request: answer(200, everything(request).encode(), content_type="text/html"),
    "moved": lambda request: answer(302, headers=[("location", everything(request))]),
    "compressed": lambda request: answer(
        200, b"?", [("content-encoding", everything(request)[:200])]
    ),
    "garbage": lambda request: raw(b"HTTP/1.1 " + everything(request).encode() + b"\r\n\r\n"),
    "garbage-header": lambda request: raw(
        b"HTTP/1.1 200 OK\r\n" + everything(request).encode() + b"\x00\r\n\r\n"
    ),
    "rate-limited": failing(429),
    "account": failing(401),  # last, because then the provider rests
}


def tell(request: Request) -> Behaviour:
    if request.method == "GET":
        return answer(200, everything(request).encode())  # where prices are asked for
    behaviour: Behaviour = ECHOES[request.json["model"].partition(":")[2]](request)
    return behaviour


# -- everything that comes out -------------------------------------------------------------------


ROUTES: Final = (
    ("GET", "/"),
    ("GET", "/health"),
    ("GET", "/livez"),
    ("GET", "/providers"),
    ("GET", "/v1/providers"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/literal:good"),
    ("GET", "/v1/models/nobody's"),
    ("GET", "/v1/chat/completions"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/embeddings"),
    ("DELETE", "/v1/models"),
    ("GET", "/v1/stats?group_by=provider"),
    ("GET", "/v1/requests?per_page=100"),
    ("GET", "/v1/requests?status=failed"),
    ("GET", "/v1/requests/nobody's"),
    ("POST", "/v1/cost"),
)
COMMANDS: Final = (
    ("stats",),
    ("stats", "--json"),
    ("requests",),
    ("requests", "--json"),
)
SENT: Final = {"cookie": "session=CANARY", "x-api-key": "CANARY", "x-arbstr-note": "CANARY"}
BEARER: Final = {**SENT, "authorization": f"Bearer {TOKEN}"}


def of_reply(reply: httpx.Response) -> str:
    return "\n".join([*(f"{name}: {value}" for name, value in reply.headers.items()), reply.text])


def ask_everything(process: ArbstrProcess) -> Iterator[tuple[str, str]]:
    """What was asked, and all of what came back."""
    for provider in PROVIDERS:
        for echo in ECHOES:
            for streaming in (False, True):
                model = f"{provider}:{echo}"
                reply = process.chat(model, headers=BEARER, said="CANARY asked", stream=streaming)
                text = of_reply(reply).replace("Hello CANARY said", "")  # it was asked for
                yield f"{model}, stream {streaming}, {reply.status_code}", text
    for method, path in ROUTES:
        yield f"{method} {path}", of_reply(process.ask(method, path, headers=BEARER))
        wrong = {"authorization": "Bearer wrong-CANARY"}
        yield f"{method} {path} refused", of_reply(process.ask(method, path, headers=wrong))


def ask_reports(process: ArbstrProcess) -> Iterator[tuple[str, str]]:
    """What the ledger's routes and commands, and the estimate, say of all of that."""
    rows = process.rows()
    count, seen = len(rows), {row["status"]: row["correlation_id"] for row in rows}
    assert {"ok", "failed", "stream_incomplete"} <= seen.keys()
    for status, request_id in seen.items():
        path = f"/v1/requests/{request_id}"
        reply = process.ask("GET", path, headers=BEARER)
        assert (reply.status_code, reply.json()["correlation_id"]) == (200, request_id)
        yield f"GET {path}, {status}", of_reply(reply)
        yield f"requests, {status}", printed(process.directory, "requests", request_id)
    stats = process.ask("GET", "/v1/stats?group_by=provider", headers=BEARER)
    assert [name for name in PROVIDERS if f'"{name}"' not in stats.text] == []
    yield "stats by provider", of_reply(stats)
    for page in (1, 2):
        path = f"/v1/requests?per_page=100&page={page}"
        reply = process.ask("GET", path, headers=BEARER)
        assert reply.text.count('"correlation_id"') == (100 if page == 1 else count - 100)
        yield path, of_reply(reply)
    for provider in PROVIDERS:
        body = json.dumps(chat_body(f"{provider}:good", "CANARY asked")).encode()
        reply = process.ask("POST", "/v1/cost", headers=BEARER, content=body)
        assert reply.status_code == 200
        yield f"POST /v1/cost, {provider}", of_reply(reply)
    for command in COMMANDS:
        yield " ".join(command), printed(process.directory, *command)


def printed(directory: Path, *command: str) -> str:
    done = run_arbstr(*command, environ=ENVIRON, directory=directory)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) > 100
    return done.stdout + done.stderr


async def test_no_key_comes_out_anywhere(tmp_path: Path) -> None:
    async with open_fake_provider(tell) as fake:
        with arbstr_process(
            config_text=config_of(fake.url), environ=ENVIRON, directory=tmp_path
        ) as process:
            replies = await trio.to_thread.run_sync(lambda: list(ask_everything(process)))
            await trio.to_thread.run_sync(process.wait_rows, len(PROVIDERS) * len(ECHOES) * 2)
            replies += await trio.to_thread.run_sync(lambda: list(ask_reports(process)))
            ledger = read_ledger(tmp_path)
            process.stop()
    assert {asked: text for asked, text in replies if CANARY in text} == {}
    assert [line for line in process.stderr().splitlines() if CANARY in line] == []
    assert "arbstr.db-wal" in ledger
    ledger |= read_ledger(tmp_path)
    assert [name for name, data in ledger.items() if CANARY.encode() in data] == []
    # All of that says something only because the keys were sent, each to its own provider, and
    # came back.
    asked = [one for one in fake.requests if one.method == "POST"]
    assert {model_of(one).partition(":")[0]: keys_in(one) for one in asked} == {
        "literal": f"Bearer {LITERAL}",
        "from-environment": f"Bearer {FROM_ENVIRONMENT}",
        "by-name": f"Bearer {BY_NAME}",
        "of-cashu": f"Bearer {CASHU}",
        "in-the-url": f"Basic {base64.b64encode(b'someone:CANARY-7-password').decode()}",
        "in-the-query": "/v1/chat/completions?api-version=1&key=CANARY-8-query%2Bescaped",
    }
    assert all("cookie" not in dict(one.headers) for one in fake.requests)
    assert not any("x-api-key" in everything(one) for one in fake.requests)
    redacted = [asked for asked, text in replies if "[REDACTED]" in text]
    assert len(redacted) > len(PROVIDERS) * 4


def read_ledger(directory: Path) -> dict[str, bytes]:
    """The database's files, but for that of the change, which is money and belongs there."""
    return {
        path.name: path.read_bytes()
        for path in directory.glob("arbstr.db*")
        if path.suffix != ".change"
    }


def model_of(request: Request) -> str:
    model: str = request.json["model"]
    return model


def keys_in(request: Request) -> str:
    return request.header("authorization") or request.target


async def test_ecash_that_comes_back_is_in_one_file_for_its_owner_alone(tmp_path: Path) -> None:
    async with open_fake_provider(tell) as fake:
        with arbstr_process(
            config_text=config_of(fake.url), environ=ENVIRON, directory=tmp_path
        ) as process:
            for echo in ("good", "client-error"):
                reply = await trio.to_thread.run_sync(
                    partial(process.chat, f"of-cashu:{echo}", headers=BEARER)
                )
                assert CHANGE not in of_reply(reply)
                kept = (tmp_path / "arbstr.db.change").read_text()  # before the answer was used
                assert kept.splitlines()[-1].endswith(f" of-cashu {CHANGE}")
    assert (tmp_path / "arbstr.db.change").stat().st_mode & 0o777 == 0o600
    assert CHANGE not in process.stderr()


def test_no_key_is_in_any_text_of_the_configuration_or_what_is_made_of_it() -> None:
    config = parse_config(config_of("http://127.0.0.1:9/v1"), ENVIRON)
    catalog, snapshot = build_catalog(config), Snapshot.of(config)
    for value in (config, catalog, snapshot, config.providers, config.server.auth_token):
        assert CANARY not in f"{value!r} {value!s} {value}"
        assert CANARY not in pprint.pformat(value)
    try:
        raise RuntimeError
    except RuntimeError as error:
        told = traceback.TracebackException.from_exception(error, capture_locals=True)
    assert CANARY not in "".join(told.format())
    assert len(config.providers) == len(PROVIDERS)
