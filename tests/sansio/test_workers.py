"""Several processes behind one address: what follows a signal, an end, and a hang."""

import random
from collections.abc import Sequence
from typing import Final

import pytest

from arbstr.sansio.errors import LocalProtocolError
from arbstr.sansio.fates import (
    ABSENT_SECONDS,
    FATES,
    HANG_SECONDS,
    HURRY_SECONDS,
    MOST_ENDS,
    PATIENCE_SECONDS,
    SIGNALS,
    SILENCES,
    STEADY_SECONDS,
    STOP_SECONDS,
    End,
    Level,
    Phase,
    Sign,
    Silence,
    State,
    Word,
    pause,
    silence_table,
    workers_table,
)
from arbstr.sansio.workers import (
    Announce,
    Command,
    Elapsed,
    Ended,
    Event,
    Heard,
    Kill,
    Leave,
    Ready,
    Say,
    Signalled,
    Start,
    Tell,
    Workers,
)
from tests.playbook import Playbook, play, playbooks

GRACE: Final = 30.0
TERM: Final = Signalled(Sign.STOP, "SIGTERM")
HUP: Final = Signalled(Sign.RELOAD, "SIGHUP")
CTRL_C: Final = Signalled(Sign.STOP, "SIGINT")


def killed(worker: int) -> Ended:
    return Ended(worker, -9, "was killed")


def done(worker: int, code: int = 0) -> Ended:
    return Ended(worker, code, f"ended with exit code {code}")


def shown(commands: Sequence[Command]) -> str:
    """Commands as a book says them; sentences by their level."""

    def one(command: Command) -> str:
        match command:
            case Start(worker):
                return f"start {worker}"
            case Tell(word, _):
                return f"tell {word}"
            case Kill(worker):
                return "kill" if worker is None else f"kill {worker}"
            case Announce():
                return "announce"
            case Say(level, _):
                return str(level)
            case Leave(code):
                return f"leave {code}"

    return ", ".join(map(one, commands))


OPENED: Final[list[tuple[Event, float, str]]] = [
    (Ready(1), 1.0, "announce, start 2, info"),
    (Ready(2), 1.0, "info, info"),
]
"""Both serve since 1.0."""

BOOKS: Final = [
    Playbook(
        "one is started first, and what is wrong it says alone",
        "start 1",
        [(done(1, 78), "leave 78")],
    ),
    Playbook(
        "the first is killed before it serves: it could not say so itself",
        "start 1",
        [(killed(1), "error, leave 1")],
    ),
    Playbook(
        "told to stop before anybody serves",
        "start 1",
        [(TERM, "tell stop"), (Ready(1), ""), (done(1), "leave 0")],
    ),
    Playbook(
        "all end as they are told",
        "start 1",
        [*OPENED, (TERM, 9.0, "tell stop"), (done(2), 9.0, ""), (done(1), 9.5, "leave 0")],
    ),
    Playbook(
        "a second signal hurries, a third changes nothing",
        "start 1",
        [
            *OPENED,
            (CTRL_C, 9.0, "tell stop"),
            (CTRL_C, 9.1, "tell hurry"),
            (CTRL_C, 9.2, ""),
            (done(1), 9.3, ""),
            (done(2), 9.3, "leave 130"),
        ],
    ),
    Playbook(
        "one that ends after its own watchdog struck is told of by the exit code",
        "start 1",
        [*OPENED, (TERM, 9.0, "tell stop"), (done(1, 1), 47.0, ""), (done(2), 47.0, "leave 1")],
    ),
    Playbook(
        "those that hang at the stop are killed",
        "start 1",
        [
            *OPENED,
            (TERM, 9.0, "tell stop"),
            (done(1), 9.1, ""),
            (Elapsed(), 9.0 + GRACE + STOP_SECONDS - 0.1, ""),
            (Elapsed(), 9.0 + GRACE + STOP_SECONDS, "error, kill"),
            (Elapsed(), 9.0 + GRACE + STOP_SECONDS, ""),
            (killed(2), 50.0, "leave 1"),
        ],
    ),
    Playbook(
        "and sooner after a second signal",
        "start 1",
        [
            *OPENED,
            (TERM, 9.0, "tell stop"),
            (TERM, 10.0, "tell hurry"),
            (Elapsed(), 10.0 + HURRY_SECONDS, "error, kill"),
            (killed(1), 18.0, ""),
            (killed(2), 18.0, "leave 130"),
        ],
    ),
    Playbook(
        "who dies is started again a moment later, and said so",
        "start 1",
        [
            *OPENED,
            (killed(1), 5.0, "warning"),
            (Elapsed(), 5.05, ""),
            (Elapsed(), 5.1, "start 1"),
            (Ready(1), 5.3, "info, info"),
        ],
    ),
    Playbook(
        "the second dies before it ever served, while the first serves",
        "start 1",
        [(Ready(1), "announce, start 2, info"), (done(2, 1), "warning")],
    ),
    Playbook(
        "nobody is started again once they are told to stop",
        "start 1",
        [
            *OPENED,
            (killed(1), 5.0, "warning"),
            (TERM, 5.05, "tell stop"),
            (Elapsed(), 6.0, ""),
            (done(2), 7.0, "leave 0"),
        ],
    ),
    Playbook(
        "told to stop while all are down",
        "start 1",
        [
            *OPENED,
            (killed(1), 5.0, "warning"),
            (killed(2), 5.0, "warning"),
            (TERM, 5.05, "tell stop, leave 0"),
        ],
    ),
    Playbook(
        "one that hangs is told of, and in time killed and started again",
        "start 1",
        [
            *OPENED,
            (Heard(1), 2.0, ""),
            (Heard(2), 2.0, ""),
            (Elapsed(), 2.0 + HANG_SECONDS - 0.1, ""),
            (Heard(1), 6.5, ""),
            (Elapsed(), 2.0 + HANG_SECONDS, "warning"),
            (Heard(1), 31.5, ""),
            (Elapsed(), 2.0 + PATIENCE_SECONDS, "error, kill 2"),
            (Heard(2), 32.1, ""),  # said before it was killed
            (killed(2), 32.1, "warning"),
            (Elapsed(), 32.2, "start 2"),
            (Ready(2), 33.0, "info, info"),
        ],
    ),
    Playbook(
        "one that hung goes on",
        "start 1",
        [
            *OPENED,
            (Heard(1), 2.0, ""),
            (Heard(2), 2.0, ""),
            (Heard(1), 6.5, ""),
            (Elapsed(), 7.0, "warning"),
            (Heard(2), 9.0, "info"),
            (Heard(1), 9.0, ""),
            (Elapsed(), 13.9, ""),
            (Elapsed(), 14.0, "warning, warning"),
        ],
    ),
    Playbook(
        "nothing is said of who was not heard, while arbstr itself was suspended",
        "start 1",
        [
            *OPENED,
            (Heard(1), 2.0, ""),
            (Heard(2), 2.0, ""),
            (Elapsed(), 7.0 + ABSENT_SECONDS, ""),
            (Elapsed(), 13.9, ""),
            (Heard(1), 13.9, ""),
            (Elapsed(), 14.0, "warning"),
        ],
    ),
    Playbook(
        "one that hangs before it serves is killed, but not before its first word",
        "start 1",
        [
            (Ready(1), "announce, start 2, info"),
            (Elapsed(), 500.0, ""),
            (Heard(2), 500.0, ""),
            (Elapsed(), 529.9, ""),
            (Elapsed(), 530.0, "error, kill 2"),
            (killed(2), 530.0, "warning"),
        ],
    ),
    Playbook(
        "the first hangs before anybody serves",
        "start 1",
        [(Heard(1), 1.0, ""), (Elapsed(), 31.0, "error, kill 1"), (killed(1), "error, leave 1")],
    ),
    Playbook(
        "who hangs while all stop has the time that all have",
        "start 1",
        [
            *OPENED,
            (Heard(1), 2.0, ""),
            (Heard(2), 2.0, ""),
            (Elapsed(), 7.0, "warning, warning"),
            (TERM, 7.0, "tell stop"),
            (done(1), 7.5, ""),
            (Elapsed(), 40.0, ""),
            (Elapsed(), 7.0 + GRACE + STOP_SECONDS, "error, kill"),
            (killed(2), 48.0, "leave 1"),
        ],
    ),
    Playbook(
        "a reload reaches all, but none that stops",
        "start 1",
        [
            (HUP, "tell reload"),
            *OPENED,
            (HUP, "tell reload"),
            (TERM, 9.0, "tell stop"),
            (HUP, 9.0, ""),
            (TERM, 9.1, "tell hurry"),
            (HUP, 9.1, ""),
        ],
    ),
]


@pytest.mark.parametrize("book", playbooks(BOOKS))
def test_playbook(book: Playbook) -> None:
    play(Workers(2, GRACE), book, show=shown)


class Crew:
    """Workers driven by hand: whoever is to be started is there at once."""

    def __init__(self, count: int) -> None:
        self.machine = Workers(count, GRACE)
        self.now = 0.0
        self.said: list[Command] = list(self.machine.start())

    def happen(self, event: Event) -> tuple[Command, ...]:
        commands = self.machine.handle(event, self.now)
        self.said += commands
        return commands

    def fall(self, worker: int) -> float:
        """It ends at once each time it is started; how long until it is started again."""
        self.happen(done(worker, 1))
        before, self.now = self.now, self.machine.due
        assert self.happen(Elapsed()) == (Start(worker),)
        return self.now - before


def test_a_crash_loop_is_slower_each_time_and_never_given_up_while_another_serves() -> None:
    crew = Crew(2)
    crew.happen(Ready(1))
    pauses = [crew.fall(2) for _ in range(MOST_ENDS + 3)]
    assert pauses == pytest.approx([0.1, 0.4, 1.6, 6.4, 25.6, 30.0, 30.0, 30.0])
    assert crew.machine.phase is Phase.SERVING


def test_it_is_given_up_when_nobody_serves_and_one_ended_often() -> None:
    crew = Crew(2)
    crew.happen(Ready(1))
    crew.happen(done(1, 1))
    for _ in range(MOST_ENDS - 1):
        crew.happen(done(2, 1))
        crew.now = crew.machine.due + 1
        crew.happen(Elapsed())
    assert crew.machine.states[1] is State.STARTING
    said, told = crew.happen(done(2, 1))
    assert isinstance(said, Say)
    assert said.level is Level.ERROR
    assert told == Tell(Word.STOP, "giving up")
    assert crew.happen(done(1, 1)) == (Leave(1),)


def test_who_had_served_long_begins_to_count_anew() -> None:
    crew = Crew(2)
    crew.happen(Ready(1))
    crew.happen(Ready(2))
    for _ in range(MOST_ENDS + 1):
        crew.now += STEADY_SECONDS
        assert crew.fall(2) == pytest.approx(pause(1))
        crew.happen(Ready(2))
    crew.now += STEADY_SECONDS - 0.1
    assert crew.fall(2) == pytest.approx(pause(2))


def test_nothing_happens_after_the_end_and_nobody_is_ready_twice() -> None:
    crew = Crew(1)
    crew.happen(Ready(1))
    with pytest.raises(LocalProtocolError, match="cannot become ready"):
        crew.happen(Ready(1))
    crew.happen(TERM)
    assert crew.happen(done(1)) == (Leave(0),)
    with pytest.raises(LocalProtocolError, match="after the end"):
        crew.happen(TERM)


def test_every_signal_in_every_phase_has_an_answer() -> None:
    silent = {(phase, sign) for phase in Phase for sign in Sign} - set(SIGNALS)
    assert silent == {
        (Phase.HURRYING, Sign.STOP),
        *((phase, Sign.RELOAD) for phase in (Phase.STOPPING, Phase.HURRYING)),
        *((Phase.ENDED, sign) for sign in Sign),
    }


def test_the_table_has_a_row_for_every_end() -> None:
    assert set(FATES) == set(End)
    assert len(workers_table().splitlines()) == 2 + len(FATES)
    assert set(SILENCES) == set(Silence)
    assert len(silence_table().splitlines()) == 2 + len(SILENCES)


def test_why_a_worker_was_killed_is_said_with_its_end() -> None:
    crew = Crew(2)
    for worker in (1, 2):
        crew.happen(Ready(worker))
        crew.happen(Heard(worker))
    crew.now = HANG_SECONDS
    crew.happen(Heard(1))
    crew.happen(Elapsed())
    assert crew.machine.states == {1: State.SERVING, 2: State.HUNG}
    crew.now = PATIENCE_SECONDS
    crew.happen(Heard(1))
    crew.happen(Elapsed())
    (said,) = crew.happen(killed(2))
    assert said == Say(
        Level.WARNING,
        "worker 2 was killed, because it had said nothing for 30 s: it is started again in 0.1 s",
    )
    crew.now += 1
    assert crew.happen(Elapsed()) == (Start(2),)
    crew.happen(Ready(2))
    (said,) = crew.happen(killed(2))
    assert isinstance(said, Say)
    assert "because" not in said.sentence


@pytest.mark.parametrize("seed", range(60))
def test_whatever_happens_it_ends_when_told_and_leaves_nobody_behind(seed: int) -> None:
    """The world: a worker lives from its start to its end; whoever is killed ends."""
    dice = random.Random(seed)
    machine = Workers(dice.randint(1, 4), GRACE)
    now, living, left = 0.0, set[int](), None
    pending: list[Event] = []

    def obey(commands: Sequence[Command]) -> None:
        nonlocal left
        for command in commands:
            assert left is None, "a command after the end"
            match command:
                case Start(worker):
                    assert worker not in living
                    living.add(worker)
                case Kill(one):
                    pending.extend(killed(each) for each in living if one in (None, each))
                case Leave(code):
                    assert not living
                    left = code
                case _:
                    pass

    obey(machine.start())
    for step in range(400):
        if left is not None:
            break
        now += dice.choice((0.0, 0.05, 1.0, 20.0))
        starting = [w for w in living if machine.states[w] is State.STARTING]
        choices: list[Event] = [Elapsed(), HUP]
        choices += [Ready(worker) for worker in starting]
        choices += [done(worker, dice.choice((0, 1))) for worker in living]
        choices += [Heard(worker) for worker in living]
        if step > 100:
            choices.append(TERM)
        event = pending.pop() if pending else dice.choice(choices)
        if isinstance(event, Ended):
            if event.worker not in living:
                continue
            living.remove(event.worker)
        obey(machine.handle(event, now))
    assert left is not None
