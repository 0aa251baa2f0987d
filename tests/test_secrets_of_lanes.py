"""Lane keys, their parent's key and ecash that comes back stand in their files and nowhere else.

The node tells them in every place of every answer, chats and questions beside them; then all that
comes out of arbstr is looked through, whoever asks: routes, commands, the log, the ledger.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from arbstr.cli import commands as cli
from arbstr.cli.cells import plain
from arbstr.cli.routes import Routes
from arbstr.cli.watch.command import after
from arbstr.cli.watch.lines import told
from arbstr.cli.watch.model import Model
from arbstr.cli.watch.reader import Reader, Wanted
from arbstr.cli.watch.screen import screen
from arbstr.cli.watch.view import View
from arbstr.sansio.config.reader import parse_config
from arbstr.trio_runtime.logs import JsonFormatter, TextFormatter
from arbstr.trio_runtime.upstream.transport import Transport
from tests.fakes import Behaviour, Request, answer, json_answer, open_fake_provider, raw
from tests.node import Node
from tests.proxy import Proxy, config, open_proxy, provider
from tests.test_lanes import wait_free
from tests.test_lanes_killed import quick
from tests.test_prices import KEY

REFUND: Final = "cashuBCANARYrefundoftheanswer"
CHANGE: Final = "cashuACANARYchangeintheheader"

TOP: Final = (
    "[timeouts]\nfirst_output = 5\nanswer = 5\nidle = 5\n[breaker]\nfailures = 1000\n"
    "[retry]\nrepeat_guard = 0\nmax_retries = 0\nreconcile_seconds = 0\n"
    '[logging]\nlevel = "debug"\n'
)

ROUTES: Final = ("/health", "/providers", "/v1/models", "/v1/stats", "/v1/requests?per_page=100")

COMMANDS: Final[Sequence[Sequence[str]]] = (
    ("doctor", "--json"),
    ("doctor",),
    ("check", "--network"),
    ("providers",),
    ("status", "--json"),
    ("stats", "--json"),
    ("requests", "--json"),
    ("reconcile", "--json"),
)


@pytest.fixture(autouse=True)
def _nothing_comes_late(monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)
    monkeypatch.setattr("arbstr.trio_runtime.lanes.AGAIN_SECONDS", 0.01)


class Telling:
    """A node that tells each key it knows. `how`: what becomes of the next chats; None: all is
    well. `questions`: what is asked beside chats is refused, with all keys."""

    def __init__(self) -> None:
        self.node = Node()
        self.how: str | None = None
        self.questions = False

    def serve(self, request: Request) -> Behaviour:
        if request.path.endswith("/chat/completions"):
            if self.how is not None:
                told: Behaviour = HOW[self.how](self._all(request))
                return told
        elif self.questions:
            return json_answer(_error(self._all(request)), 500, _headers(self._all(request)))
        return self.node.serve(request)

    def _all(self, request: Request) -> str:
        own = (request.header("authorization") or "").removeprefix("Bearer ")
        return " | ".join([own, *self.keys])

    @property
    def keys(self) -> list[str]:
        account = self.node.bank.accounts.get(KEY)
        return [KEY, *([] if account is None else account.children)]


def _error(text: str) -> dict[str, object]:
    more = {"param": text, "detail": {"said": text}, "refund_token": REFUND}
    return {"error": {"message": text, "type": text, "code": text, **more}}


def _headers(text: str) -> list[tuple[str, str]]:
    names = ("x-request-id", "retry-after", "x-routstr-request-id", "openai-organization")
    return [("x-cashu", CHANGE), *((name, text) for name in names)]


HOW: Final[Mapping[str, Any]] = {
    "refused": lambda text: json_answer(_error(text), 400, _headers(text)),
    "failed": lambda text: json_answer(_error(text), 500, _headers(text)),
    "no model": lambda text: json_answer(_error(text), 404, _headers(text)),
    "error in a 200": lambda text: json_answer(_error(text), 200, _headers(text)),
    "a text": lambda text: answer(422, text.encode(), content_type="text/plain"),
    "a page": lambda text: answer(200, text.encode(), content_type="text/html"),
    "moved": lambda text: answer(302, headers=[("location", text)]),
    "garbage": lambda text: raw(f"HTTP/1.1 {text}\r\n\r\n".encode()),
    "no word": lambda text: raw(b""),
    # The last, because then the provider rests.
    "empty": lambda text: json_answer(_error(text), 402, _headers(text)),
}


async def test_no_key_of_a_node_comes_out_anywhere(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level("DEBUG")
    front, database, said = Telling(), tmp_path / "arbstr.db", dict[str, str]()
    change = tmp_path / "arbstr.db.change"
    async with open_fake_provider(front.serve) as fake:
        table = provider("node", fake.url, kind="routstr", key=KEY, models="*", more="lanes = 2")
        async with open_proxy(
            config(table, more=TOP), database=database, change=change, books=True
        ) as proxy:
            await wait_free(proxy, 2)
            for how in (None, *HOW):
                front.how, front.questions = how, how == "empty"
                for stream in (False, True):
                    with trio.fail_after(20):
                        reply = await proxy.chat(stream=stream, max_tokens=50)
                        said[f"{how}, {stream}"] = f"{reply.headers} {reply.body!r}"
                        if how != "empty":
                            await wait_free(proxy, 1)
            await until_asked(fake.requests, "/balance/create")
            for path in ROUTES:
                reply = await proxy.get(path)
                assert reply.status in (200, 503), path
                said[path] = f"{reply.headers} {reply.body!r}"
            watched = parse_config(_written(tmp_path, table, proxy), {})
            said["watch"] = await _watch(proxy, watched)
            backup = tmp_path / "copy.db"
            for questions in (True, False):
                front.questions = questions
                for command in (*COMMANDS, ("backup", str(backup), "--force")):
                    at = ["-c", str(tmp_path / "config.toml")]
                    await trio.to_thread.run_sync(cli.main, [*command, *at])
                    printed = capsys.readouterr()
                    assert printed.out + printed.err, command
                    said[f"{command}, {questions}"] = printed.out + printed.err
            lanes = proxy.hub.lanes
            assert lanes is not None
            held = (lanes._ways, vars(lanes), vars(lanes.teller), vars(lanes._keys))
            said["what is held"] = repr(held) + repr(proxy.hub.snapshot)
    for formatter in (TextFormatter(()), JsonFormatter(())):
        said[f"the log, {formatter}"] = "\n".join(map(formatter.format, caplog.records))
    assert "Traceback" not in said[f"the log, {formatter}"]
    kept = {tmp_path / "arbstr.db.lanes", change}
    said |= {file.name: _read(file) for file in ledgers(tmp_path) - kept}
    assert {"arbstr.db", "copy.db"} <= said.keys()
    secrets = [*(key.removeprefix("sk-") for key in front.keys), REFUND, CHANGE]
    assert len(secrets) >= 5
    assert {where: found for where, text in said.items() if (found := _in(text, secrets))} == {}
    # All of that says something only because they came, and are where they belong.
    assert "[REDACTED]" in said["refused, False"]
    assert KEY not in (tmp_path / "arbstr.db.lanes").read_text()
    assert all(key in (tmp_path / "arbstr.db.lanes").read_text() for key in front.keys[1:])
    assert {REFUND, CHANGE} <= set(change.read_text().split())
    assert {file.stat().st_mode & 0o777 for file in (*kept, database, backup)} == {0o600}


def ledgers(directory: Path) -> set[Path]:
    """The files of the ledger and of its copy."""
    return {each for each in directory.glob("*.db*") if each.is_file()}


def _read(file: Path) -> str:
    return file.read_bytes().decode("latin-1")


def _in(text: str, secrets: Sequence[str]) -> list[str]:
    return [secret for secret in secrets if secret in text]


async def until_asked(requests: Sequence[Request], path: str) -> None:
    with trio.fail_after(20):
        while not any(each.path.endswith(path) for each in requests):  # noqa: ASYNC110
            await trio.sleep(0.005)


def _written(directory: Path, table: str, proxy: Proxy) -> str:
    """The configuration of the commands, which ask this arbstr."""
    more = f'[server]\nlisten = "127.0.0.1:{proxy.port}"\n'
    text = config(table, more=f'{TOP}{more}[database]\npath = "{directory / "arbstr.db"}"\n')
    (directory / "config.toml").write_text(text)
    (directory / "config.toml").chmod(0o600)
    return text


async def _watch(proxy: Proxy, its: Any) -> str:
    """What it knows and shows: the screen, each request, and the lines."""
    async with Transport() as transport:
        routes = Routes(transport, its)
        empty = Model(routes.where, 0)
        seen = await Reader(routes).look(Wanted(50), 0)
        model = after(empty, seen, 1)
        assert model.trouble is None
        shown = [repr(seen), *told(empty, model, frozenset())]
        for row in (None, *model.rows):
            detail = None if row is None else row.id
            model = after(model, await Reader(routes).look(Wanted(50, detail=detail), 0), 1)
            shown.append(plain(screen(model, View(detail=detail), 200, 80)))
    return "\n".join(shown)
