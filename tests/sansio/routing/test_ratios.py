"""What answers teach of the next one's length: a moving average that no counting can spoil."""

from fractions import Fraction
from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.sansio.money import Usage
from arbstr.sansio.routing.ratios import (
    ALPHA,
    LONGEST_ANSWER,
    MOST_RATIO,
    NOTHING_LEARNT,
    OUTLIER,
    TRUSTED,
    Ratio,
    expected_output,
    restored,
    sample_of,
)
from tests.searching import examples

SAMPLE = st.floats(1 / 1000, MOST_RATIO)


def learnt(*samples: float) -> Ratio:
    ratio = NOTHING_LEARNT
    for sample in samples:
        ratio = ratio.after(sample)
    return ratio


# -- samples


@pytest.mark.parametrize(
    ("tokens_in", "tokens_out", "choices", "sample"),
    [
        pytest.param(7, 3, 1, 3 / 7, id="out by in"),
        pytest.param(10, 40, 4, 1.0, id="of one choice"),
        pytest.param(8, 1, 1, 1 / 8, id="a single token"),
        pytest.param(1, MOST_RATIO, 1, MOST_RATIO, id="the most there may be"),
        pytest.param(1, MOST_RATIO + 1, 1, None, id="more than there may be"),
        pytest.param(1, 10**400, 1, None, id="more than a float holds"),
        pytest.param(0, 40, 1, None, id="nothing went in"),
        pytest.param(40, 0, 1, None, id="nothing came out"),
        pytest.param(-1, -1, 1, None, id="less than nothing"),
    ],
)
def test_a_sample_is_what_one_choice_took_for_each_token_of_input(
    tokens_in: int, tokens_out: int, choices: int, sample: float | None
) -> None:
    assert sample_of(Usage(tokens_in, tokens_out), choices) == sample


def test_an_answer_whose_tokens_are_not_known_teaches_nothing() -> None:
    assert sample_of(None, 1) is None


# -- the average


@given(st.lists(SAMPLE, min_size=1, max_size=TRUSTED))
@examples(25)
def test_the_first_samples_make_a_plain_mean(samples: list[float]) -> None:
    mean = float(sum(map(Fraction, samples)) / len(samples))
    ratio = learnt(*samples)
    assert ratio.average == pytest.approx(mean)
    assert ratio.samples == len(samples)


def test_from_then_on_a_sample_moves_the_average_by_its_weight() -> None:
    after = learnt(*[2.0] * TRUSTED).after(4.0)
    assert after.average == pytest.approx(2 + ALPHA * 2)
    assert after.samples == TRUSTED + 1


def test_old_samples_are_forgotten() -> None:
    assert learnt(*[8.0] * 100, *[0.5] * 100).average == pytest.approx(0.5, abs=0.1)


@given(st.lists(SAMPLE, min_size=TRUSTED, max_size=60), SAMPLE)
@examples(25)
def test_one_sample_never_changes_a_trusted_average_by_half(
    samples: list[float], one: float
) -> None:
    before = learnt(*samples)
    after = before.after(one).average
    assert 0.5 * before.average < after < (1 + ALPHA * OUTLIER) * before.average
    assert after <= 1.5 * before.average
    assert after > 0


# -- what is made of it


def test_fewer_than_twenty_samples_are_not_used() -> None:
    assert expected_output(None, 100) is None
    assert expected_output(learnt(*[3.0] * 19), 100) is None
    assert expected_output(learnt(*[3.0] * 20), 100) == 300


@pytest.mark.parametrize(
    ("average", "tokens_in", "tokens_out"),
    [(0.004, 100, 1), (0.014, 100, 1), (0.016, 100, 2), (MOST_RATIO, 10**9, LONGEST_ANSWER)],
)
def test_an_answer_has_some_tokens_and_fits_into_a_model(
    average: float, tokens_in: int, tokens_out: int
) -> None:
    assert expected_output(Ratio(average, TRUSTED), tokens_in) == tokens_out


# -- kept


@pytest.mark.parametrize(
    ("average", "samples"),
    [
        *((bad, 20) for bad in (None, "0.5", b"", nan, inf, -inf, 0, -0.5, 1e300, MOST_RATIO + 1)),
        *((0.5, bad) for bad in (None, "20", 20.0, 0, -1)),
    ],
)
def test_what_nobody_could_have_learnt_is_not_taken_back(average: object, samples: object) -> None:
    assert restored(average, samples) is None


@given(st.lists(SAMPLE, min_size=1, max_size=40))
@examples(25)
def test_every_ratio_that_was_learnt_is_taken_back_as_it_was(samples: list[float]) -> None:
    ratio = learnt(*samples)
    assert restored(ratio.average, ratio.samples) == ratio


def test_the_largest_ratio_there_may_be_is_restored() -> None:
    assert restored(MOST_RATIO, 1) == Ratio(MOST_RATIO, 1)
