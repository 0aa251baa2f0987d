"""relay_states.py: one state follows another, drawn as a table and walked with real bytes."""

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import pytest

from arbstr.sansio.dialects.chat.reading import ChatReading
from arbstr.sansio.dialects.relay import Relay
from arbstr.sansio.dialects.relay_states import FINISHED, TRANSITIONS, Happened, State
from arbstr.sansio.errors import ErrorReply, LocalProtocolError


def chunk(content: str, reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": reason}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


ROLE, WORD, STOP, DONE = chunk(""), chunk("a"), chunk("", "stop"), b"data: [DONE]\n\n"
ERROR: Final = b'data: {"error":{"message":"boom"}}\n\n'
GARBLED: Final = b'data: {"choices":[{"delta":{"content":"\n\n'
MOST: Final = 5000
LARGE: Final = b"data: " + b"x" * 2 * MOST

CAUSES: Final[Mapping[str, Callable[[Relay], object]]] = MappingProxyType(
    {
        "word": lambda relay: relay.feed(WORD),
        "stop": lambda relay: relay.feed(STOP),
        "[DONE]": lambda relay: relay.feed(DONE),
        "error": lambda relay: relay.feed(ERROR),
        "large": lambda relay: relay.feed(LARGE),
        "broke": Relay.broke,
        "finish": lambda relay: relay.finish(b"{}"),
        "interrupt": lambda relay: relay.interrupt(ErrorReply("stream_interrupted", "It broke.")),
    }
)

TABLE: Final = """
             word      stop      [DONE]    error     large     broke     finish    interrupt
  HOLDING    FLOWING   COMPLETE  ENDED     SILENT    SILENT    HOLDING   -         CUT
  FLOWING    FLOWING   COMPLETE  ENDED     SILENT    SILENT    FLOWING   -         CUT
  COMPLETE   REOPENED  COMPLETE  ENDED     COMPLETE  ENDED     COMPLETE  CLOSED    -
  REOPENED   REOPENED  COMPLETE  ENDED     SILENT    ENDED     SILENT    CLOSED    -
  ENDED      ENDED     ENDED     ENDED     ENDED     ENDED     ENDED     CLOSED    -
  SILENT     SILENT    SILENT    SILENT    SILENT    SILENT    SILENT    -         CUT
  CLOSED     CLOSED    CLOSED    CLOSED    CLOSED    CLOSED    CLOSED    -         CLOSED
  CUT        CUT       CUT       CUT       CUT       CUT       CUT       -         CUT
"""
"""What each state makes of what happens; "-" is a driver's mistake."""

WAYS: Final[Mapping[State, tuple[str, ...]]] = MappingProxyType(
    {
        State.HOLDING: (),
        State.FLOWING: ("word",),
        State.COMPLETE: ("word", "stop"),
        State.REOPENED: ("word", "stop", "word"),
        State.ENDED: ("word", "stop", "[DONE]"),
        State.SILENT: ("word", "error"),
        State.CLOSED: ("word", "stop", "finish"),
        State.CUT: ("word", "interrupt"),
    }
)


def at(state: State) -> Relay:
    relay = Relay(ChatReading(choices=1, asks_usage=False), max_event_bytes=MOST)
    relay.feed(ROLE)
    for name in WAYS[state]:
        CAUSES[name](relay)
    assert relay.state is state
    return relay


def walked() -> str:
    """The table as it really is."""
    lines = ["", " " * 13 + "".join(f"{name:<10}" for name in CAUSES).rstrip()]
    for state in State:
        cells = []
        for cause in CAUSES.values():
            relay = at(state)
            try:
                cause(relay)
                cells.append(relay.state.name)
            except LocalProtocolError:
                assert relay.state is state, "a mistake changes nothing"
                cells.append("-")
        lines.append(f"  {state.name:<11}" + "".join(f"{cell:<10}" for cell in cells).rstrip())
    return "\n".join([*lines, ""])


def test_the_states_are_as_drawn() -> None:
    assert walked() == TABLE


def test_every_state_has_a_row_and_what_changes_one_is_in_some() -> None:
    assert set(TRANSITIONS) == set(State)
    assert {happened for row in TRANSITIONS.values() for happened in row} == set(Happened)
    reached = {State.HOLDING, *(state for row in TRANSITIONS.values() for state in row.values())}
    assert reached == set(State)
    assert not TRANSITIONS[State.CLOSED]
    assert not TRANSITIONS[State.CUT]


@pytest.mark.parametrize("state", State)
def test_finished_is_what_the_states_say(state: State) -> None:
    relay = at(state)
    assert relay.finished is relay.complete is (state in FINISHED)


@pytest.mark.parametrize("state", State)
def test_bytes_go_out_in_these_states_alone(state: State) -> None:
    goes = state in (State.HOLDING, State.FLOWING, State.COMPLETE, State.REOPENED)
    assert (at(state).feed(WORD) != b"") is goes


def test_an_end_that_proves_nothing_is_none() -> None:
    relay = at(State.FLOWING)
    relay.feed(b'data: {"something":"else"}\n\n' + DONE)
    assert (relay.state, relay.done, relay.complete) == (State.SILENT, True, False)


def test_an_answer_that_ends_without_a_part_of_it_can_fail_and_be_interrupted() -> None:
    for cause, state in (("error", State.SILENT), ("interrupt", State.CUT)):
        relay = at(State.FLOWING)
        relay.feed(GARBLED + STOP)
        assert (relay.state, relay.finished, relay.complete) == (State.COMPLETE, True, False)
        with pytest.raises(LocalProtocolError):
            relay.finish(b"{}")
        CAUSES[cause](relay)
        assert relay.state is state
