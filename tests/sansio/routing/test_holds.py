"""How much output a request is held to, what that rests on, and what is said of it."""

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.sansio.config.settings import LIKELY, MOST
from arbstr.sansio.routing.holds import (
    KEPT,
    LEAST_HELD,
    MOST_PAIRS,
    NOTHING_KNOWN,
    UNTIL_KNOWN,
    Hold,
    Known,
    Lengths,
    hold_tokens,
)
from arbstr.sansio.routing.ratios import LONGEST_ANSWER, TRUSTED


@pytest.mark.parametrize(
    ("allowed", "likely", "mode", "tokens"),
    [
        pytest.param(32_000, None, MOST, 32_000, id="most is the client's maximum"),
        pytest.param(32_000, 900, MOST, 32_000, id="most is it whatever was learnt"),
        pytest.param(5, None, MOST, 5, id="most is it however little"),
        pytest.param(None, None, MOST, UNTIL_KNOWN, id="most without a maximum is as likely"),
        pytest.param(None, 900, MOST, 900, id="most without a maximum is what was learnt"),
        pytest.param(32_000, None, LIKELY, UNTIL_KNOWN, id="nothing known"),
        pytest.param(
            UNTIL_KNOWN + 1, None, LIKELY, UNTIL_KNOWN, id="one more than that is allowed"
        ),
        pytest.param(4095, None, LIKELY, 4095, id="nothing known, but less is allowed"),
        pytest.param(None, None, LIKELY, UNTIL_KNOWN, id="nothing known, no maximum"),
        pytest.param(32_000, 900, LIKELY, 900, id="what was learnt"),
        pytest.param(32_000, 9000, LIKELY, 9000, id="what was learnt, above what was guessed"),
        pytest.param(899, 900, LIKELY, 899, id="what was learnt, but less is allowed"),
        pytest.param(32_000, 1, LIKELY, LEAST_HELD, id="never less than a few paragraphs"),
        pytest.param(None, 1, LIKELY, LEAST_HELD, id="never less, without a maximum"),
        pytest.param(LEAST_HELD - 1, 1, LIKELY, LEAST_HELD - 1, id="unless less is allowed"),
        pytest.param(1, 1, LIKELY, 1, id="a single token is allowed"),
    ],
)
def test_a_choice_is_held_to(
    allowed: int | None, likely: int | None, mode: str, tokens: int
) -> None:
    assert hold_tokens(allowed, likely, mode) == tokens


def test_the_figures_are_those_of_the_table() -> None:
    assert (KEPT, TRUSTED, UNTIL_KNOWN, LEAST_HELD) == (500, 20, 4096, 256)


def learnt(*tokens: int, choices: int = 1) -> Known:
    lengths = Lengths()
    for each in tokens:
        lengths.learn(None, "m", each, choices)
    return lengths.known(None, "m")


def test_twenty_answers_are_known_by_what_nineteen_of_them_took() -> None:
    assert learnt() == NOTHING_KNOWN
    assert learnt(*range(1, TRUSTED)) == Known(TRUSTED - 1, None)
    assert learnt(*range(1, TRUSTED + 1)) == Known(TRUSTED, 19)
    assert learnt(*range(1, TRUSTED + 2)) == Known(21, 20)
    assert learnt(*range(100, 0, -1)) == Known(100, 95)


def test_exactly_the_last_answers_are_remembered() -> None:
    long_ago = [9000] * 26
    assert learnt(*long_ago, *[1] * (KEPT - 26)) == Known(KEPT, 9000)
    # 25 of 500 is one of 20; one of those 26 is forgotten.
    assert learnt(*long_ago, *[1] * (KEPT - 25)) == Known(KEPT, 1)


def test_several_choices_share_the_tokens_rounded_up() -> None:
    assert learnt(*[10] * TRUSTED, choices=3) == Known(TRUSTED, 4)


def test_an_answer_without_output_teaches_nothing_and_an_endless_one_is_cut() -> None:
    assert learnt(0, -5) == NOTHING_KNOWN
    assert learnt(*[10**15] * TRUSTED) == Known(TRUSTED, LONGEST_ANSWER)


def test_policies_and_models_are_known_apart() -> None:
    lengths = Lengths()
    for _ in range(TRUSTED):
        lengths.learn("code", "m", 7, 1)
        lengths.learn("", "m", 9, 1)
    assert lengths.known("code", "m") == Known(TRUSTED, 7)
    assert lengths.known(None, "m") == Known(TRUSTED, 9)
    assert lengths.known("code", "other") == NOTHING_KNOWN


def test_of_too_many_pairs_those_are_forgotten_that_had_no_answer_for_longest() -> None:
    lengths = Lengths()
    lengths.learn(None, "old", 1, 1)
    lengths.learn(None, "used", 1, 1)
    for n in range(MOST_PAIRS - 2):
        lengths.learn(None, f"m{n}", 1, 1)
    lengths.learn(None, "used", 1, 1)
    lengths.learn(None, "new", 1, 1)
    assert lengths.known(None, "old") == NOTHING_KNOWN
    assert [lengths.known(None, m).answers for m in ("used", "m0", "new")] == [2, 1, 1]
    lengths.learn(None, "newer", 1, 1)
    assert [lengths.known(None, m).answers for m in ("used", "m0", "newer")] == [2, 0, 1]


@given(st.lists(st.integers(1, 5), max_size=KEPT + 50).map(lambda few: few * 3))
def test_only_the_last_answers_count(tokens: list[int]) -> None:
    last = sorted(deque(tokens, maxlen=KEPT))
    found = learnt(*tokens)
    assert found.answers == len(last)
    if found.likely is not None:
        assert sum(each <= found.likely for each in last) * 20 >= 19 * len(last)
        assert sum(each < found.likely for each in last) * 20 < 19 * len(last)


@pytest.mark.parametrize(
    ("hold", "reason"),
    [
        pytest.param(
            Hold(1, 32_000, 1, 32_000, 0, MOST),
            "the request allows 32000 tokens of output",
            id="all that is allowed",
        ),
        pytest.param(
            Hold(1, 200, 3, 200, 50, LIKELY),
            "the request allows 200 tokens of output in each of 3 choices",
            id="all that is allowed, several times",
        ),
        pytest.param(
            Hold(1, 4096, 1, 32_000, 19, LIKELY),
            "the request allows 32000 tokens of output, and 4096 are reckoned with until 20 "
            "answers are known",
            id="too little is known",
        ),
        pytest.param(
            Hold(1, 4096, 2, None, 0, LIKELY),
            "the request has no max_tokens, and 4096 tokens of output in each of 2 choices are "
            "reckoned with until 20 answers are known",
            id="no maximum",
        ),
        pytest.param(
            Hold(1, 900, 1, 32_000, 20, LIKELY),
            "the request allows 32000 tokens of output, and 900 is what 19 of 20 such answers "
            "take at most",
            id="learnt",
        ),
        pytest.param(
            Hold(1, 256, 1, 32_000, 20, LIKELY),
            "the request allows 32000 tokens of output, and at least 256 are reckoned with",
            id="learnt less than is held at least",
        ),
    ],
)
def test_the_reason_says_which_figure_was_used(hold: Hold, reason: str) -> None:
    assert hold.reason == reason


@pytest.mark.parametrize(
    ("allowed", "mode", "mend"),
    [
        (9, MOST, '; lower its max_tokens, raise KEY or set hold = "likely".'),
        (9, LIKELY, "; lower its max_tokens or raise KEY."),
        (None, LIKELY, "; give it a max_tokens or raise KEY."),
    ],
)
def test_the_remedy_says_which_figure_it_was_and_what_can_be_changed(
    allowed: int | None, mode: str, mend: str
) -> None:
    hold = Hold(1, 9, 1, allowed, 0, mode)
    assert hold.remedy("KEY") == f'So much, because {hold.reason} ([budget] hold = "{mode}"){mend}'
