"""Who answered a conversation last."""

import pytest

from arbstr.sansio.routing.affinity import KEPT_SECONDS, MOST_KEPT, Affinity, Home

ALPHA = Home("alpha", "m", 100)
BETA = Home("beta", "m", 300)


@pytest.fixture
def affinity() -> Affinity:
    return Affinity(b"k" * 16)


def test_the_last_answer_counts(affinity: Affinity) -> None:
    key = affinity.key_of("m", "hello")
    assert affinity.home(key, 0.0) is None
    affinity.answered(key, ALPHA, 0.0)
    assert affinity.home(key, 1.0) == ALPHA
    affinity.answered(key, BETA, 1.0)
    assert affinity.home(key, 2.0) == BETA
    assert len(affinity) == 1


def test_of_another_text_model_or_process_it_is_another_conversation(affinity: Affinity) -> None:
    keys = {
        affinity.key_of("m", "hello"),
        affinity.key_of("m", "hello!"),
        affinity.key_of("m2", "hello"),
        Affinity(b"l" * 16).key_of("m", "hello"),
    }
    assert len(keys) == 4


def test_no_text_can_be_read_from_what_is_kept(affinity: Affinity) -> None:
    key = affinity.key_of("m", "my secret")
    assert len(key) == 16
    assert b"secret" not in key


def test_half_a_surrogate_pair_is_a_text_like_others(affinity: Affinity) -> None:
    assert affinity.key_of("m", "\ud800") != affinity.key_of("m", "\udc00")


def test_an_hour_after_its_last_answer_it_is_forgotten(affinity: Affinity) -> None:
    old, new = (affinity.key_of("m", text) for text in ("old", "new"))
    affinity.answered(old, ALPHA, 0.0)
    assert affinity.home(old, KEPT_SECONDS) == ALPHA
    assert affinity.home(old, KEPT_SECONDS + 1) is None
    affinity.answered(new, ALPHA, KEPT_SECONDS + 1)
    assert len(affinity) == 1


def test_an_answer_keeps_it_for_another_hour(affinity: Affinity) -> None:
    key, other = (affinity.key_of("m", text) for text in ("one", "other"))
    affinity.answered(key, ALPHA, 0.0)
    affinity.answered(other, BETA, 1.0)
    affinity.answered(key, ALPHA, KEPT_SECONDS)
    affinity.answered(affinity.key_of("m", "third"), ALPHA, KEPT_SECONDS + 2)
    assert affinity.home(key, KEPT_SECONDS + 2) == ALPHA
    assert affinity.home(other, KEPT_SECONDS + 2) is None


def test_the_oldest_goes_when_there_are_too_many(affinity: Affinity) -> None:
    keys = [affinity.key_of("m", str(n)) for n in range(MOST_KEPT + 1)]
    for key in keys:
        affinity.answered(key, ALPHA, 0.0)
    assert len(affinity) == MOST_KEPT
    assert affinity.home(keys[0], 0.0) is None
    assert affinity.home(keys[1], 0.0) == ALPHA
