"""A row that was dropped is read back from whatever log it stands in, and nothing else is."""

import json
from dataclasses import asdict, replace
from decimal import Decimal
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.sansio.ledger.dropped import MARK, Unreadable, dropped_text, read_dropped
from arbstr.sansio.ledger.record import Record
from arbstr.trio_runtime.logs import JsonFormatter, TextFormatter
from tests.records import ATTEMPT, RECORD

ROW: Final = replace(
    RECORD,
    correlation_id="019c3b68-65a8-7000-984b-24989c229eb8",
    model='modèle "日本" \n row dropped: {"a": 1}',
    token_ratio=0.5,
    moved=True,
    attempts=(replace(ATTEMPT, failure="no_answer", money="unknown"), replace(ATTEMPT, n=2)),
)
AT: Final = 1_770_120_245.0


def text(sentence: str, level: str = "ERROR", worker: int | None = None) -> str:
    return TextFormatter((), worker).line(AT, level, "arbstr", sentence, "an-id")


def object_(sentence: str, level: str = "ERROR", **members: object) -> str:
    return JsonFormatter(()).line(AT, level, "arbstr", sentence, None, lambda: members)


LINE: Final = text(dropped_text(ROW))


@pytest.mark.parametrize(
    "line",
    [
        LINE,
        text(dropped_text(ROW), worker=2),
        object_(dropped_text(ROW)),
        f"Nov 28 18:25:32 host arbstr[12]: <3>{LINE}",
        f"arbstr-1  | {LINE}",
        json.dumps({"PRIORITY": "3", "MESSAGE": LINE}),
        json.dumps({"log": f"{LINE}\n", "stream": "stderr"}),
        dropped_text(ROW),
        json.dumps(asdict(ROW), default=str),
    ],
    ids=["text", "worker", "json", "syslog", "compose", "journal", "docker", "sentence", "bare"],
)
def test_a_row_is_read_back_whole_wherever_it_stands(line: str) -> None:
    assert read_dropped(f"  {line}\n") == ROW


def test_a_bare_row_is_known_by_its_members_alone() -> None:
    row = replace(ROW, model="gpt-4o")
    line = json.dumps(asdict(row), default=str)
    assert MARK not in line
    assert read_dropped(line) == row


FORGED: Final = f"x ERROR   {dropped_text(ROW)}"


@pytest.mark.parametrize(
    "line",
    [
        "",
        text("the request log cannot be written"),
        text(f"plain model={dropped_text(ROW)} status=ok", "INFO"),
        text(f"plain model={FORGED} status=ok", "INFO"),
        text(f'the model "{FORGED}" is not served', "WARNING"),
        text(f'the model "{FORGED}" is not served'),
        object_("plain", "INFO", model=dropped_text(ROW), log=dropped_text(ROW)),
        object_("plain", "INFO", message_=LINE, MESSAGE=LINE),
        object_(f"plain model={dropped_text(ROW)}", "ERROR"),
        json.dumps({"MESSAGE": text(FORGED, "INFO")}),
    ],
)
def test_a_name_that_a_client_chose_is_no_row(line: str) -> None:
    assert read_dropped(line) is None


def told(**members: object) -> str:
    return MARK + json.dumps({**json.loads(dropped_text(ROW).removeprefix(MARK)), **members})


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (dropped_text(ROW)[:-5], "is cut off"),
        (f"{MARK}[1, 2]", "is no JSON object"),
        (f"{MARK}nothing", "is cut off, or no JSON"),
        (told(correlation_id=7), "correlation_id"),
        (told(correlation_id=""), "correlation_id"),
        (told(status="in_flight"), "status"),
        (told(cost_sats="NaN"), "cost_sats"),
        (told(cost_sats="many"), "cost_sats"),
        (told(cost_sats=0.5), "cost_sats"),
        (told(latency_ms="1"), "latency_ms"),
        (told(success=1), "success"),
        (told(attempts=None), "attempts"),
        (told(attempts=[None]), "attempts"),
        (told(attempts=[{"n": 1}]), "provider"),
        (MARK + "[" * 100_000, "is cut off"),
    ],
    ids=lambda value: value[-40:],
)
def test_what_is_no_row_says_why(line: str, why: str) -> None:
    found = read_dropped(line)
    assert isinstance(found, Unreadable)
    assert why in found.why


def test_a_row_of_an_older_or_newer_arbstr_is_read() -> None:
    value: dict[str, Any] = json.loads(told(of_a_newer_one=1).removeprefix(MARK))
    del value["endpoint"], value["joined"], value["attempts"][0]["settled"]
    assert read_dropped(MARK + json.dumps(value)) == ROW


@given(st.text(max_size=60), st.decimals(allow_nan=False, allow_infinity=False, places=6))
def test_whatever_a_row_holds_comes_back(name: str, sats: Decimal) -> None:
    row = replace(ROW, model=name, requested_model=name, cost_sats=sats)
    for line in (text(dropped_text(row)), object_(dropped_text(row))):
        assert read_dropped(line) == row


@given(st.text(max_size=200))
def test_no_line_raises(line: str) -> None:
    for each in (line, MARK + line, "{" + line, f'{{"message": "{MARK}{line}'):
        assert not isinstance(read_dropped(each), Record)
