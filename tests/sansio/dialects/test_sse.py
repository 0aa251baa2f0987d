"""sse.py: every event, whatever the cutting, the line ends and the size."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.sansio.dialects import sse
from arbstr.sansio.dialects.sse import MAX_EVENT_BYTES, Event, SSEReader, cleaned
from tests.cuttings import byte_by_byte, cut_in_two, cuttings, in_steps
from tests.searching import examples

BOM = b"\xef\xbb\xbf"


def read(pieces: list[bytes]) -> list[Event]:
    reader = SSEReader()
    found = [event for piece in pieces for event in reader.feed(piece)]
    return found + list(reader.finish())


def said(events: list[Event]) -> list[tuple[bytes | None, bytes | None]]:
    return [(event.name, event.data) for event in events]


CASES = {
    "a data line": (b"data: a\n\n", [(None, b"a")]),
    "no space after the colon": (b"data:a\n\n", [(None, b"a")]),
    "only one space is dropped": (b"data:  a\n\n", [(None, b" a")]),
    "CRLF": (b"data: a\r\n\r\ndata: b\r\n\r\n", [(None, b"a"), (None, b"b")]),
    "CR": (b"data: a\r\rdata: b\r\r", [(None, b"a"), (None, b"b")]),
    "mixed line ends": (
        b"data: a\n\r\ndata: b\r\n\ndata: c\n\rdata: d\r\r\ndata: e\r\n\rdata: f\n\n",
        [(None, letter.encode()) for letter in "abcdef"],
    ),
    "a byte order mark": (BOM + b"data: a\n\n", [(None, b"a")]),
    "only one byte order mark": (BOM + BOM + b"data: a\n\n", [(None, None)]),
    "several data lines": (b"data: a\ndata:\ndata: b\n\n", [(None, b"a\n\nb")]),
    "a named event": (b"event: error\ndata: a\n\n", [(b"error", b"a")]),
    "the last name counts": (b"event: x\nevent: y\ndata: a\n\n", [(b"y", b"a")]),
    "a comment": (b": hello\n\n", [(None, None)]),
    "empty data": (b"data:\n\ndata\n\n", [(None, b""), (None, b"")]),
    "id and retry": (b"id: 1\nretry: 5\n\n", [(None, None)]),
    "field names are case-sensitive": (b"Data: a\n\n", [(None, None)]),
    "blank lines between": (b"\n\r\n\ndata: a\n\n\n\ndata: b\n\n", [(None, b"a"), (None, b"b")]),
    "a last event without its blank line": (b"data: a\n\ndata: b\n", [(None, b"a"), (None, b"b")]),
    "a last event without its line end": (b"data: a\n\ndata: b", [(None, b"a"), (None, b"b")]),
    "a last event that lacks half a CRLF": (b"data: a\r\n\r", [(None, b"a")]),
    "other separators are text": (
        "data: a\u2028b\x0bc\x0cd\u0085e\x1cf\n\n".encode(),
        [(None, "a\u2028b\x0bc\x0cd\u0085e\x1cf".encode())],
    ),
    "bytes that are not UTF-8": (b"data: \xff\xfe\n\n", [(None, b"\xff\xfe")]),
    "nothing": (b"", []),
    "only line ends": (b"\r\n\n\r\r\n", []),
    "half a byte order mark": (BOM[:2], []),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_events_are_read(case: tuple[bytes, list[tuple[bytes | None, bytes | None]]]) -> None:
    data, expected = case
    assert said(read([data])) == expected


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_cutting_never_matters(case: tuple[bytes, object]) -> None:
    data, _ = case
    whole = read([data])
    assert read(byte_by_byte(data)) == whole
    for pieces in cut_in_two(data):
        assert read(pieces) == whole, pieces


LINES = st.sampled_from([b"data: {}", b"data:a", b"data", b"id: 1", b":c", b"event: e", b"x", b""])
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])


@examples(100)
@given(st.data())
def test_no_cutting_of_lines_with_any_ends_matters(data: st.DataObject) -> None:
    lines = data.draw(st.lists(st.tuples(LINES, ENDS), max_size=12))
    stream = b"".join(itertools.chain.from_iterable(lines))
    whole = read([stream])
    assert read(byte_by_byte(stream)) == whole
    assert read(data.draw(cuttings(stream))) == whole


@examples(100)
@given(st.lists(st.binary(max_size=20)))
def test_no_bytes_raise_and_no_cutting_of_them_matters(pieces: list[bytes]) -> None:
    assert read(pieces) == read([b"".join(pieces)])


def test_raw_bytes_are_the_streams_own() -> None:
    stream = b"data: a\n\nid: 1\r\ndata: b\r\n\r\n: c\r\rdata:d\n\r\n"
    assert b"".join(event.raw for event in read([stream])) == stream


def test_whole_events_are_cut_off_by_identity() -> None:
    reader = SSEReader()
    chunk = b"data: a\n\ndata: b\n\n"
    assert reader.cut(b"data: first\n\n") == b"data: first\n\n"
    assert reader.cut(chunk) is chunk


def test_a_cr_stream_does_not_wait_for_the_next_event() -> None:
    reader = SSEReader()
    assert said(list(reader.feed(b"data: a\r\r"))) == [(None, b"a")]
    assert said(list(reader.feed(b"\ndata: b\r\r"))) == [(None, b"b")]


def test_a_cleaned_event_has_data_and_event_lines_only() -> None:
    (event,) = read([b": c\r\nid: 1\r\nevent: e\r\ndata: a\r\nretry: 2\r\nx: y\r\ndata\r\n\r\n"])
    assert not event.clean
    assert cleaned(event) == b"event: e\r\ndata: a\r\ndata\r\n\r\n"


def test_a_line_left_out_between_a_cr_and_a_lf_leaves_the_blank_line() -> None:
    (event,) = read([b"data: a\r: c\n\ndata: b\n\n"])[:1]
    assert said(read([cleaned(event) + b"data: b\n\n"])) == [(None, b"a"), (None, b"b")]


def test_a_clean_event_is_not_copied() -> None:
    (event,) = read([b"event: e\ndata: a\n\n"])
    assert cleaned(event) is event.raw


@pytest.mark.parametrize("body", [b'{"a":1}', b" \r\n\t[1]", BOM + b"<html>", BOM + b"\n{}"])
def test_json_and_html_are_no_stream(body: bytes) -> None:
    for pieces in [[body], byte_by_byte(body)]:
        reader = SSEReader()
        assert [event for piece in pieces for event in reader.feed(piece)] == []
        assert reader.not_sse
        assert reader.finish() == ()
    reader = SSEReader()
    whole = reader.cut(body) + reader.cut(b" more\n\n")
    assert whole == body.removeprefix(BOM).lstrip() + b" more\n\n"


def event_of(size: int) -> bytes:
    return b"data: " + b"x" * (size - 8) + b"\n\n"


@pytest.mark.parametrize("step", [1 << 16, 1 << 30])
def test_the_largest_event_passes(step: int) -> None:
    stream = event_of(MAX_EVENT_BYTES) + b"data: b\n\n"
    reader = SSEReader()
    events = [event for piece in in_steps(stream, step) for event in reader.feed(piece)]
    assert [len(event.raw) for event in events] == [MAX_EVENT_BYTES, 9]
    assert not reader.overflow


@pytest.mark.parametrize("step", [1 << 16, 1 << 30])
@pytest.mark.parametrize("tail", [b"", b"data: b\n\n"], ids=["at the end", "in the middle"])
def test_a_larger_event_is_an_overflow_and_ends_the_reading(step: int, tail: bytes) -> None:
    stream = b"data: a\n\n" + event_of(MAX_EVENT_BYTES + 1) + tail
    reader = SSEReader()
    events = [event for piece in in_steps(stream, step) for event in reader.feed(piece)]
    assert said(events) == [(None, b"a")]
    assert reader.overflow
    assert reader.feed(b"\n\ndata: c\n\n") == ()
    assert reader.finish() == ()


def test_an_endless_line_is_not_kept() -> None:
    reader = SSEReader()
    for _ in range(300):
        reader.feed(b"x" * (1 << 16))
        assert reader.held <= MAX_EVENT_BYTES
    assert reader.overflow
    assert reader.held == 0


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
def test_the_work_is_linear_in_the_size_of_an_event(
    line_end: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Work is counted as the bytes that are searched for an end."""
    searched = 0
    search = sse._last_end

    def counted(buffer: bytes | bytearray, start: int) -> int:
        nonlocal searched
        searched += len(buffer) - start
        return search(buffer, start)

    monkeypatch.setattr(sse, "_last_end", counted)
    stream = (b"data: " + b"x" * 1_000_000 + line_end) * 2 + line_end
    pieces = in_steps(stream, 1000)
    assert len(read(pieces)) == 1
    assert searched <= len(stream) + 3 * len(pieces)
