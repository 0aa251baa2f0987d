"""Both engines keep the same ledger and answer the same, byte for byte."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from arbstr.sansio.errors import ErrorReply
from arbstr.sansio.ledger.reconcile import Account
from arbstr.sansio.ledger.record import Record
from arbstr.sansio.ledger.reports import Filters, Group, RequestsQuery, Sort, StatsQuery
from arbstr.sansio.moments import DAY_MS, UTC, Span, format_moment, parse_moment
from arbstr.sansio.money import Rates
from arbstr.sansio.routing.listing import Listed
from arbstr.sansio.routing.prices import NodePrices, Price
from arbstr.trio_runtime.ledger.budget import read_spent
from arbstr.trio_runtime.ledger.charges import Charges, read_balances, read_charges
from arbstr.trio_runtime.ledger.checkpoints import (
    Before,
    NotNow,
    Reading,
    Taken,
    before_asking,
    take,
    unknown_attempts,
)
from arbstr.trio_runtime.ledger.database import open_database
from arbstr.trio_runtime.ledger.log_writer import open_log_writer
from arbstr.trio_runtime.ledger.port import Database, Session
from arbstr.trio_runtime.ledger.prices import Listing, keep_prices, read_before, read_listings
from arbstr.trio_runtime.ledger.ratios import read_ratios
from arbstr.trio_runtime.ledger.reports import (
    complete_id,
    read_report,
    read_request,
    read_requests,
)
from arbstr.trio_runtime.ledger.retention import Retention
from arbstr.trio_runtime.ledger.statements import numbered
from tests.engines import place
from tests.ledgers import (
    TIMESTAMP,
    attempt,
    insert,
    insert_attempts,
    memory_ledger,
    request,
)
from tests.postgres import PostgresServer
from tests.records import ATTEMPT, RECORD, RUNNING
from tests.trio_runtime.ledger.test_reports import NOBODY, WHOLE, Dice, moment, write
from tests.zones import zone_of

__all__ = ["place"]

psycopg = pytest.importorskip("psycopg", reason="pip install -e '.[dev]' brings it")

SQL: Final = Path(__file__).parents[3] / "sql"

TABLES: Final = (
    *("requests", "attempts", "token_ratios", "request_hours", "request_days"),
    *("request_totals", "node_prices", "node_listings", "checkpoints", "budget_leases"),
)


@pytest.fixture(scope="module")
def other(postgres: PostgresServer) -> Iterator[Any]:
    """A migrated ledger in PostgreSQL, a session of it, in one transaction."""
    import trio

    from arbstr.sansio.config.ledger_url import parse_ledger_url
    from arbstr.trio_runtime.ledger.postgres_readers import connect

    url = postgres.url("questions")

    async def migrate() -> None:
        async with open_database(url):
            pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", "/nonexistent")
        trio.run(migrate)
    session = connect(parse_ledger_url(url))
    with closing(session.connection):
        yield session


def test_both_have_the_same_migrations_by_number() -> None:
    """PostgreSQL's begin with the number at which its engine came, whole."""
    of_sqlite, of_postgres = sorted(numbered(SQL)), sorted(numbered(SQL / "postgres"))
    assert of_postgres == of_sqlite[of_postgres[0] - 1 :]


def test_what_postgres_has_of_its_own_replaces_a_question(other: Any) -> None:
    shared = {path.name for path in SQL.glob("*.sql")}
    own = {path.name for path in (SQL / "postgres").glob("[a-z]*.sql")}
    assert own < shared
    assert "INDEXED" in (SQL / "latency_walked.sql").read_text("utf-8")
    assert "INDEXED" not in other.question("latency_walked")
    assert other.question("stats") == (SQL / "stats.sql").read_text("utf-8")


def test_both_have_the_same_shape(other: Any) -> None:
    kinds = {"INTEGER": "bigint", "BIGINT": "bigint", "TEXT": "text", "REAL": "double precision"}
    with memory_ledger() as session:
        for table in TABLES:
            columns = {
                (name, kinds[kind], bool(needed))
                for _, name, kind, needed, *_ in session.execute(f"PRAGMA table_info({table})")
            }
            found = other.execute(
                "SELECT column_name, data_type, is_nullable = 'NO' FROM information_schema.columns"
                " WHERE table_schema = 'arbstr' AND table_name = ?",
                (table,),
            )
            # SQLite's primary key needs no NOT NULL to be one.
            there = {(name, kind, needed and name != "id") for name, kind, needed in found}
            assert there == columns, table


ZONES = (UTC, zone_of(330, name="half past"), zone_of(60, 120, at="2026-02-04T01:00"))
"""That of the ledger, one whose hours do not begin with its, one that puts its clocks forward."""


def asked(session: Session, dice: Dice) -> list[str]:
    """What a ledger answers to questions thrown by the dice, as the bytes a client gets."""
    found: list[object] = []
    for group in (None, *Group):
        query = StatsQuery(dice.filters(), group)
        found.append(read_report(session, query, NOBODY))
    for zone in ZONES:
        for group in Group:
            then = None if group is Group.MODEL else Group.MODEL
            filters = replace(dice.filters(), zone=zone)
            found.append(read_report(session, StatsQuery(filters, group, then, WHOLE), NOBODY))
    pages = [
        RequestsQuery(
            dice.filters(),
            success=dice.one_of(None, None, True, False),
            streaming=dice.one_of(None, None, True, False),
            status=dice.one_of(None, None, "ok", "failed", "in_flight"),
            unknown_cost=dice.one_of(None, None, True, False),
            page=dice.one_of(1, 2),
            per_page=dice.one_of(1, 10),
            sort=dice.one_of(*Sort),
            descending=dice.one_of(True, False),
        )
        for _ in range(6)
    ]
    found += [read_requests(session, query, NOBODY) for query in pages]
    found.append(read_request(session, "id-3"))
    found += [complete_id(session, part) for part in ("id-1", "-1", "2", "nothing")]
    noon = moment("2026-02-03T12:00") / 1000
    found += [str(read_spent(session, noon, but_by=boot)) for boot in ("", "boot")]
    return [json.dumps(each, default=vars) for each in found]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [0, 10**9], ids=["by sorting", "by walking"])
def test_every_question_has_the_same_answer(
    other: Any, seed: int, share: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arbstr.trio_runtime.ledger.walks.WALK_SHARE", share)
    with memory_ledger() as session, ExitStack() as stack:
        other.connection.execute("BEGIN")
        stack.callback(other.connection.execute, "ROLLBACK")
        other.connection.execute("SELECT setval('requests_id_seq', 1, false)")
        ledger = Dice(seed).ledger(60)
        write(session, ledger)
        write(other, ledger)
        assert asked(other, Dice(seed)) == asked(session, Dice(seed))
        for table, keys in (("request_hours", 7), ("request_days", 7), ("request_totals", 3)):
            rows = [
                sorted(
                    (tuple(row[:keys]), [int(value) for value in row[keys:]])
                    for row in each.execute(f"SELECT * FROM {table}")
                )
                for each in (session, other)
            ]
            assert rows[0] == rows[1]
        for each in (session, other):
            assert each.execute(ASTRAY).fetchone() == (0,)
            ((kept, scanned),) = each.execute(KEPT_AND_SCANNED)
            assert kept == scanned


@pytest.mark.parametrize("costs", [[0.1, 0.2, 0.3, 1e6, 1e-9, 123.456789012], [1e8] * 200])
def test_a_sum_is_the_same_and_exact_in_whatever_order_it_was_added_up(
    other: Any, costs: list[float]
) -> None:
    """Doubles are not added up so: (0.1 + 0.2) + 0.3 is another than 0.1 + (0.2 + 0.3). And no sum
    of what providers may state is too large for an engine."""
    whole = sum(round(Decimal(repr(cost)), 9) for cost in costs)
    for ordered in (costs, costs[::-1]):
        ledger = [
            request(
                str(n),
                cost_sats=cost,
                attempts=2,
                tries=[
                    attempt(failure="died", money="spent", cost_sats=cost, provider_cost_sats=cost),
                    attempt(cost_sats=cost),
                ],
            )
            for n, cost in enumerate(ordered)
        ]
        with memory_ledger() as session, ExitStack() as stack:
            other.connection.execute("BEGIN")
            stack.callback(other.connection.execute, "ROLLBACK")
            for each in (session, other):
                insert(each, ledger)
                for group in (None, Group.HOUR, Group.DAY):
                    found = read_report(each, StatsQuery(Filters(WHOLE), group), NOBODY)
                    assert not isinstance(found, ErrorReply)
                    for shown in (found, *found.get("groups", ())):
                        assert shown["costs"]["total_cost_sats"] == float(whole)
                        assert shown["costs"]["possibly_spent_sats"] == float(whole)
                (charged,) = read_charges(each, Filters(WHOLE))
                assert charged.as_json()["stated_sats"] == float(whole)


ASTRAY: Final = """SELECT count(*) FROM attempts JOIN requests USING (correlation_id)
    WHERE failure IS NOT NULL AND NOT (
        coalesce(asked_at, '') = timestamp
        AND coalesce(asked_policy, '') = coalesce(policy, '')
        AND coalesce(asked_endpoint, '') = endpoint
    )"""
"""Attempts that failed and say something else of their request than it does."""

KEPT_AND_SCANNED: Final = """SELECT
    (SELECT coalesce(sum(requests * length(hour || status) + latency_ms), 0) FROM request_totals),
    (SELECT coalesce(sum(requests * length(hour || status) + latency_ms), 0) FROM request_measures
     WHERE status <> 'in_flight')"""


def test_an_attempt_that_failed_counts_when_its_request_asked_whichever_is_written_first(
    other: Any,
) -> None:
    lost = attempt(failure="no_answer", money="unknown", provider="beta")
    one = request("one", policy="code", endpoint="responses", status="failed", tries=[lost])
    with memory_ledger() as session, ExitStack() as stack:
        other.connection.execute("BEGIN")
        stack.callback(other.connection.execute, "ROLLBACK")
        for each in (session, other):
            insert_attempts(each, one)
            assert each.execute("SELECT asked_at FROM attempts").fetchall() == [(None,)]
            insert(each, [{**one, "tries": ()}])
            assert each.execute(ASTRAY).fetchone() == (0,)
            each.execute("UPDATE requests SET timestamp = ?", ("2026-02-03T05:00:00.000Z",))
            assert each.execute(
                "SELECT asked_at, asked_policy, asked_endpoint FROM attempts"
            ).fetchall() == [("2026-02-03T05:00:00.000Z", "code", "responses")]
            each.execute("UPDATE attempts SET failure = NULL")
            each.execute("UPDATE attempts SET failure = 'shutdown'")
            query = StatsQuery(Filters(WHOLE, policy="code"), Group.HOUR)
            found = read_report(each, query, NOBODY)
            assert not isinstance(found, ErrorReply)
            (hour,) = found["groups"]
            assert (hour["hour"], hour["counts"]["failed_attempts"]) == (
                "2026-02-03T05:00:00.000Z",
                1,
            )


async def rows(database: Database, sql: str) -> list[Any]:
    return await database.read(lambda session: session.execute(sql).fetchall())


def ended(correlation_id: str, **more: Any) -> Record:
    return replace(RECORD, correlation_id=correlation_id, **{"token_ratio": 2.0, **more})


async def test_a_row_is_finalised_once_and_teaches_once(place: str) -> None:
    running = ended("one", status="in_flight", success=False, attempts=(RUNNING,), token_ratio=None)
    async with open_database(place) as database:
        for batch in (
            [running, ended("two")],
            [ended("one"), ended("two", status="failed"), ended("three")],
            [ended("one", status="failed")],
        ):
            async with open_log_writer(database) as log:
                for record in batch:
                    log.offer(record)
        assert await rows(
            database, "SELECT correlation_id, status, attempts FROM requests ORDER BY 1"
        ) == [("one", "ok", 1), ("three", "ok", 1), ("two", "ok", 1)]
        assert await rows(database, "SELECT sum(requests) FROM request_days") == [(3,)]
        (learnt,) = (await read_ratios(database)).values()
        assert learnt.samples == 3


async def test_a_row_that_cannot_be_is_left_out_alone(place: str) -> None:
    async with open_database(place) as database, open_log_writer(database) as log:
        for record in (ended("a"), ended("bad", input_tokens=10**30), ended("b", model="m\0n")):
            log.offer(record)
    async with open_database(place) as database:
        found = dict(await rows(database, "SELECT correlation_id, model FROM requests"))
        assert found["a"] == "gpt-4o"
        assert found["b"] in ("m\0n", "m\N{REPLACEMENT CHARACTER}n")
        assert "bad" not in found
    assert log.statistics().dropped == 1


async def test_old_rows_leave_in_batches_and_their_sums_with_them(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arbstr.trio_runtime.ledger.retention.BATCH_ROWS", 2)
    now = parse_moment(TIMESTAMP)
    assert now is not None
    async with open_database(place) as database:
        async with open_log_writer(database) as log:
            for n in range(5):
                log.offer(ended(f"old-{n}", attempts=(ATTEMPT,)))
            log.offer(ended("young", timestamp="2026-03-03T04:05:06.789Z"))
        assert await Retention(database, 30).sweep(now + DAY_MS, pause=0) == 5
        assert await rows(database, "SELECT correlation_id FROM attempts") == [("young",)]
        assert await rows(database, "SELECT sum(requests) FROM request_hours") == [(1,)]


async def test_prices_of_nodes_are_kept_and_found_as_they_were(place: str) -> None:
    day = 86_400.0

    def price(number: int, model: str, rate: int, since: float) -> Price:
        rates = Rates(Decimal(rate), Decimal(3 * rate))
        return Price(number, Listed(model, (), rates), since)

    async with open_database(place) as database:
        for turn, rate in enumerate((10, 20, 20)):
            prices = (price(turn + 1, "m", rate, turn * day), price(9, "n", 5, 0.0))
            listing = Listing(
                "node",
                "https://h",
                None,
                NodePrices({p.listed.model: p for p in prices}, turn * day),
            )
            await database.transaction(partial(keep_prices, listing, prices, ()))
        (last,) = await database.read(read_listings)
        assert (last.provider, last.prices.fetched) == ("node", 2 * day)
        for at, expected in ((0.0, 10), (day, 20), (2.5 * day, 20)):
            before = await database.read(partial(read_before, "node", at))
            assert {model: rates.input_rate for model, rates in before.items()} == {
                "m": expected,
                "n": 5,
            }
        assert await database.read(partial(read_before, "node", -1.0)) == {}


async def test_a_checkpoint_prices_what_was_open(place: str) -> None:
    lost = replace(
        ATTEMPT, failure="no_answer", money="unknown", cost_sats=None, provider_cost_sats=None
    )
    async with open_database(place) as database:
        before = await database.read(partial(before_asking, "alpha", "key"))
        first = await database.transaction(partial(take, reading(1000, before, 1)))
        assert isinstance(first, Taken)
        async with open_log_writer(database) as log:
            log.offer(ended("lost", status="failed", success=False, attempts=(lost,)))
        (unknown,) = await database.read(unknown_attempts)
        assert (unknown.provider, unknown.attempts) == ("alpha", 1)
        before = await database.read(partial(before_asking, "alpha", "key"))
        taken = await database.transaction(partial(take, reading(1250, before, 2)))
        assert isinstance(taken, Taken)
        assert taken.charged == Decimal("0.25")
        assert await database.read(unknown_attempts) == ()
        assert await rows(database, "SELECT cost_sats, money FROM attempts") == [(0.25, "spent")]


async def test_what_nodes_stated_and_charged_is_read_side_by_side(place: str) -> None:
    when = parse_moment(TIMESTAMP)
    assert when is not None

    def stated(sats: str | None, expected: str | None, model: str = "gpt-4o", n: int = 1) -> Any:
        return replace(
            ATTEMPT,
            n=n,
            provider="alpha",
            model=model,
            started_at=TIMESTAMP,
            provider_cost_sats=None if sats is None else Decimal(sats),
            expected_sats=None if expected is None else Decimal(expected),
        )

    def look(since: int = 0, **more: Any) -> Filters:
        return Filters(Span(when + since, when + 9 * DAY_MS), **more)

    async with open_database(place) as database:
        before = await database.read(partial(before_asking, "alpha", "key"))
        await database.transaction(partial(take, reading(1000, before, 0)))
        async with open_log_writer(database) as log:
            log.offer(ended("a", attempts=(stated("0.5", "0.25"), stated("0.1", None, "other", 2))))
            log.offer(ended("b", attempts=(stated(None, "7"),), provider_cost_sats=None))
        read = partial(read_charges, filters=look())
        assert await database.read(read) == (Charges("alpha", 2, 0.6, 0.25),)
        before = await database.read(partial(before_asking, "alpha", "key"))
        for spent, day in ((1700, 1), (1800, 2)):
            await database.transaction(partial(take, reading(spent, before, day)))
            before = await database.read(partial(before_asking, "alpha", "key"))
        (found,) = await database.read(read)
        assert found.as_json() == {
            "provider": "alpha",
            "attempts": 2,
            "expected_sats": 0.25,
            "stated_sats": 0.6,
            "charged_sats": 0.8,
            "known_sats": 0.7,
            "compared_until": format_moment(when + 2 * DAY_MS),
        }
        assert await database.read(read_balances) == {
            "alpha": (9000, format_moment(when + 2 * DAY_MS))
        }
        for filters, attempts in (
            (look(model="other"), [1]),
            (look(provider="beta"), []),
            (look(endpoint="chat"), []),
            (look(1), [0]),
        ):
            charges = await database.read(partial(read_charges, filters=filters))
            assert [each.attempts for each in charges] == attempts


def reading(spent: int, before: Before, day: int) -> Reading:
    when = parse_moment(TIMESTAMP)
    assert when is not None
    account = Account(balance=9000, reserved=0, total_spent=spent, total_requests=1)
    return Reading("alpha", "key", account, before, when + day * DAY_MS)


async def test_checkpoints_are_in_the_order_they_were_taken_whatever_the_clock_says(
    place: str,
) -> None:
    async with open_database(place) as database:
        for day, spent, verdict in ((2, 1000, "first"), (2, 1000, "equal"), (1, 1250, "foreign")):
            before = await database.read(partial(before_asking, "alpha", "key"))
            taken = await database.transaction(partial(take, reading(spent, before, day)))
            assert isinstance(taken, Taken)
            assert taken.settlement.verdict == verdict
        before = await database.read(partial(before_asking, "alpha", "key"))
        taken = await database.transaction(partial(take, reading(1250, before, 2)))
        assert isinstance(taken, Taken)
        assert taken.settlement.verdict == "equal", "compared with that of the day before"


async def test_what_a_node_said_before_another_checkpoint_is_not_compared_with_it(
    place: str,
) -> None:
    async with open_database(place) as database:
        before = await database.read(partial(before_asking, "alpha", "key"))
        await database.transaction(partial(take, reading(1250, before, 1)))
        late = await database.transaction(partial(take, reading(1000, before, 1)))
        assert late == NotNow("was compared by another arbstr meanwhile")
        assert await rows(database, "SELECT total_spent FROM checkpoints") == [(1250,)]


async def test_where_old_rows_are_gone_checkpoints_go_on_from_the_first_new_one(
    place: str,
) -> None:
    now = parse_moment(TIMESTAMP)
    assert now is not None
    stated = replace(ATTEMPT, provider="alpha", provider_cost_sats=Decimal("0.5"))
    async with open_database(place) as database:
        async with open_log_writer(database) as log:
            for n in range(3):
                log.offer(ended(f"old-{n}", attempts=(stated,)))
        for _ in range(2):
            before = await database.read(partial(before_asking, "alpha", "key"))
            await database.transaction(partial(take, reading(1500, before, -9)))
        assert await Retention(database, 30).sweep(now + DAY_MS, pause=0) == 3
        assert len(await rows(database, "SELECT id FROM checkpoints")) == 1
        async with open_log_writer(database) as log:
            log.offer(ended("new", attempts=(stated,)))
        before = await database.read(partial(before_asking, "alpha", "key"))
        taken = await database.transaction(partial(take, reading(2000, before, 2)))
        assert isinstance(taken, Taken)
        assert (taken.settlement.verdict, taken.stated) == ("equal", Decimal("0.5"))
