"""What is printed where there is no screen."""

from dataclasses import replace

from arbstr.cli.watch.lines import told
from arbstr.cli.watch.model import Model
from tests.cli.watch.seen import NOW, WHERE, busy

NOBODY = Model(WHERE, NOW)


def test_the_first_look_tells_how_things_stand_and_who_is_in_trouble() -> None:
    old = {row.id for row in busy().rows}
    assert list(told(NOBODY, busy(), old)) == [
        "12:04:05 arbstr 127.0.0.1:8080 degraded: 2 in flight, 12.56 of 100 sats today for "
        "412 requests, 1 of unknown cost",
        "12:04:05 provider node-b: open, tried in 12 s: did not answer within 60 s",
        "12:04:05 provider node-c: rests 9 min: balance",
        "12:04:05 provider delta.with-a-long-name: open for gpt-4o-mini, o3",
    ]


def test_each_request_is_told_once_when_it_has_ended_the_oldest_first() -> None:
    model = busy()
    lines = list(told(model, model, {row.id for row in model.rows[10:]}))
    assert lines[0] == (
        "12:03:46 ok 01a222c1-d41e-77bd-92f9-3d1382390009 evil\\x1b[2J\\u202emodel\\n alpha "
        "1,204/380 tokens 0.5213 sats 2.1 s"
    )
    assert [line.split()[1] for line in lines] == [
        *("ok", "ok", "stream_incomplete", "client_disconnected"),
        *("rejected", "failed", "ok", "ok"),  # and none of those in flight
    ]
    assert lines[5].endswith("2.1 s: 400 It may have been paid for, and nobody knows.")
    assert all(line.isprintable() for line in lines)
    assert list(told(model, model, {row.id for row in model.rows})) == []


def test_what_turned_is_told_once() -> None:
    before = busy()
    printed = {row.id for row in before.rows}
    well = replace(before.providers[1], state="ok", until=None, why=None)
    after = replace(before, providers=(before.providers[0], well, *before.providers[2:]))
    assert list(told(before, after, printed)) == ["12:04:05 provider node-b: ok"]
    gone = before.missed("could not be reached: \x1b[31mno", NOW)
    assert list(told(before, gone, printed)) == [
        "12:04:05 arbstr 127.0.0.1:8080 could not be reached: \\x1b[31mno"
    ]
    assert list(told(gone, gone, printed)) == []
    (back,) = told(gone, before, printed)
    assert back.startswith("12:04:05 arbstr 127.0.0.1:8080 degraded: ")


def test_an_arbstr_that_is_away_is_told_of_once_a_minute_and_when_it_is_away_otherwise() -> None:
    said = []
    model = NOBODY
    for second in range(130):
        refused = "wants another token" if second >= 125 else "could not be reached"
        before, model = model, model.missed(refused, NOW + 1000 * second)
        said += list(told(before, model, ()))
    assert said == [
        "12:04:05 arbstr 127.0.0.1:8080 could not be reached",
        "12:05:05 arbstr 127.0.0.1:8080 could not be reached, for 1 min now",
        "12:06:05 arbstr 127.0.0.1:8080 could not be reached, for 2 min now",
        "12:06:10 arbstr 127.0.0.1:8080 wants another token",
    ]


def test_rows_that_cannot_be_written_are_told_of_once() -> None:
    before = busy()
    printed = {row.id for row in before.rows}
    full = replace(before, waiting="3 rows wait to be written, for 2 s (disk full\n)")
    assert list(told(before, full, printed)) == [
        "12:04:05 arbstr 127.0.0.1:8080 3 rows wait to be written, for 2 s (disk full\\n)"
    ]
    assert list(told(full, full, printed)) == []
