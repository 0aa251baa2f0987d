"""Failing over without paying twice: every verdict as a conversation, and what always holds."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from math import inf
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from arbstr.sansio.errors import STATUS, ErrorReply, LocalProtocolError
from arbstr.sansio.failover.board import Refused, Resting
from arbstr.sansio.failover.breaker import CircuitOpen, Probing
from arbstr.sansio.failover.failure import (
    DEFAULT_REST,
    Failure,
    FailureKind,
    Money,
    rest_seconds,
)
from arbstr.sansio.failover.last_word import (
    LAST_WORDS,
    LEDGER_AGAIN,
    LastWord,
    last_word_table,
    word_of,
)
from arbstr.sansio.failover.rests import Reason
from arbstr.sansio.failover.retry import (
    MODELS_EACH,
    PROBE_WAIT,
    Answered,
    Attempt,
    AwaitProbe,
    Command,
    Deliver,
    Elapsed,
    GiveUp,
    ProbeSettled,
    Retry,
    Skipped,
    Sleep,
    TryFailed,
)
from arbstr.sansio.failover.verdicts import VERDICTS, Verdict
from arbstr.sansio.money import Rates
from arbstr.sansio.routing.budget import LedgerUnread, NotWithinBudget, OverBudget, Unpriced
from arbstr.sansio.routing.listing import TooLow
from tests.candidates import candidate
from tests.playbook import Playbook, play, playbooks
from tests.searching import examples

K = FailureKind
A_SAT = Rates(Decimal(0), Decimal(0), base_fee=Decimal(1))
FREE, SPENT, UNKNOWN = Money.FREE, Money.SPENT, Money.UNKNOWN


def make_retry(
    names: str = "alpha beta",
    *,
    max_retries: int = 2,
    backoff: float = 0.5,
    consent: bool = False,
    no_stream_options: frozenset[str] = frozenset(),
    max_sats: Decimal | None = None,
    patience: float = 0.0,
    costs: Sequence[int | None] = (),
) -> Retry:
    """A machine over these providers; `alpha/mini` is alpha's offer of another model. `costs` are
    those of the providers in order, 1 each without."""
    pairs = [name.partition("/") for name in names.split()]
    prices = costs or [1] * len(pairs)
    return Retry(
        tuple(
            candidate(
                name,
                model or "gpt-4o",
                rates=A_SAT,
                cost=None if cost is None else Decimal(cost),
            )
            for (name, _, model), cost in zip(pairs, prices, strict=True)
        ),
        max_retries=max_retries,
        backoff=backoff,
        patience=patience,
        consent=consent,
        no_stream_options=no_stream_options,
        max_sats=max_sats,
    )


def failed(
    kind: FailureKind,
    money: Money = FREE,
    *,
    probe: bool = False,
    charged: Decimal | None = None,
    **more: Any,
) -> Any:
    return TryFailed(Failure(kind, money, f"had {kind.value}", **more), probe, charged)


def show(command: Command) -> object:
    """An attempt as "n provider", a giving up as what the client is told, the rest as it is."""
    match command:
        case Attempt(candidate=asked, add_usage=add_usage, n=n):
            plain = "" if add_usage else " without stream_options"
            return f"{n} {asked.offer.provider.name}{plain}"
        case GiveUp(error=error):
            return (error.code, error.status, error.retry_after, error.should_retry)
        case _:
            return command


SPENT_REPLY = ("possibly_spent", 400, None, False)
UPSTREAM_ERROR = ("upstream_error", 502, None, False)
OVER = OverBudget(Decimal(5), Decimal(1000), Decimal("990.5"), Decimal(8), ends_in=11_479.5)
OVER_BUDGET = ("budget_exceeded", 402, None, False)
FIRST_BACKOFF, SECOND_BACKOFF = Sleep(0.375, 0.625), Sleep(0.75, 1.25)


def went_on(kind: FailureKind, money: Money = FREE, **more: Any) -> Playbook:
    """The next provider is tried at once and answers."""
    return Playbook(
        f"after {kind.value} the next provider is tried at once",
        "1 alpha",
        [(failed(kind, money, **more), "2 beta"), (Answered(), Deliver())],
    )


def settled(kind: FailureKind, money: Money = FREE) -> Any:
    """One of which its lane told what it cost."""
    return failed(kind, money, settled=True)


def tried_again(kind: FailureKind) -> Playbook:
    return Playbook(
        f"after {kind.value} the same provider is tried twice more, then the next",
        "1 alpha",
        [
            (failed(kind), FIRST_BACKOFF),
            (Elapsed(), "2 alpha"),
            (failed(kind), SECOND_BACKOFF),
            (Elapsed(), "3 alpha"),
            (failed(kind), "4 beta"),
            (failed(kind), FIRST_BACKOFF),
            (Elapsed(), "5 beta"),
            (Answered(), Deliver()),
        ],
    )


def stopped(kind: FailureKind, money: Money) -> Playbook:
    return Playbook(
        f"after {kind.value} that is {money.value} nothing follows",
        "1 alpha",
        [(failed(kind, money), SPENT_REPLY)],
    )


def allowed(kind: FailureKind, money: Money) -> Playbook:
    return Playbook(
        f"after {kind.value} that is {money.value} another provider follows with consent",
        "1 alpha",
        [(failed(kind, money), "2 beta"), (Answered(), Deliver())],
        {"consent": True},
    )


def given_up(
    sentence: str, names: str, steps: list[tuple[Any, ...]], last: object, **setup: Any
) -> Playbook:
    """Attempts at all of `names` in turn, whose last event leads to `last`."""
    turns: list[Any] = []
    n = 1
    for (event,), name in zip(steps, [*names.split()[1:], None], strict=True):
        n += isinstance(event, TryFailed)
        turns.append((event, last if name is None else f"{n} {name}"))
    return Playbook(sentence, f"1 {names.split()[0]}", turns, {"names": names, **setup})


MAY_COST = [
    (K.SERVER_ERROR, UNKNOWN),
    (K.BAD_STATUS, UNKNOWN),
    (K.NO_ANSWER, UNKNOWN),
    (K.BAD_ANSWER, SPENT),
    (K.STREAM_DIED, UNKNOWN),
]

BOOKS = [
    Playbook(
        "what a lane tells took nothing is followed without consent, in the end by the same again",
        "1 alpha",
        [
            (settled(K.NO_ANSWER), "2 beta"),
            (settled(K.STREAM_DIED), FIRST_BACKOFF),
            (Elapsed(), "3 alpha"),
            (Answered(), Deliver()),
        ],
    ),
    Playbook(
        "a node alone is asked again, up to max_retries, while its lanes tell of nothing",
        "1 alpha",
        [
            (settled(K.NO_ANSWER), FIRST_BACKOFF),
            (Elapsed(), "2 alpha"),
            (settled(K.NO_ANSWER), SECOND_BACKOFF),
            (Elapsed(), "3 alpha"),
            (settled(K.NO_ANSWER), UPSTREAM_ERROR),
        ],
        {"names": "alpha"},
    ),
    Playbook(
        "what a lane tells was paid is followed by nothing",
        "1 alpha",
        [(settled(K.NO_ANSWER, SPENT), SPENT_REPLY)],
    ),
    Playbook("an answer is delivered", "1 alpha", [(Answered(), Deliver())]),
    Playbook(
        "nobody could be reached: each once, then each again after a backoff, twice",
        "1 alpha",
        [
            (failed(K.NOT_SENT), "2 beta"),
            (failed(K.NOT_SENT), FIRST_BACKOFF),
            (Elapsed(), "3 alpha"),
            (failed(K.NOT_SENT), "4 beta"),
            (failed(K.NOT_SENT), SECOND_BACKOFF),
            (Elapsed(), "5 alpha"),
            (failed(K.NOT_SENT), "6 beta"),
            (failed(K.NOT_SENT), UPSTREAM_ERROR),
        ],
    ),
    Playbook(
        "who could not be reached is asked again when the others have failed",
        "1 alpha",
        [
            (failed(K.NOT_SENT), "2 beta"),
            (failed(K.ACCOUNT, status=401), FIRST_BACKOFF),
            (Elapsed(), "3 alpha"),
            (Answered(), Deliver()),
        ],
    ),
    Playbook(
        "who could not be reached is not asked again after what may have cost",
        "1 alpha",
        [(failed(K.NOT_SENT), "2 beta"), (failed(K.NO_ANSWER, UNKNOWN), SPENT_REPLY)],
    ),
    Playbook(
        "a probe that could not be sent is a single attempt",
        "1 alpha",
        [
            (failed(K.NOT_SENT, probe=True), "2 beta"),
            (failed(K.NOT_SENT), FIRST_BACKOFF),
            (Elapsed(), "3 beta"),
            (Answered(), Deliver()),
        ],
    ),
    Playbook(
        "nobody waits for a probe while one who was not reached can be asked again",
        "1 alpha",
        [
            (failed(K.NOT_SENT), "2 beta"),
            (Skipped(Probing()), FIRST_BACKOFF),
            (Elapsed(), "2 alpha"),
            (failed(K.NOT_SENT), SECOND_BACKOFF),
            (Elapsed(), "3 alpha"),
            (failed(K.NOT_SENT), AwaitProbe(("beta",), PROBE_WAIT)),
        ],
    ),
    *(
        Playbook(
            f"a {what} with a short wait is waited out once, where the next is dearer",
            "1 alpha",
            [
                (failed(kind, status=status, retry_after=2.0), Sleep(2.0, 2.0)),
                (Elapsed(), "2 alpha"),
                (failed(kind, status=status, retry_after=2.0), "3 beta"),
                (failed(kind, status=status, retry_after=2.0), last),
            ],
            {"patience": 3.0, "costs": (1, 10)},
        )
        for what, kind, status, last in (
            ("429", K.RATE_LIMITED, 429, ("rate_limited", 429, 2.0, None)),
            ("503", K.SERVER_ERROR, 503, ("circuit_open", 503, 2.0, None)),
        )
    ),
    Playbook(
        "any server_error with a short wait is waited out once, where the next is dearer",
        "1 alpha",
        [
            (failed(K.SERVER_ERROR, status=529, retry_after=2.0), Sleep(2.0, 2.0)),
            (Elapsed(), "2 alpha"),
            (failed(K.SERVER_ERROR, status=529, retry_after=2.0), "3 beta"),
        ],
        {"patience": 3.0, "costs": (1, 10)},
    ),
    Playbook(
        "who does not rest is asked again after the wait it wants, where the next is not dearer",
        "1 alpha",
        [
            (failed(K.SERVER_ERROR, status=500, retry_after=2.0), Sleep(2.0, 2.0)),
            (Elapsed(), "2 alpha"),
            (failed(K.SERVER_ERROR, status=500, retry_after=2.0), Sleep(2.0, 2.0)),
            (Elapsed(), "3 alpha"),
            (failed(K.SERVER_ERROR, status=500, retry_after=2.0), "4 beta"),
        ],
        {"patience": 3.0, "costs": (1, 1)},
    ),
    Playbook(
        "a wait beyond patience of who does not rest for it is not heeded",
        "1 alpha",
        [
            (failed(K.SERVER_ERROR, status=502, retry_after=60.0), FIRST_BACKOFF),
            (Elapsed(), "2 alpha"),
        ],
        {"patience": 3.0, "costs": (1, 10)},
    ),
    *(
        Playbook(
            f"no wait: {why}",
            "1 alpha",
            [
                (failed(kind, money, status=status, **dict[str, Any](more)), "2 beta"),
                (Answered(), Deliver()),
            ],
            {"patience": 3.0, "costs": costs, "consent": True},
        )
        for why, kind, money, status, more, costs in (
            ("it is longer", K.RATE_LIMITED, FREE, 429, {"retry_after": 3.1}, (1, 10)),
            ("it says none", K.RATE_LIMITED, FREE, 429, {}, (1, 10)),
            ("the next costs the same", K.RATE_LIMITED, FREE, 429, {"retry_after": 2.0}, (1, 1)),
            (
                "nobody knows what this costs",
                K.RATE_LIMITED,
                FREE,
                429,
                {"retry_after": 2.0},
                (None, None),
            ),
            ("it may have cost", K.SERVER_ERROR, UNKNOWN, 503, {"retry_after": 2.0}, (1, 10)),
            (
                "a probe is a single attempt",
                K.RATE_LIMITED,
                FREE,
                429,
                {"retry_after": 2.0, "probe": True},
                (1, 10),
            ),
        )
    ),
    Playbook(
        "what a next provider without rates costs is not known, so it is waited for",
        "1 alpha",
        [
            (failed(K.RATE_LIMITED, status=429, retry_after=3.0), Sleep(3.0, 3.0)),
            (Elapsed(), "2 alpha"),
            (Answered(), Deliver()),
        ],
        {"patience": 3.0, "costs": (1, None)},
    ),
    Playbook(
        "without another provider a wait is the client's",
        "1 alpha",
        [(failed(K.RATE_LIMITED, status=429, retry_after=2.0), ("rate_limited", 429, 2.0, None))],
        {"names": "alpha", "patience": 3.0},
    ),
    tried_again(K.SERVER_ERROR),
    went_on(K.ACCOUNT, status=402),
    went_on(K.NO_MODEL, status=404),
    went_on(K.RATE_LIMITED, status=429),
    went_on(K.ERROR_ANSWER, status=200),
    went_on(K.BAD_STATUS, status=302),
    *(stopped(kind, money) for kind, money in MAY_COST),
    *(allowed(kind, money) for kind, money in MAY_COST),
    Playbook(
        "a client error is the answer, and nothing follows",
        "1 alpha",
        [(failed(K.CLIENT_ERROR, status=422), ("client_error", 422, None, False))],
    ),
    Playbook(
        "a provider that refuses stream_options is asked once more without, outside max_retries",
        "1 alpha",
        [
            (failed(K.NO_STREAM_OPTIONS, status=400), "2 alpha without stream_options"),
            (failed(K.SERVER_ERROR, status=500), FIRST_BACKOFF),
            (Elapsed(), "3 alpha without stream_options"),
            (failed(K.SERVER_ERROR, status=500), "4 beta"),
        ],
        {"max_retries": 1},
    ),
    Playbook(
        "a provider known to refuse stream_options is asked without at once, the others with",
        "1 alpha without stream_options",
        [
            (failed(K.NO_STREAM_OPTIONS, status=400), "2 beta"),
            (Answered(), Deliver()),
        ],
        {"no_stream_options": frozenset({"alpha"})},
    ),
    Playbook(
        "a stream that was cut ends the request",
        "1 alpha",
        [(failed(K.STREAM_CUT, SPENT), ("stream_interrupted", 502, None, False))],
        {"consent": True},
    ),
    Playbook(
        "a client that left is not replaced by another attempt, even with consent",
        "1 alpha",
        [(failed(K.CLIENT_LEFT, UNKNOWN), SPENT_REPLY)],
        {"consent": True},
    ),
    Playbook(
        "what the shutdown stopped may have cost, so the client is not told to come back",
        "1 alpha",
        [(failed(K.SHUTDOWN, UNKNOWN), SPENT_REPLY)],
    ),
    Playbook(
        "what the shutdown stopped for free may be sent again",
        "1 alpha",
        [(failed(K.SHUTDOWN), ("shutting_down", 503, None, None))],
    ),
    # Backoff and Retry-After.
    Playbook(
        "without retries the next provider follows at once",
        "1 alpha",
        [(failed(K.SERVER_ERROR), "2 beta")],
        {"max_retries": 0},
    ),
    Playbook(
        "a longer Retry-After than the backoff sends the request to the next provider",
        "1 alpha",
        [(failed(K.SERVER_ERROR, status=503, retry_after=0.6), "2 beta")],
    ),
    Playbook(
        "a shorter Retry-After than the backoff is waited for on the same provider",
        "1 alpha",
        [
            (failed(K.SERVER_ERROR, status=503, retry_after=0.45), Sleep(0.45, 0.625)),
            (Elapsed(), "2 alpha"),
        ],
    ),
    Playbook(
        "a probe is a single attempt",
        "1 alpha",
        [(failed(K.SERVER_ERROR, status=500, probe=True), "2 beta")],
    ),
    Playbook(
        "a probe is a single attempt, also when it was stream_options that failed",
        "1 alpha",
        [(failed(K.NO_STREAM_OPTIONS, status=400, probe=True), "2 beta")],
    ),
    Playbook(
        "a provider that became resting during our backoff is left",
        "1 alpha",
        [
            (failed(K.SERVER_ERROR, status=500), FIRST_BACKOFF),
            (Elapsed(), "2 alpha"),
            (Skipped(Resting(60.0)), "2 beta"),
            (Answered(), Deliver()),
        ],
    ),
    Playbook(
        "two offers of one provider share its retries",
        "1 alpha",
        [
            (failed(K.SERVER_ERROR), FIRST_BACKOFF),
            (Elapsed(), "2 alpha"),
            (failed(K.SERVER_ERROR), "3 alpha"),
            (failed(K.SERVER_ERROR), UPSTREAM_ERROR),
        ],
        {"names": "alpha alpha/mini", "max_retries": 1},
    ),
    # Consent.
    Playbook(
        "with consent one further attempt may cost, and then it ends",
        "1 alpha",
        [(failed(K.NO_ANSWER, UNKNOWN), "2 beta"), (failed(K.BAD_ANSWER, SPENT), SPENT_REPLY)],
        {"names": "alpha beta gamma", "consent": True},
    ),
    Playbook(
        "with consent free failures do not count as the further attempt",
        "1 alpha",
        [
            (failed(K.NO_ANSWER, UNKNOWN), "2 beta"),
            (failed(K.SERVER_ERROR), FIRST_BACKOFF),
            (Elapsed(), "3 beta"),
            (failed(K.ACCOUNT, status=402), "4 gamma"),
            (failed(K.STREAM_DIED, UNKNOWN), SPENT_REPLY),
        ],
        {"names": "alpha beta gamma delta", "consent": True},
    ),
    Playbook(
        "with consent a provider that may have been paid is not asked for another model",
        "1 alpha",
        [(failed(K.NO_ANSWER, UNKNOWN), "2 beta"), (failed(K.NO_MODEL), SPENT_REPLY)],
        {"names": "alpha alpha/mini beta alpha/tiny", "consent": True},
    ),
    Playbook(
        "with consent and nobody else it ends",
        "1 alpha",
        [(failed(K.NO_ANSWER, UNKNOWN), SPENT_REPLY)],
        {"names": "alpha", "consent": True},
    ),
    Playbook(
        "with consent a client error from another provider wins over possibly_spent",
        "1 alpha",
        [
            (failed(K.NO_ANSWER, UNKNOWN), "2 beta"),
            (failed(K.CLIENT_ERROR, status=413), ("client_error", 413, None, False)),
        ],
        {"consent": True},
    ),
    Playbook(
        "possibly_spent wins over providers that can be waited for",
        "1 alpha",
        [(failed(K.NO_ANSWER, UNKNOWN), "2 beta"), (Skipped(Resting(5.0)), SPENT_REPLY)],
        {"consent": True},
    ),
    # Refused admissions.
    Playbook(
        "a provider that is not admitted is no attempt",
        "1 alpha",
        [(Skipped(CircuitOpen(30.0)), "1 beta"), (Answered(), Deliver())],
    ),
    Playbook(
        "all resting: 429, to come back when the first is rested",
        "1 alpha",
        [
            (Skipped(Resting(9.0)), "1 beta"),
            (Skipped(Resting(7.0)), 2.0, ("rate_limited", 429, 5.0, None)),
        ],
    ),
    Playbook(
        "all answering 429: to come back when the first is rested",
        "1 alpha",
        [
            (failed(K.RATE_LIMITED, status=429, retry_after=7.0), 1.0, "2 beta"),
            (
                failed(K.RATE_LIMITED, status=429, retry_after=20.0),
                3.0,
                ("rate_limited", 429, 5.0, None),
            ),
        ],
    ),
    given_up(
        "a 429 that does not say how long is a second",
        "alpha",
        [(failed(K.RATE_LIMITED, status=429),)],
        ("rate_limited", 429, DEFAULT_REST, None),
    ),
    given_up(
        "a 503 that says when to come back is passed on as a wait",
        "alpha",
        [(failed(K.SERVER_ERROR, status=503, retry_after=30.0),)],
        ("circuit_open", 503, 30.0, None),
    ),
    given_up(
        "all open: 503, to come back when the first is half-open",
        "alpha beta",
        [(Skipped(CircuitOpen(30.0)),), (Skipped(CircuitOpen(20.0)),)],
        ("circuit_open", 503, 20.0, None),
    ),
    given_up(
        "open and resting mixed: 503, whichever is over first",
        "alpha beta",
        [(Skipped(CircuitOpen(30.0)),), (Skipped(Resting(4.0)),)],
        ("circuit_open", 503, 4.0, None),
    ),
    given_up(
        "a time that has passed meanwhile is no time",
        "alpha",
        [(Skipped(Resting(-1.0)),)],
        ("rate_limited", 429, 0.0, None),
    ),
    # Waiting for a probe.
    Playbook(
        "somebody's probe is not waited for while another provider can serve",
        "1 alpha",
        [(Skipped(Probing()), "1 beta"), (Answered(), Deliver())],
    ),
    Playbook(
        "without alternative somebody's probe is waited for, and then it is our turn",
        "1 alpha",
        [
            (Skipped(Probing()), 1.0, AwaitProbe(("alpha",), PROBE_WAIT)),
            (ProbeSettled(), 2.0, "1 alpha"),
            (Answered(), Deliver()),
        ],
        {"names": "alpha"},
    ),
    Playbook(
        "a probe that failed leaves an open circuit",
        "1 alpha",
        [
            (Skipped(Probing()), 1.0, AwaitProbe(("alpha",), PROBE_WAIT)),
            (ProbeSettled(), 2.0, "1 alpha"),
            (Skipped(CircuitOpen(32.0)), 2.0, ("circuit_open", 503, 30.0, None)),
        ],
        {"names": "alpha"},
    ),
    Playbook(
        "all that failed for free comes before waiting for a probe",
        "1 alpha",
        [
            (Skipped(Probing()), "1 beta"),
            (failed(K.ACCOUNT, status=402), "2 gamma"),
            (Skipped(Resting(100.0)), AwaitProbe(("alpha",), PROBE_WAIT)),
            (ProbeSettled(), "2 alpha"),
            (Answered(), Deliver()),
        ],
        {"names": "alpha beta gamma"},
    ),
    Playbook(
        "only those that were being probed get another turn, each provider named once",
        "1 alpha",
        [
            (Skipped(Probing()), "1 alpha"),
            (Skipped(Probing()), "1 beta"),
            (Skipped(Resting(100.0)), "1 gamma"),
            (Skipped(Probing()), AwaitProbe(("alpha", "gamma"), PROBE_WAIT)),
            (ProbeSettled(), "1 alpha"),
            (failed(K.NO_MODEL, status=404), "2 alpha"),
            (failed(K.NO_MODEL, status=404), "3 gamma"),
            (failed(K.NO_MODEL, status=404), ("rate_limited", 429, 100.0, None)),
        ],
        {"names": "alpha alpha/mini beta gamma"},
    ),
    Playbook(
        "another's probe after the first is waited for, but five seconds in all",
        "1 alpha",
        [
            (Skipped(Probing()), 1.0, AwaitProbe(("alpha",), 5.0)),
            (ProbeSettled(), 3.0, "1 alpha"),
            (Skipped(Probing()), 3.0, AwaitProbe(("alpha",), 3.0)),
            (ProbeSettled(), 6.0, "1 alpha"),
            (Skipped(Probing()), 6.0, ("circuit_open", 503, 1.0, None)),
        ],
        {"names": "alpha"},
    ),
    Playbook(
        "a probe that does not end is waited for once",
        "1 alpha",
        [
            (Skipped(Probing()), 1.0, AwaitProbe(("alpha",), 5.0)),
            (Elapsed(), 5.9, "1 alpha"),
            (Skipped(Probing()), 5.9, ("circuit_open", 503, 1.0, None)),
        ],
        {"names": "alpha"},
    ),
    Playbook(
        "with consent a probe of a provider that may have been paid is not waited for",
        "1 alpha",
        [
            (Skipped(Probing()), "1 alpha"),
            (failed(K.NO_ANSWER, UNKNOWN), SPENT_REPLY),
        ],
        {"names": "alpha alpha/mini", "consent": True},
    ),
    # Where the choice of the model is ours too.
    Playbook(
        "a model that is not there leaves the provider's others",
        "1 alpha",
        [(failed(K.NO_MODEL, status=404), "2 alpha"), (Answered(), Deliver())],
        {"names": "alpha alpha/mini beta"},
    ),
    Playbook(
        "a model that fails is retried, its provider's others are asked once each",
        "1 alpha",
        [
            (failed(K.SERVER_ERROR, status=500), FIRST_BACKOFF),
            (Elapsed(), "2 alpha"),
            (failed(K.SERVER_ERROR, status=500), "3 alpha"),
            (failed(K.SERVER_ERROR, status=500), "4 beta"),
        ],
        {"names": "alpha alpha/mini beta", "max_retries": 1},
    ),
    Playbook(
        "a key that is refused for one model is not shown for another",
        "1 alpha",
        [(failed(K.ACCOUNT, status=401), "2 beta"), (Answered(), Deliver())],
        {"names": "alpha alpha/mini beta alpha/tiny"},
    ),
    Playbook(
        "a provider that cannot be reached is not asked for another model",
        "1 alpha",
        [(failed(K.NOT_SENT), "2 beta"), (failed(K.NOT_SENT), UPSTREAM_ERROR)],
        {"names": "alpha alpha/mini beta alpha/tiny", "max_retries": 0},
    ),
    Playbook(
        "a probe is one attempt, whatever other models there are",
        "1 alpha",
        [(failed(K.NO_MODEL, status=404, probe=True), "2 beta"), (Answered(), Deliver())],
        {"names": "alpha alpha/mini beta"},
    ),
    Playbook(
        "of a provider where nothing works five models are asked",
        "1 alpha",
        [
            *((failed(K.ERROR_ANSWER, status=200), f"{n} alpha") for n in range(2, 6)),
            (failed(K.ERROR_ANSWER, status=200), "6 beta"),
        ],
        {"names": " ".join(f"alpha/{n}" for n in range(300)) + " beta"},
    ),
    # What a rule's max_sats_per_request leaves; every candidate is held to 1 sat.
    Playbook(
        "with consent another provider is asked while both are within the cap together",
        "1 alpha",
        [(failed(K.NO_ANSWER, UNKNOWN), "2 beta"), (Answered(), Deliver())],
        {"consent": True, "max_sats": Decimal(2)},
    ),
    Playbook(
        "with consent nobody is asked who would take the request over its cap",
        "1 alpha",
        [(failed(K.NO_ANSWER, UNKNOWN), SPENT_REPLY)],
        {"consent": True, "max_sats": Decimal("1.99")},
    ),
    Playbook(
        "what was charged counts towards the cap, and not what was set aside",
        "1 alpha",
        [(failed(K.BAD_ANSWER, SPENT, charged=Decimal("0.5")), "2 beta"), (Answered(), Deliver())],
        {"consent": True, "max_sats": Decimal("1.5")},
    ),
    Playbook(
        "who charged more than was set aside may leave nothing for another",
        "1 alpha",
        [(failed(K.BAD_ANSWER, SPENT, charged=Decimal("1.01")), SPENT_REPLY)],
        {"consent": True, "max_sats": Decimal(2)},
    ),
    Playbook(
        "what is known of an attempt whose cost nobody knows is no charge",
        "1 alpha",
        [(failed(K.NO_ANSWER, UNKNOWN, charged=Decimal("0.5")), SPENT_REPLY)],
        {"consent": True, "max_sats": Decimal("1.5")},
    ),
    Playbook(
        "what was free does not count towards the cap",
        "1 alpha",
        [(failed(K.NO_MODEL, status=404), "2 beta"), (Answered(), Deliver())],
        {"max_sats": Decimal(1)},
    ),
    Playbook(
        "a probe is not waited for if its provider would take the request over its cap",
        "1 alpha",
        [(Skipped(Probing()), "1 beta"), (failed(K.NO_ANSWER, UNKNOWN), SPENT_REPLY)],
        {"consent": True, "max_sats": Decimal("1.99")},
    ),
    # Last words of mixtures.
    given_up(
        "no balance anywhere: 402",
        "alpha beta",
        [(failed(K.ACCOUNT, status=402),), (failed(K.ACCOUNT, status=402),)],
        ("insufficient_balance", 402, None, False),
    ),
    given_up(
        "keys refused everywhere: 502",
        "alpha beta",
        [(failed(K.ACCOUNT, status=401),), (failed(K.ACCOUNT, status=403),)],
        ("provider_auth", 502, None, False),
    ),
    given_up(
        "a key refused and no balance: 402",
        "alpha beta",
        [(failed(K.ACCOUNT, status=401),), (failed(K.ACCOUNT, status=402),)],
        ("insufficient_balance", 402, None, False),
    ),
    given_up(
        "known nowhere: 404",
        "alpha beta",
        [(failed(K.NO_MODEL, status=404),), (failed(K.NO_MODEL, status=400),)],
        ("model_not_found", 404, None, None),
    ),
    given_up(
        "a path known nowhere: 404, as the providers said",
        "alpha beta",
        [(failed(K.NO_ENDPOINT, status=404),), (failed(K.NO_ENDPOINT, status=405),)],
        ("model_not_found", 404, None, None),
    ),
    *(
        given_up(
            f"all rest for {why.value}: {code}, and nothing about waiting",
            "alpha beta",
            [(Skipped(Resting(40.0, why)),), (Skipped(Resting(50.0, why)),)],
            (code, status, None, should),
        )
        for why, code, status, should in (
            (Reason.BALANCE, "insufficient_balance", 402, False),
            (Reason.KEY, "provider_auth", 502, False),
            (Reason.PATH, "model_not_found", 404, None),
        )
    ),
    given_up(
        "one rests for its key and one for its limit: 429, as long as the limit lasts",
        "alpha beta",
        [(Skipped(Resting(4.0, Reason.KEY)),), (Skipped(Resting(50.0)),)],
        ("rate_limited", 429, 50.0, None),
    ),
    given_up(
        "a rest for an overload: 503",
        "alpha",
        [(Skipped(Resting(4.0, Reason.OVERLOAD)),)],
        ("circuit_open", 503, 4.0, None),
    ),
    given_up(
        "no model can: 400",
        "alpha beta",
        [(failed(K.NOT_CAPABLE, status=413),), (failed(K.NOT_CAPABLE, status=200),)],
        ("not_capable", 400, None, False),
    ),
    given_up(
        "no model can, but one may later: 429",
        "alpha beta",
        [(failed(K.NOT_CAPABLE, status=400),), (failed(K.RATE_LIMITED, status=429),)],
        ("rate_limited", 429, DEFAULT_REST, None),
    ),
    *(
        given_up(
            f"an error under a 200 that calls itself {own}: {status}",
            "alpha beta",
            [(failed(K.ERROR_ANSWER, status=200, own_status=own),), (failed(K.NOT_SENT),)],
            (code, status, retry_after, should),
            max_retries=0,
        )
        for own, code, status, retry_after, should in (
            (400, "not_capable", 400, None, False),
            (422, "not_capable", 422, None, False),
            (402, "insufficient_balance", 402, None, False),
            (401, "provider_auth", 502, None, False),
            (404, "model_not_found", 404, None, None),
            (408, "upstream_error", 502, None, False),
            (429, "rate_limited", 429, DEFAULT_REST, None),
        )
    ),
    given_up(
        "a connect timeout: 504",
        "alpha beta",
        [
            (failed(K.NOT_SENT, timed_out_connecting=True),),
            (failed(K.SERVER_ERROR, status=500),),
        ],
        ("connect_timeout", 504, None, False),
        max_retries=0,
    ),
    given_up(
        "errors of many kinds: 502",
        "alpha beta gamma",
        [
            (failed(K.SERVER_ERROR, status=500),),
            (failed(K.NOT_SENT),),
            (failed(K.ERROR_ANSWER, status=200),),
        ],
        UPSTREAM_ERROR,
        max_retries=0,
    ),
    given_up(
        "a wait wins over what waiting does not mend",
        "alpha beta gamma",
        [
            (failed(K.SERVER_ERROR, status=500),),
            (failed(K.ACCOUNT, status=402),),
            (Skipped(CircuitOpen(12.0)),),
        ],
        ("circuit_open", 503, 12.0, None),
        max_retries=0,
    ),
    # What the budget does not allow.
    Playbook(
        "a provider the day has no money left for is no attempt, and the next may be cheaper",
        "1 alpha",
        [(Skipped(OVER), "1 beta"), (Answered(), Deliver())],
    ),
    Playbook(
        "nobody is within the budget: 402, and waiting is not what it takes",
        "1 alpha",
        [(Skipped(OVER), "1 beta"), (Skipped(Unpriced()), OVER_BUDGET)],
    ),
    Playbook(
        "the budget is asked again before another try at the same provider",
        "1 alpha",
        [
            (failed(K.SERVER_ERROR, status=500), FIRST_BACKOFF),
            (Elapsed(), "2 alpha"),
            (Skipped(OVER), "2 beta"),
            (Skipped(OVER), OVER_BUDGET),
        ],
    ),
    Playbook(
        "the budget is more useful to know than a failure that was free",
        "1 alpha",
        [(failed(K.ACCOUNT, status=401), "2 beta"), (Skipped(OVER), OVER_BUDGET)],
    ),
    Playbook(
        "what may have been paid is said before that nothing more may be",
        "1 alpha",
        [(failed(K.NO_ANSWER, UNKNOWN), "2 beta"), (Skipped(OVER), SPENT_REPLY)],
        {"consent": True},
    ),
    Playbook(
        "a provider that rests will come back before the day is over",
        "1 alpha",
        [(Skipped(OVER), "1 beta"), (Skipped(Resting(7.0)), ("rate_limited", 429, 7.0, None))],
    ),
    Playbook(
        "another's probe is waited for when the budget allows nothing else",
        "1 alpha",
        [
            (Skipped(Probing()), "1 beta"),
            (Skipped(OVER), AwaitProbe(("alpha",), PROBE_WAIT)),
            (ProbeSettled(), "1 alpha"),
            (Answered(), Deliver()),
        ],
    ),
]


@pytest.mark.parametrize("book", playbooks(BOOKS))
def test_playbook(book: Playbook) -> None:
    play(make_retry(**book.setup), book, show=show)


def walk(retry: Retry, *events: Any, now: float = 0.0) -> ErrorReply:
    """Drive to the end and return what the client is told."""
    command = retry.start()
    for event in events:
        command = retry.handle(event, now)
    assert isinstance(command, GiveUp)
    return command.error


@pytest.mark.parametrize("kind", FailureKind)
@pytest.mark.parametrize("money", Money)
def test_the_verdicts_are_total_and_nothing_follows_what_may_have_cost(
    kind: FailureKind, money: Money
) -> None:
    verdict = VERDICTS[kind][money]
    stays = {Verdict.STOP_UNLESS_CONSENT, Verdict.DELIVER_ERROR, Verdict.END}
    assert money is FREE or verdict in stays
    retry = make_retry()
    retry.start()
    command = retry.handle(failed(kind, money), 0.0)
    assert isinstance(command, GiveUp) == (verdict in stays)


def test_every_last_word_has_a_status_and_its_code_is_known() -> None:
    assert list(LAST_WORDS) == list(LastWord)
    for said in LastWord:
        of_a_provider = said in (LastWord.CLIENT_ERROR, LastWord.NOT_CAPABLE)
        assert (said.value in STATUS) is not of_a_provider
    assert not LAST_WORDS[LastWord.POSSIBLY_SPENT].waits


@pytest.mark.parametrize("kind", FailureKind)
@pytest.mark.parametrize("money", Money)
def test_every_failure_has_a_last_word(kind: FailureKind, money: Money) -> None:
    said = word_of(Failure(kind, money, "had it"))
    final = {K.CLIENT_ERROR: LastWord.CLIENT_ERROR, K.STREAM_CUT: LastWord.STREAM_INTERRUPTED}
    if kind in final:
        assert said is final[kind]
    else:
        assert (said is LastWord.POSSIBLY_SPENT) == (money is not FREE)


RESTS: Mapping[str, tuple[Failure, float | None]] = {
    "a 429 with its own time": (Failure(K.RATE_LIMITED, FREE, "x", 429, 7.0), 7.0),
    "a 429 without": (Failure(K.RATE_LIMITED, FREE, "x", 429), 1.0),
    "a 503 with its own time": (Failure(K.SERVER_ERROR, FREE, "x", 503, 7.0), 7.0),
    "a 503 without": (Failure(K.SERVER_ERROR, FREE, "x", 503), None),
    "a 500": (Failure(K.SERVER_ERROR, FREE, "x", 500), None),
    "a refused connection": (Failure(K.NOT_SENT, FREE, "x"), None),
}


@pytest.mark.parametrize(("failure", "seconds"), RESTS.values(), ids=RESTS)
def test_only_a_429_and_a_503_that_asks_for_it_rest_a_provider(
    failure: Failure, seconds: float | None
) -> None:
    assert rest_seconds(failure) == seconds


def test_the_header_counts_failed_attempts_in_order_of_first_failure() -> None:
    retry = make_retry("beta alpha gamma", max_retries=1)
    assert retry.failures_header() == ""
    retry.start()
    for event in (
        failed(K.SERVER_ERROR),
        Elapsed(),
        failed(K.SERVER_ERROR),
        failed(K.ACCOUNT, status=401),
        Skipped(CircuitOpen(30.0)),
    ):
        retry.handle(event, 0.0)
    assert retry.failures_header() == "2/beta, 1/alpha"
    assert len(retry._paid) == 0


def test_two_attempts_that_may_have_cost_are_counted() -> None:
    retry = make_retry(consent=True)
    walk(retry, failed(K.NO_ANSWER, UNKNOWN), failed(K.BAD_ANSWER, SPENT))
    assert len(retry._paid) == 2
    assert retry.failures_header() == "1/alpha, 1/beta"


@pytest.mark.parametrize(
    ("failure", "passed"),
    [
        (failed(K.NOT_CAPABLE, status=413), True),
        (failed(K.ERROR_ANSWER, status=200, own_status=400), True),
        (failed(K.ERROR_ANSWER, status=200, own_status=402), True),
        (failed(K.ERROR_ANSWER, status=200, own_status=429), True),
        # A client would take these for its own key, or for a model it spelt wrongly.
        (failed(K.ERROR_ANSWER, status=200, own_status=401), False),
        (failed(K.ERROR_ANSWER, status=200, own_status=404), False),
    ],
)
def test_the_first_ones_own_words_reach_the_client(failure: TryFailed, passed: bool) -> None:
    words, other = {"message": "first"}, {"message": "second"}
    first = replace(failure, failure=replace(failure.failure, error=words))
    second = replace(failure, failure=replace(failure.failure, error=other))
    error = walk(make_retry(), first, second)
    assert (error.passthrough is words) is passed
    assert "alpha had" in error.message
    assert "beta had" in error.message


def test_possibly_spent_says_who_what_and_how_to_send_it_again() -> None:
    error = walk(make_retry(), failed(K.NO_ANSWER, UNKNOWN))
    assert "alpha had no_answer (it may have been paid)." in error.message
    assert "`X-Arbstr-Respend: allow`" in error.message
    assert '`possibly_spent = "next"`' in error.message
    assert "beta" not in error.message


def test_possibly_spent_with_consent_does_not_ask_for_consent() -> None:
    retry = make_retry(consent=True)
    error = walk(retry, failed(K.NO_ANSWER, UNKNOWN), failed(K.NO_MODEL, status=404))
    assert "alpha had no_answer (it may have been paid); beta had no_model" in error.message
    assert "possibly_spent =" not in error.message


def test_the_message_names_every_provider_that_had_a_turn_and_why() -> None:
    retry = make_retry("alpha beta gamma delta", max_retries=0)
    error = walk(
        retry,
        failed(K.SERVER_ERROR, status=500),
        Skipped(CircuitOpen(12.2)),
        Skipped(Resting(3.0)),
        Skipped(Probing()),
        Elapsed(),
        Skipped(Probing()),
        now=1.0,
    )
    assert error.message.endswith(
        "alpha had server_error; "
        "beta failed too often and is left alone for 12 s more; "
        "gamma rests for 2 s more; "
        "delta failed too often and another request is trying it out."
    )


def test_a_rest_for_what_a_person_must_mend_says_what_that_is() -> None:
    error = walk(
        make_retry("alpha beta gamma"),
        Skipped(Resting(60.5, Reason.BALANCE)),
        Skipped(Resting(3.0, Reason.KEY)),
        Skipped(Resting(3.0, Reason.PATH)),
    )
    again = "and is asked again in {} s, or after a reload (SIGHUP)"
    assert error.message.endswith(
        f"alpha had too low a balance (top up its key) {again.format(61)}; "
        f"beta refused the key (check it) {again.format(3)}; "
        f"gamma had nothing at this path (check its url) {again.format(3)}."
    )


def test_who_charges_too_much_is_said_without_a_time_to_wait_for() -> None:
    error = walk(
        make_retry("alpha beta"),
        Skipped(Resting(3600.0, Reason.OVERCHARGE)),
        Skipped(Resting(inf, Reason.OVERCHARGE)),
    )
    assert (error.code, error.status, error.retry_after) == ("no_price_allowed", 400, None)
    assert error.message == (
        "Nobody else serves this, and its price is not allowed. alpha charged more than it said "
        "(see the log) and is asked again in 3600 s, or after a reload (SIGHUP); beta charged more "
        "than it said (see the log) and is asked again after a reload (SIGHUP) alone."
    )


@pytest.mark.parametrize(
    ("until", "shown"), [(-1.0, 0), (1.0, 0), (1.5, 1), (2.0, 1), (3.2, 3)], ids=str
)
def test_a_wait_is_told_in_whole_seconds_that_are_enough_and_never_below_0(
    until: float, shown: int
) -> None:
    retry = make_retry("alpha beta")
    error = walk(retry, Skipped(Resting(until)), Skipped(CircuitOpen(until)), now=1.0)
    assert error.message.endswith(
        f"alpha rests for {shown} s more; "
        f"beta failed too often and is left alone for {shown} s more."
    )


def test_the_budget_says_what_is_spent_and_reserved_and_when_the_day_ends() -> None:
    error = walk(make_retry(), Skipped(OVER), Skipped(Unpriced()))
    assert error.message == (
        "[budget] sats_per_day does not allow it. "
        "alpha could cost 5 sats, more than the budget has left; "
        "beta has no rates, so it cannot be held to the budget. "
        "Of the 1000 sats of today, 990.5 are spent and 8 reserved for requests in flight; "
        "the day ends at 00:00 UTC, in 3 h 12 min."
    )
    assert error.error_object()["type"] == "invalid_request_error"


def test_a_provider_that_may_not_be_asked_again_is_named_with_what_it_had_failed_with() -> None:
    again = failed(K.SERVER_ERROR, status=500), Elapsed()
    error = walk(make_retry("alpha"), *again, Skipped(OVER))
    assert (
        "alpha had server_error, and now it could cost 5 sats, more than the budget has left. "
        in error.message
    )
    error = walk(make_retry("alpha"), *again, Skipped(Resting(5.0)))
    assert "alpha had server_error, and now it rests for 5 s more." in error.message


def test_the_day_is_told_as_the_last_of_those_over_the_budget_found_it() -> None:
    later = replace(OVER, spent=Decimal(996), reserved=Decimal(0))
    error = walk(make_retry(), Skipped(OVER), Skipped(later))
    assert "996 are spent and 0 reserved for requests in flight" in error.message


def test_while_the_ledger_cannot_be_read_the_client_is_told_when_to_ask_again() -> None:
    error = walk(make_retry("alpha"), Skipped(LedgerUnread()), now=7.0)
    assert (error.code, error.retry_after) == ("budget_unavailable", LEDGER_AGAIN)


def test_who_was_not_asked_because_of_the_cap_is_named_with_both_figures() -> None:
    retry = make_retry(consent=True, max_sats=Decimal("1.5"))
    error = walk(retry, failed(K.NO_ANSWER, UNKNOWN))
    assert (
        "beta was not asked: all in all it could cost 2 sats, over 1.5 a request." in error.message
    )


def test_who_was_asked_is_not_also_named_as_not_asked() -> None:
    retry = make_retry("alpha alpha/mini", consent=True, max_sats=Decimal("1.5"))
    error = walk(retry, failed(K.NO_ANSWER, UNKNOWN))
    assert "was not asked" not in error.message


def test_who_may_not_be_asked_again_is_not_waited_for_either() -> None:
    names = " ".join(f"alpha/{n}" for n in range(MODELS_EACH)) + " beta"
    retry = make_retry(names, patience=5.0, costs=[1] * MODELS_EACH + [2])
    assert retry.start() is not None
    for n in range(1, MODELS_EACH):
        command = retry.handle(failed(K.RATE_LIMITED, retry_after=1.0), 0.0)
        assert show(command) == f"{n + 1} alpha"
    command = retry.handle(failed(K.RATE_LIMITED, retry_after=1.0), 0.0)
    assert show(command) == f"{MODELS_EACH + 1} beta"


def test_a_reason_is_given_once_however_many_models_it_is_for() -> None:
    retry = make_retry(" ".join(f"alpha/{n}" for n in range(300)))
    error = walk(retry, *[Skipped(Resting(5.0))] * 300)
    assert error.message.count("alpha rests for 5 s more") == 1


def test_many_reasons_are_cut_short() -> None:
    retry = make_retry(" ".join(f"alpha-{n}" for n in range(300)))
    error = walk(retry, *[Skipped(Resting(5.0))] * 300)
    assert error.message.endswith("alpha-49 rests for 5 s more; and 250 more.")


def test_a_client_error_passes_the_providers_error_object_through() -> None:
    told = {"message": "too long", "type": "x", "param": None, "code": "context_length_exceeded"}
    error = walk(make_retry(), failed(K.CLIENT_ERROR, status=400, error=told))
    assert error.error_object() is told
    assert (error.status, dict(error.headers())) == (400, {b"x-should-retry": b"false"})


def test_a_client_error_without_an_object_is_said_in_our_words() -> None:
    error = walk(make_retry(), failed(K.CLIENT_ERROR, status=422))
    assert error.message == "The request was refused. alpha had client_error."


def test_after_a_failed_probe_its_other_models_are_not_tried_again_either() -> None:
    """One of them was settled as free before: that alone would be a reason to come back."""
    retry = make_retry("alpha alpha/mini beta", max_retries=1)
    retry.start()
    settled = Failure(K.NO_ANSWER, FREE, "failed", settled=True)
    assert show(retry.handle(TryFailed(settled), 0.0)) == "2 alpha"
    assert (
        show(retry.handle(TryFailed(Failure(K.SERVER_ERROR, FREE, "failed", 500), probe=True), 0.0))
        == "3 beta"
    )
    assert isinstance(retry.handle(failed(K.SERVER_ERROR), 0.0), Sleep)
    assert show(retry.handle(Elapsed(), 0.0)) == "4 beta"
    assert isinstance(retry.handle(failed(K.SERVER_ERROR), 0.0), GiveUp)


def test_the_wait_after_a_failed_probe_is_for_whom_nobody_could_reach() -> None:
    retry = make_retry("alpha beta", max_retries=1)
    retry.start()
    retry.handle(failed(K.NOT_SENT), 0.0)
    assert isinstance(
        retry.handle(TryFailed(Failure(K.NOT_SENT, FREE, "failed"), probe=True), 0.0), Sleep
    )
    assert show(retry.handle(Elapsed(), 0.0)) == "3 alpha"


def test_the_backoff_stops_doubling() -> None:
    retry = make_retry("alpha", max_retries=5000)
    retry.start()
    for _ in range(2000):
        retry.handle(failed(K.NOT_SENT), 0.0)
        retry.handle(Elapsed(), 0.0)
    assert retry.handle(failed(K.NOT_SENT), 0.0) == Sleep(384.0, 640.0)


@pytest.mark.parametrize("event", [Elapsed(), ProbeSettled()])
def test_what_does_not_answer_an_attempt_is_our_own_bug(event: Any) -> None:
    retry = make_retry()
    retry.start()
    with pytest.raises(LocalProtocolError, match="does not answer"):
        retry.handle(event, 0.0)


@pytest.mark.parametrize("event", [Answered(), Elapsed(), Skipped(Probing())])
def test_nothing_comes_after_the_end(event: Any) -> None:
    retry = make_retry()
    retry.start()
    retry.handle(Answered(), 0.0)
    with pytest.raises(LocalProtocolError):
        retry.handle(event, 0.0)


def test_a_machine_is_started_once_first_and_with_candidates() -> None:
    retry = make_retry()
    with pytest.raises(LocalProtocolError):
        retry.handle(Answered(), 0.0)
    retry.start()
    with pytest.raises(LocalProtocolError):
        retry.start()
    with pytest.raises(LocalProtocolError):
        make_retry("")


def test_the_last_words_print_as_markdown() -> None:
    words = last_word_table()
    assert "| `possibly_spent` | 400 |  | false |" in words
    assert "| `circuit_open` | 503 | the soonest |  |" in words
    assert "| `client_error` | the provider's |  | false |" in words


# --- whatever happens -------------------------------------------------------------------------


ANY_FAILURE = st.builds(
    Failure,
    kind=st.sampled_from(FailureKind),
    money=st.sampled_from(Money),
    sentence=st.just("failed"),
    status=st.sampled_from([None, 200, 402, 429, 500, 503]),
    retry_after=st.sampled_from([None, 0.1, 7.0]),
    timed_out_connecting=st.booleans(),
    settled=st.booleans(),
)


class RetryMachine(RuleBasedStateMachine):
    """Everything a provider, the board and the clock can do, and what holds nevertheless."""

    @initialize(
        names=st.lists(
            st.sampled_from(["alpha", "beta", "gamma", "delta", "alpha/mini", "beta/mini"]),
            min_size=1,
            max_size=6,
            unique=True,
        ),
        max_retries=st.integers(0, 2),
        consent=st.sampled_from([False, True, True]),
        known=st.sets(st.sampled_from(["alpha", "beta"])),
    )
    def begin(self, names: list[str], max_retries: int, consent: bool, known: set[str]) -> None:
        self.max_retries, self.consent = max_retries, consent
        self.offers = tuple(names)
        self.now = 0.0
        self.failures: list[tuple[str, Failure, bool]] = []
        self.probed: set[str] = set()
        self.waited = 0.0
        self.steps = 0
        self.retry = make_retry(
            " ".join(names),
            max_retries=max_retries,
            consent=consent,
            no_stream_options=frozenset(known),
        )
        self.command = self.retry.start()

    def tell(self, event: Any) -> None:
        assert not isinstance(self.command, Deliver | GiveUp)
        self.steps += 1
        self.command = self.retry.handle(event, self.now)

    def fail(self, failure: Failure, probe: bool = False) -> None:
        assert isinstance(self.command, Attempt)
        self.failures.append((self.asked, failure, not self.command.add_usage))
        self.tell(TryFailed(failure, probe))

    @property
    def asked(self) -> str:
        assert isinstance(self.command, Attempt)
        return self.command.candidate.offer.provider.name

    def waits_on(self, kind: type[Command]) -> bool:
        return isinstance(self.command, kind)

    @precondition(lambda self: self.waits_on(Attempt))
    @rule()
    def the_provider_stumbles(self) -> None:
        self.fail(Failure(K.SERVER_ERROR, FREE, "failed", 500))

    @precondition(lambda self: self.waits_on(Attempt))
    @rule()
    def the_provider_refuses_stream_options(self) -> None:
        self.fail(Failure(K.NO_STREAM_OPTIONS, FREE, "failed", 400))

    @precondition(lambda self: self.waits_on(Attempt))
    @rule()
    def the_provider_hangs_up(self) -> None:
        self.fail(Failure(K.NO_ANSWER, UNKNOWN, "failed"))

    @precondition(lambda self: self.waits_on(Attempt))
    @rule(failure=ANY_FAILURE, probe=st.booleans())
    def the_attempt_fails(self, failure: Failure, probe: bool) -> None:
        if probe:
            self.probed.add(self.asked)
        self.fail(failure, probe)

    @precondition(lambda self: self.waits_on(Attempt))
    @rule(
        refused=st.sampled_from(
            [
                Resting(5.0),
                CircuitOpen(30.0),
                Probing(),
                OVER,
                Unpriced(),
                TooLow(1, 2, limited=True),
            ]
        ),
    )
    def the_board_or_the_budget_refuses(self, refused: Refused | NotWithinBudget | TooLow) -> None:
        self.tell(Skipped(refused))

    @precondition(lambda self: self.waits_on(Sleep))
    @rule()
    def the_backoff_is_over(self) -> None:
        assert isinstance(self.command, Sleep)
        assert 0 < self.command.at_least <= self.command.at_most
        self.now += self.command.at_most
        self.tell(Elapsed())
        assert self.waits_on(Attempt)
        unreached = {
            name
            for name, failure, _ in self.failures
            if failure.kind is K.NOT_SENT or failure.settled
        }
        assert self.asked in unreached | {self.failures[-1][0]}, "a backoff for somebody else"

    @precondition(lambda self: self.waits_on(AwaitProbe))
    @rule(part=st.sampled_from([0.5, 0.9, 1.0]), settled=st.booleans())
    def the_wait_for_a_probe_ends(self, part: float, settled: bool) -> None:
        assert isinstance(self.command, AwaitProbe)
        paid = {name for name, failure, _ in self.failures if failure.money is not FREE}
        assert self.command.providers
        assert not paid & set(self.command.providers)
        self.now += self.command.at_most * part
        self.waited += self.command.at_most * part
        assert self.waited <= PROBE_WAIT + 1e-9
        self.tell(ProbeSettled() if settled and part < 1 else Elapsed())
        assert self.waits_on(Attempt)

    # Early answers would end most conversations before they are interesting.
    @precondition(lambda self: self.waits_on(Attempt) and self.steps >= 4)
    @rule()
    def the_attempt_is_answered(self) -> None:
        self.tell(Answered())
        assert self.command == Deliver()

    @precondition(lambda self: isinstance(self.command, Deliver | GiveUp))
    @rule(event=st.sampled_from([Answered(), Elapsed(), ProbeSettled(), Skipped(Probing())]))
    def after_the_end_nothing_follows(self, event: Any) -> None:
        with pytest.raises(LocalProtocolError):
            self.retry.handle(event, self.now)

    @invariant()
    def nothing_is_paid_twice_without_consent(self) -> None:
        costly = [name for name, failure, _ in self.failures if failure.money is not FREE]
        assert len(costly) <= (2 if self.consent else 1)
        assert len(set(costly)) == len(costly), "a provider was paid twice"
        if costly and not self.consent:
            assert isinstance(self.command, GiveUp)
        if len(costly) == 2:
            assert isinstance(self.command, GiveUp)
        if isinstance(self.command, Attempt):
            assert self.asked not in costly

    @invariant()
    def a_probe_that_failed_is_a_single_attempt(self) -> None:
        assert not isinstance(self.command, Attempt) or self.asked not in self.probed

    @invariant()
    def tries_are_bounded_per_provider(self) -> None:
        for provider in ("alpha", "beta", "gamma", "delta"):
            offers = sum(name.partition("/")[0] == provider for name in self.offers)
            tries = [without for name, _, without in self.failures if name == provider]
            refused = [
                failure
                for name, failure, without in self.failures
                if name == provider and failure.kind is K.NO_STREAM_OPTIONS and not without
            ]
            assert len(refused) <= 1
            assert len(tries) <= offers + self.max_retries + len(refused)

    @invariant()
    def the_accounts_add_up(self) -> None:
        header = self.retry.failures_header()
        entries = (entry.partition("/") for entry in header.split(", ") if entry)
        counts = {name: int(count) for count, _, name in entries}
        names = [name for name, _, _ in self.failures]
        assert counts == {name: names.count(name) for name in names}
        assert list(counts) == list(dict.fromkeys(names))
        costly = sum(failure.money is not FREE for _, failure, _ in self.failures)
        assert len(self.retry._paid) == costly
        if isinstance(self.command, Attempt):
            assert self.command.n == len(self.failures) + 1

    @invariant()
    def the_client_is_never_led_to_pay_twice(self) -> None:
        if isinstance(self.command, GiveUp) and len(self.retry._paid):
            error = self.command.error
            assert error.retry_after is None
            assert error.should_retry is False
            assert error.code in ("possibly_spent", "client_error", "stream_interrupted")


RetryMachine.TestCase.settings = examples(50, stateful_step_count=40)
TestRetryMachine = RetryMachine.TestCase


@pytest.mark.parametrize("consent", [False, True])
@pytest.mark.parametrize("settles", [False, True])
def test_the_longest_conversation_ends(settles: bool, consent: bool) -> None:
    """The board and the providers at their most tiresome."""
    retry = make_retry("alpha beta gamma", max_retries=3, consent=consent)
    command, now = retry.start(), 0.0
    turns = 0
    while not isinstance(command, GiveUp):
        turns += 1
        assert turns < 200
        match command:
            case Attempt(add_usage=True) if turns % 2:
                command = retry.handle(failed(K.NO_STREAM_OPTIONS), now)
            case Attempt(candidate=asked) if asked.offer.provider.name == "beta":
                command = retry.handle(Skipped(Probing()), now)
            case Attempt():
                command = retry.handle(failed(K.SERVER_ERROR), now)
            case Sleep(at_most=at_most):
                now += at_most
                command = retry.handle(Elapsed(), now)
            case AwaitProbe(at_most=at_most):
                now += 0.5 if settles else at_most
                command = retry.handle(ProbeSettled() if settles else Elapsed(), now)
            case Deliver():
                pytest.fail("nobody answered")
