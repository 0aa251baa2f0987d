"""The same request again: what it gets, in any order of departures, endings, joins and moments."""

from dataclasses import dataclass

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from arbstr.sansio.config.settings import ServerConfig
from arbstr.sansio.errors import LocalProtocolError
from arbstr.sansio.failover.repeats import (
    ANSWERS,
    MAX_KEPT_BYTES,
    MOST_ENDED,
    Became,
    Fingerprint,
    Join,
    Refuse,
    Repeats,
    Send,
    State,
    fingerprint,
)
from tests.searching import examples

WINDOW = 60.0
SAW = 'provider "alpha" broke off'


def test_the_largest_answer_there_may_be_can_be_kept() -> None:
    assert ServerConfig().max_answer_mb * 1024 * 1024 == MAX_KEPT_BYTES


def same(n: int = 1) -> Fingerprint:
    return Fingerprint(n, b"%d" % n)


ONE = same()


def made(state: State, *, let_go: bool = False) -> Repeats:
    """A machine that knows one answer, `first`, to `ONE`; since 100.0."""
    repeats = Repeats(window=WINDOW, limit=1000)
    repeats.kept("first", 10)
    if state is not State.ATTENDED:
        repeats.left("first", ONE, SAW, 100.0)
    if state is State.SPENT:
        repeats.ended("first", ONE, Became.SPENT, SAW, 100.0)
    if state in (State.WHOLE, State.HAD):
        repeats.ended("first", ONE, Became.WHOLE, SAW, 100.0)
    if let_go:
        repeats.kept("larger", 1000)
    if state is State.HAD:
        assert repeats.asked(ONE, 100.0)[0] == Join("first")
        repeats.asked(ONE, 100.0)  # and another, who still reads it
        repeats.parted("first", whole=True)
    return repeats


def test_every_state_has_a_row() -> None:
    assert set(ANSWERS) == {(state, kept) for state in State for kept in (True, False)}


@pytest.mark.parametrize(
    ("state", "let_go", "gets"),
    [
        (State.ATTENDED, False, Send),
        (State.ATTENDED, True, Send),
        (State.RUNNING_ON, False, Join),
        (State.RUNNING_ON, True, Refuse),
        (State.WHOLE, False, Join),
        (State.WHOLE, True, Refuse),
        (State.SPENT, False, Refuse),
        (State.SPENT, True, Refuse),
        (State.HAD, False, Send),
    ],
)
def test_what_the_same_again_gets(state: State, let_go: bool, gets: type[object]) -> None:
    repeats = made(state, let_go=let_go)
    verdict, _ = repeats.asked(ONE, 101.0)
    assert isinstance(verdict, gets)
    assert isinstance(repeats.asked(same(2), 101.0)[0], Send)


@pytest.mark.parametrize("became", [Became.FREE, Became.DELIVERED])
def test_what_was_free_or_delivered_blocks_nobody(became: Became) -> None:
    for left in (True, False):
        repeats = Repeats(window=WINDOW)
        repeats.kept("first", 10)
        if left:
            repeats.left("first", ONE, SAW, 100.0)
        assert repeats.ended("first", ONE, became, SAW, 101.0) == ("first",)
        assert repeats.asked(ONE, 101.0)[0] == Send()
        assert (repeats.held, repeats.next_end, repeats.may_know(1)) == (0, None, False)


@pytest.mark.parametrize("state", [State.WHOLE, State.SPENT])
def test_nothing_is_remembered_longer_than_the_window(state: State) -> None:
    repeats = made(state)
    assert repeats.next_end == 160.0
    assert not isinstance(repeats.asked(ONE, 159.9)[0], Send)
    repeats.parted("first", whole=False) if state is State.WHOLE else None
    verdict, gone = repeats.asked(ONE, 160.0)
    assert verdict == Send()
    assert gone == (("first",) if state is State.WHOLE else ())
    assert repeats.held == 0


def test_an_answer_that_is_read_on_is_remembered_until_it_has_ended() -> None:
    repeats = made(State.RUNNING_ON)
    assert repeats.next_end is None
    assert repeats.asked(ONE, 10_000.0)[0] == Join("first")


def test_of_several_each_repeat_joins_one_of_its_own_while_there_is_one() -> None:
    repeats = Repeats(window=WINDOW)
    for first in ("a", "b", "c"):
        repeats.left(first, ONE, SAW, 100.0)
    joined = [repeats.asked(ONE, 101.0)[0] for _ in range(4)]
    assert joined == [Join("a"), Join("b"), Join("c"), Join("a")]
    repeats.parted("b", whole=False)
    assert repeats.asked(ONE, 101.0)[0] == Join("b")


def test_a_refusal_speaks_only_where_there_is_none_to_join() -> None:
    repeats = made(State.SPENT)
    repeats.left("second", ONE, SAW, 101.0)
    assert repeats.asked(ONE, 102.0)[0] == Join("second")


def test_whoever_joined_and_left_again_does_not_take_the_answer_along() -> None:
    repeats = made(State.RUNNING_ON)
    assert repeats.asked(ONE, 101.0)[0] == Join("first")
    repeats.parted("first", whole=False)
    repeats.ended("first", ONE, Became.WHOLE, SAW, 102.0)
    assert repeats.asked(ONE, 103.0)[0] == Join("first")
    assert repeats.parted("first", whole=True) == ("first",)
    assert repeats.asked(ONE, 104.0)[0] == Send()
    assert repeats.held == 0


def test_a_refusal_says_what_was_seen_when_and_for_how_long_still() -> None:
    verdict, _ = made(State.SPENT).asked(ONE, 112.4)
    assert isinstance(verdict, Refuse)
    reply = verdict.reply
    assert (reply.code, reply.status, reply.should_retry) == ("possibly_spent", 400, False)
    assert reply.retry_after is None
    assert reply.message == (
        "The same request was sent before, as first, and may have been paid for: 12 s ago "
        'provider "alpha" broke off. So it is not sent again for 48 s more ([retry] '
        "repeat_guard). To send it all the same, which may pay twice, repeat it with the header "
        "`X-Arbstr-Respend: allow`."
    )
    verdict, _ = made(State.RUNNING_ON, let_go=True).asked(ONE, 112.4)
    assert isinstance(verdict, Refuse)
    assert "not sent again until that is over, and for 60 s more" in verdict.reply.message


def test_the_oldest_is_let_go_first_and_before_any_that_is_being_read() -> None:
    repeats = Repeats(window=WINDOW, limit=100)
    for first in ("a", "b", "c"):
        repeats.left(first, ONE, SAW, 100.0)
        assert repeats.kept(first, 30) == ()
    assert repeats.asked(ONE, 101.0)[0] == Join("a")
    assert repeats.kept("d", 30) == ("b",)
    assert repeats.kept("d", 70) == ("c",)
    assert repeats.kept("d", 71) == ("d",)  # it is the oldest that nobody reads
    assert repeats.kept("a", 101) == ("a",)
    assert repeats.held == 0
    assert repeats.kept("a", 1) == ("a",)  # what was let go does not come back


def test_the_window_may_change_or_close() -> None:
    repeats = made(State.SPENT)
    assert repeats.configure(10.0) == ()
    assert repeats.asked(ONE, 110.0)[0] == Send()
    repeats = made(State.RUNNING_ON)
    assert repeats.configure(0.0) == ("first",)
    assert not repeats.is_on
    assert repeats.asked(ONE, 101.0)[0] == Send()
    assert repeats.kept("second", 1) == ("second",)
    assert repeats.ended("second", ONE, Became.SPENT, SAW, 102.0) == ("second",)
    assert (repeats.held, repeats.next_end) == (0, None)


def test_who_had_joined_before_it_was_turned_off_gets_the_rest() -> None:
    repeats = made(State.RUNNING_ON)
    assert repeats.asked(ONE, 101.0)[0] == Join("first")
    assert repeats.configure(0.0) == ()
    assert repeats.asked(ONE, 101.0)[0] == Send()
    assert repeats.kept("first", 500) == ()
    assert repeats.ended("first", ONE, Became.WHOLE, SAW, 102.0) == ()
    assert repeats.kept("first", 600) == ()
    assert repeats.held == 600
    assert repeats.parted("first", whole=True) == ("first",)
    assert (repeats.held, repeats.next_end) == (0, None)
    assert repeats.kept("first", 1) == ("first",)


def test_what_is_remembered_is_bounded() -> None:
    repeats = Repeats(window=WINDOW)
    for n in range(MOST_ENDED + 1):
        repeats.ended(str(n), same(n), Became.SPENT, SAW, 100.0)
    assert repeats.asked(same(0), 100.0)[0] == Send()
    assert isinstance(repeats.asked(same(1), 100.0)[0], Refuse)


def test_a_driver_that_tells_the_impossible_is_told_so() -> None:
    repeats = made(State.SPENT)
    with pytest.raises(LocalProtocolError, match="nobody has joined"):
        repeats.parted("first", whole=True)
    with pytest.raises(LocalProtocolError, match="ended already"):
        repeats.ended("first", ONE, Became.SPENT, SAW, 101.0)
    with pytest.raises(LocalProtocolError, match="left already"):
        repeats.left("first", ONE, SAW, 101.0)


# --- the fingerprint --------------------------------------------------------------------------

KEY = bytes(range(32))


def test_a_fingerprint_is_of_door_policy_and_body_and_tells_none_of_them() -> None:
    body = b'{"model":"gpt-4o","messages":"Say hello"}'
    found = fingerprint(KEY, "chat", None, (), (body,))
    pieces = (memoryview(body)[:7], body[7:])
    assert fingerprint(KEY, "chat", None, (), pieces) == found
    assert b"hello" not in found.digest
    others = [
        fingerprint(KEY[1:], "chat", None, (), (body,)),
        fingerprint(KEY, "responses", None, (), (body,)),
        fingerprint(KEY, "chat", "", (), (body,)),
        fingerprint(KEY, "chat", "code", (), (body,)),
        fingerprint(KEY, "chat", None, (b"beta=true",), (body,)),
        fingerprint(KEY, "chat", None, (), (body + b" ",)),
    ]
    assert len({found, *others}) == 7
    assert "digest" not in repr(found)


# --- in any order -----------------------------------------------------------------------------


@dataclass
class Told:
    """What the test itself knows of one answer."""

    which: int
    left: bool = False
    ended: float | None = None
    became: Became | None = None
    size: int = 0
    let_go: bool = False
    had: bool = False
    readers: int = 0

    def gives(self, now: float) -> str:
        if self.had or not (self.left or self.ended is not None):
            return "nothing"
        if self.ended is not None:
            if self.became in (Became.FREE, Became.DELIVERED) or now >= self.ended + WINDOW:
                return "nothing"
            if self.became is Became.SPENT:
                return "a refusal"
        return "a refusal" if self.let_go else "the answer"

    """When a request of this kind went out without consent, and might have cost."""


class AnyOrder(RuleBasedStateMachine):
    LIMIT = 100

    def __init__(self) -> None:
        super().__init__()
        self.repeats = Repeats(window=WINDOW, limit=self.LIMIT)
        self.now = 100.0
        self.told: dict[str, Told] = {}
        self.bytes: dict[str, int] = {}
        self.count = 0

    def let_go(self, ids: tuple[str, ...]) -> None:
        for first in ids:
            self.bytes.pop(first, None)
            self.told[first].let_go = True

    def one(self, data: st.DataObject, *, running: bool) -> str:
        return data.draw(
            st.sampled_from([i for i, t in self.told.items() if not running or t.ended is None])
        )

    @property
    def any_running(self) -> bool:
        return any(told.ended is None for told in self.told.values())

    @rule(which=st.integers(1, 2), consent=st.booleans())
    def ask(self, which: int, consent: bool) -> None:
        if not consent:
            of_it = {i: t for i, t in self.told.items() if t.which == which}
            gives = {i: t.gives(self.now) for i, t in of_it.items()}
            verdict, gone = self.repeats.asked(same(which), self.now)
            self.let_go(gone)
            match verdict:
                case Join(first):
                    assert gives[first] == "the answer"
                    told = self.told[first]
                    least = [t.readers for i, t in of_it.items() if gives[i] == "the answer"]
                    assert told.readers == min(least)
                    told.readers += 1
                    return
                case Refuse(reply):
                    assert "the answer" not in gives.values()
                    assert any(
                        f"as {i}," in reply.message for i in gives if gives[i] == "a refusal"
                    )
                    return
                case Send():
                    assert set(gives.values()) <= {"nothing"}
        self.count += 1
        self.told[str(self.count)] = Told(which)

    @precondition(lambda self: self.any_running)
    @rule(data=st.data(), more=st.integers(1, 60))
    def keep(self, data: st.DataObject, more: int) -> None:
        first = self.one(data, running=True)
        told = self.told[first]
        if told.let_go:
            return
        told.size += more
        self.bytes[first] = told.size
        self.let_go(self.repeats.kept(first, told.size))

    @precondition(lambda self: any(t.ended is None and not t.left for t in self.told.values()))
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        here = [i for i, t in self.told.items() if t.ended is None and not t.left]
        first = data.draw(st.sampled_from(here))
        self.told[first].left = True
        self.repeats.left(first, same(self.told[first].which), SAW, self.now)

    @precondition(lambda self: self.any_running)
    @rule(data=st.data(), became=st.sampled_from(Became))
    def end(self, data: st.DataObject, became: Became) -> None:
        first = self.one(data, running=True)
        told = self.told[first]
        told.ended, told.became = self.now, became
        self.let_go(self.repeats.ended(first, same(told.which), became, SAW, self.now))

    @precondition(lambda self: any(told.readers for told in self.told.values()))
    @rule(data=st.data(), whole=st.booleans())
    def part(self, data: st.DataObject, whole: bool) -> None:
        first = data.draw(st.sampled_from([i for i, t in self.told.items() if t.readers]))
        told = self.told[first]
        told.readers -= 1
        told.had = told.had or (whole and told.became is Became.WHOLE)
        self.let_go(self.repeats.parted(first, whole=whole))

    @rule(seconds=st.sampled_from([0.5, 20.0, 61.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.let_go(self.repeats.expire(self.now))
        assert self.repeats.next_end is None or self.repeats.next_end > self.now

    @invariant()
    def what_is_kept_is_bounded_and_counted(self) -> None:
        assert self.repeats.held == sum(self.bytes.values()) <= self.LIMIT

    @invariant()
    def nothing_outlives_its_time(self) -> None:
        for first in self.bytes:
            told = self.told[first]
            if told.ended is not None and not told.readers:
                assert told.gives(self.now) == "the answer" or self.now < told.ended + WINDOW

    def teardown(self) -> None:
        """When all has ended and every reader is gone, nothing is left."""
        for first, told in self.told.items():
            if told.ended is None:
                self.let_go(
                    self.repeats.ended(first, same(told.which), Became.WHOLE, SAW, self.now)
                )
            for _ in range(told.readers):
                self.let_go(self.repeats.parted(first, whole=False))
        self.let_go(self.repeats.expire(self.now + WINDOW))
        assert (self.repeats.held, self.bytes, self.repeats.next_end) == (0, {}, None)
        assert not self.repeats.may_know(1)


AnyOrder.TestCase.settings = examples(40, stateful_step_count=30)
TestAnyOrder = AnyOrder.TestCase
