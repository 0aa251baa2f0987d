"""The screen of `arbstr watch`: what is known and what was chosen -> lines that fit.

    arbstr ok  127.0.0.1:8080  up 3 h 12 min                       12:04:05 UTC
    today 12.31 of 100 sats  [##------------------] 12 %  0.5 set aside  3.2 a minute
    412 requests  2 in flight  3 failed  2 rejected  1 unknown  2 settled since the start

    provider        state                    sats/1k in, out  since yesterday   balance
    ...
    time      model      provider   tokens   sats   took  status
    ...
    q leave  enter details  f failures  u unknown  p provider  m model  a all  ? keys

Pure: nothing here asks, waits or knows a terminal, so that screens can be kept as texts and
compared. It is right for 80 columns and 24 lines; with more it shows more, with less it leaves out
what matters less and cuts the rest. Times are UTC, as everywhere in the ledger.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final, final

from arbstr.cli.cells import BOLD, CHOSEN, Line, Span, fit, fit_line
from arbstr.cli.figures import (
    BAD,
    DIM,
    DOUBTFUL,
    GOOD,
    SHOWN_ID,
    STYLES,
    counted,
    duration,
    grouped,
    in_brief,
    sats,
)
from arbstr.cli.watch.detail import detail_lines
from arbstr.cli.watch.model import Day, Model, Provider, Row
from arbstr.cli.watch.view import View, shown_rows
from arbstr.sansio.frozen import dataclass
from arbstr.sansio.moments import DAY_MS, format_moment

BAR_WIDTH: Final = 20

RESTART_TOLD_MS: Final = 60_000
"""How long it is told that arbstr was started again."""

WIDE: Final = 100
"""Columns from which on there is room for ids."""

KEYS: Final = (
    ("q", "leave"),
    ("enter", "all about the chosen request; enter or escape: back"),
    ("up, down", "choose a request (also k and j, page up, page down, home, end)"),
    ("f", "only requests that were not answered, or all again"),
    ("u", "only those of unknown cost, among the last hundred"),
    ("p", "only those of the chosen request's provider"),
    ("m", "only those of its model; then the prices above are of that model"),
    ("a", "everything again"),
    ("?", "these keys"),
)
"""What a key does, in the help."""

MAIN_KEYS: Final = "q leave  enter details  f failures  u unknown  p provider  m model  ? keys"
"""The last line."""


def screen(model: Model, view: View, width: int, height: int) -> tuple[Line, ...]:
    """At most `height` lines of at most `width` cells each."""
    top = list(_top(model))
    if view.help:
        body = [*top, (), *(_key_line(key, does) for key, does in KEYS)]
        return _whole(body, (("? or escape: back", DIM),), width, height)
    if view.detail is not None:
        lines = detail_lines(model, view.detail, width)
        room = max(height - len(top) - 2, 1)
        skipped = min(view.skipped, max(len(lines) - room, 0))
        body = [*top, (), *lines[skipped : skipped + room]]
        return _whole(body, (("enter or escape: back   arrows: more", DIM),), width, height)
    tables = [*_providers(model, view, width, height)]
    rows = list(_requests(model, view, width, height - len(top) - len(tables) - 3))
    return _whole([*top, *tables, *rows], _footer(view), width, height)


def request_room(model: Model, height: int) -> int:
    """How many requests such a screen shows."""
    return max(height - len(list(_top(model))) - _provider_room(model, height) - 3, 1)


def _whole(lines: Sequence[Line], last: Line, width: int, height: int) -> tuple[Line, ...]:
    """The lines that fit above the last one, which stands at the bottom."""
    kept = list(lines[: max(height - 1, 0)])
    kept += [()] * (height - 1 - len(kept))
    return tuple(fit_line(line, width) for line in [*kept, last][:height])


# -- the top ---------------------------------------------------------------------------------------


def _top(model: Model) -> Iterator[Line]:
    time = (f"{clock(model.now)} UTC", DIM)
    if model.trouble is not None:
        since = "" if model.since is None else f"nothing since {clock(model.since)}: "
        yield (time, ("  ", ""), (f"{since}{model.where} {model.trouble}", BAD))
    else:
        style = {"ok": GOOD, "degraded": DOUBTFUL}.get(model.status, BAD)
        where = f"  {model.where}{_up(model)}"
        yield (time, ("  arbstr ", ""), (model.status, style), (where, ""))
    if model.ledger is not None and model.trouble is None:
        yield (("its ledger cannot be asked: ", BAD), (f"it {model.ledger}", BAD))
    if model.waiting is not None and model.trouble is None:
        yield ((model.waiting, BAD),)
    if model.day is None:
        return
    yield _money(model, model.day)
    yield _counts(model, model.day)


def _up(model: Model) -> str:
    if model.restarted is not None and model.now - model.restarted < RESTART_TOLD_MS:
        return f"  started again at {clock(model.restarted)}"
    return "" if model.started is None else f"  up {_long(model.now - model.started)}"


def _money(model: Model, day: Day) -> Line:
    minute = (f"  {sats(model.minute)} a minute", "" if model.minute else DIM)
    if day.limit is None:
        return (("today ", DIM), (f"{sats(day.spent)} sats", BOLD), minute)
    part = day.spent / day.limit if day.limit else 1.0
    style = BAD if part >= 1 else DOUBTFUL if part >= 0.8 else GOOD
    full = max(0, min(BAR_WIDTH, int(part * BAR_WIDTH)))
    aside = f"  {sats(day.set_aside)} set aside" if day.set_aside else ""
    return (
        ("today ", DIM),
        (sats(day.spent), BOLD),
        (f" of {sats(day.limit)} sats  [", ""),
        ("#" * full, style),
        ("-" * (BAR_WIDTH - full), DIM),
        (f"] {int(part * 100)} %{aside}", ""),
        minute,
    )


def _counts(model: Model, day: Day) -> Line:
    spans: list[Span] = [(counted(day.requests, "request"), "")]
    for count, what, style in (
        (day.in_flight, "in flight", BOLD),
        (day.failed, "failed", BAD),
        (day.rejected, "rejected", DOUBTFUL),
        (day.unknown, "unknown", DOUBTFUL),
        (day.settled, "settled since the start", GOOD),
        (0 if model.waiting else model.queued, "rows wait to be written", DIM),
    ):
        if count:
            spans += [("  ", ""), (f"{count:,} {what}", style)]
    return tuple(spans)


# -- tables ----------------------------------------------------------------------------------------


@final
@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    width: int
    right: bool = False


def _head(columns: Sequence[_Column], indent: str = "") -> Line:
    return ((indent + _cells(columns, [column.name for column in columns]), DIM),)


def _cells(columns: Sequence[_Column], texts: Sequence[str]) -> str:
    return " ".join(
        fit(text, column.width, right=column.right)
        for column, text in zip(columns, texts, strict=True)
    )


def _provider_room(model: Model, height: int) -> int:
    """Lines of the table with its head and the line above; a third of the screen at most."""
    return min(len(model.providers), max(height // 3 - 2, 1)) + 2 if model.providers else 0


def _providers(model: Model, view: View, width: int, height: int) -> Iterator[Line]:
    room = _provider_room(model, height) - 2
    if room <= 0:
        return
    # Who is in trouble is never below the edge.
    ranked = sorted(model.providers, key=lambda each: each.state == "ok")
    hidden = len(ranked) - room
    name = 14 + max(0, min(width - 80, 20)) // 2
    prices, changed, balance = 20, 9, 10
    state = max(width - name - prices - changed - balance - 5, 12)
    columns = (
        _Column("  provider", name + 1),
        _Column(f"state ({hidden} more hidden)" if hidden > 0 else "state", state),
        _Column("sats/1k in, out", prices, right=True),
        _Column("in a day", changed, right=True),
        _Column("balance", balance, right=True),
    )
    yield ()
    yield _head(columns)
    for provider in ranked[:room]:
        texts = (
            f"  {provider.name}",
            state_of(provider, model.now),
            _price(provider, view.model),
            _changed(provider, view.model),
            "" if provider.balance is None else sats(provider.balance),
        )
        whole, begin = _cells(columns, texts), columns[0].width + 1
        yield (
            (whole[:begin], ""),
            (whole[begin : begin + state], _STATES.get(provider.state, BAD)),
            (whole[begin + state :], ""),
        )


_STATES: Final = {"ok": GOOD, "half open": DOUBTFUL, "rests": DOUBTFUL, "sick": DOUBTFUL}


ENDLESS_MS: Final = 10 * 365 * DAY_MS
"""What rests longer than that does so until a reload (`status.NEVER`)."""


def state_of(provider: Provider, now: int) -> str:
    """How one stands, in words."""
    wait = "" if provider.until is None else f" {_long(provider.until - now)}"
    if provider.until is not None and provider.until - now > ENDLESS_MS:
        wait = " until a reload"
    why = "" if provider.why is None else f": {provider.why}"
    match provider.state:
        case "open":
            return f"open, tried in{wait}{why}" if wait else f"open{why}"
        case "sick":
            return f"open for{why.removeprefix(':')}"
        case "prices":
            return f"no prices: it {provider.why}"
        case other:
            return other + wait + why


def _price(provider: Provider, model: str | None) -> str:
    """Of one model, or from the cheapest to the dearest."""
    if model is None:
        rates = list(provider.rates.values())
    else:
        rates = [provider.rates[model]] if model in provider.rates else []
    if not rates:
        return "no price" if model is None else "-"
    return ", ".join(_range([rate[at] for rate in rates]) for at in (0, 1))


def _range(amounts: Sequence[float]) -> str:
    low, high = sats(min(amounts)), sats(max(amounts))
    return low if low == high else f"{low}-{high}"


def _changed(provider: Provider, model: str | None) -> str:
    """By how much outputs are dearer than a day ago: of the model that moved most."""
    parts = [part for name, part in provider.changed.items() if model in (None, name)]
    most = max(parts, key=abs, default=None)
    return "" if most is None else f"{most * 100:+.0f} %" if most else "same"


def _requests(model: Model, view: View, width: int, room: int) -> Iterator[Line]:
    yield ()
    columns = _request_columns(width)
    yield _head([column for column, _ in columns], "  ")
    rows = shown_rows(model, view)
    if not rows:
        nothing = "no such request" if view.is_filtered else "no request yet"
        yield ((f"  {nothing}", DIM),)
        return
    at = next((at for at, row in enumerate(rows) if row.id == view.chosen), 0)
    first = max(0, min(at - room // 2, len(rows) - room))
    for row in rows[first : first + max(room, 0)]:
        text = _cells([column for column, _ in columns], [of(row, model) for _, of in columns])
        style = CHOSEN if row.id == view.chosen else DOUBTFUL if row.unknown else STYLES[row.status]
        mark = "> " if row.id == view.chosen else "  "
        # An answer is what is to be expected: only what is not stands out.
        yield ((mark + text, "" if style == GOOD else style),)


def _request_columns(width: int) -> list[tuple[_Column, Callable[[Row, Model], str]]]:
    more = max(width - 80, 0)
    wide = width >= WIDE
    if wide:
        more -= SHOWN_ID + 1
    name, provider = 18 + more // 6, 10 + more // 8
    fixed = 2 + 8 + 1 + name + 1 + provider + 1 + 12 + 1 + 8 + 1 + 7 + 1
    fixed += SHOWN_ID + 1 if wide else 0
    columns: list[tuple[_Column, Callable[[Row, Model], str]]] = [
        (_Column("time", 8), lambda row, _: clock(row.at)),
        (_Column("model", name), lambda row, _: row.model),
        (_Column("provider", provider), lambda row, _: row.provider or "-"),
        (_Column("tokens", 12, right=True), lambda row, _: tokens_of(row)),
        (_Column("sats", 8, right=True), lambda row, _: cost_of(row)),
        (_Column("took", 7, right=True), _took),
        (_Column("status", max(width - fixed, 9)), lambda row, _: _status(row)),
    ]
    if wide:
        columns.insert(1, (_Column("id", SHOWN_ID), lambda row, _: row.id[-SHOWN_ID:]))
    return columns


def tokens_of(row: Row) -> str:
    """In and out; `-` is unknown."""
    if row.tokens_in is None and row.tokens_out is None:
        return "-"
    return f"{grouped(row.tokens_in) or '-'}/{grouped(row.tokens_out) or '-'}"


def cost_of(row: Row) -> str:
    """In sats; `-` is nothing to pay, which is not the same as unknown."""
    if row.sats is None:
        return "unknown" if row.unknown else "-"
    return sats(row.sats)


def _took(row: Row, model: Model) -> str:
    if row.status == "in_flight":
        return duration(max(model.now - row.at, 0))
    return duration(row.took) or "-"


def _status(row: Row) -> str:
    word = in_brief(row.status)
    if row.joined is not None:
        return f"{word}, joined"
    if row.error is not None:
        return f"{word}: {row.error}"
    return f"{word}, try {row.attempts}" if row.attempts > 1 else word


# -- the bottom ------------------------------------------------------------------------------------


def _key_line(key: str, does: str) -> Line:
    return ((f"  {key:<10}", BOLD), (does, ""))


def _footer(view: View) -> Line:
    if not view.is_filtered:
        return ((MAIN_KEYS, DIM),)
    what = [
        *(["failures"] if view.failures else []),
        *(["of unknown cost"] if view.unknown else []),
        *([f"of {view.provider}"] if view.provider is not None else []),
        *([f"of {view.model}"] if view.model is not None else []),
    ]
    return ((f"only {', '.join(what)}", BOLD), ("   a everything  ? keys", DIM))


# -- pieces ----------------------------------------------------------------------------------------


def clock(moment: int) -> str:
    """The time of day, UTC."""
    return format_moment(moment)[11:19]


def _long(ms: int) -> str:
    """A time in two units at most."""
    seconds = max(ms, 0) // 1000
    if seconds < 120:
        return f"{seconds} s"
    minutes = seconds // 60
    if minutes < 120:
        return f"{minutes} min"
    hours = minutes // 60
    return f"{hours} h" if hours < 48 else f"{hours // 24} d"
