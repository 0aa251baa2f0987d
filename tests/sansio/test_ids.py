"""Ids of requests: UUIDs of version 7, in the order of time."""

from uuid import RFC_4122, UUID

from hypothesis import given
from hypothesis import strategies as st

from arbstr.sansio.ids import PER_MS, RANDOM_BITS, SET_BACK_MS, RequestIds

NOW = 1_770_091_506_789_000_000
MOMENTS = st.integers(0, 2**48 * 10**6 - 1)
CHANCE = st.integers(0, 2**RANDOM_BITS - 1)


@given(MOMENTS, CHANCE)
def test_an_id_is_a_uuid_of_version_7_and_begins_with_its_moment(now: int, chance: int) -> None:
    text = RequestIds().following(now, chance)
    made = UUID(text)
    assert str(made) == text
    assert (made.version, made.variant) == (7, RFC_4122)
    assert made.int >> 80 == now // 1_000_000
    assert made.int & (2**62 - 1) == chance


@given(st.lists(st.integers(0, 3000), min_size=2), st.lists(CHANCE, min_size=1))
def test_the_order_of_ids_is_that_of_their_making(steps: list[int], chances: list[int]) -> None:
    ids, now, made = RequestIds(), NOW, []
    for at, step in enumerate(steps):
        now += step
        made.append(ids.following(now, chances[at % len(chances)]))
    assert made == sorted(set(made))


def test_a_clock_that_is_put_back_a_little_is_waited_out_and_one_put_back_far_is_followed() -> None:
    ids = RequestIds()
    first = ids.following(NOW, 0)
    assert ids.following(NOW - (SET_BACK_MS - 1) * 1_000_000, 0) > first
    assert ids.following(NOW - 2 * SET_BACK_MS * 1_000_000, 0) < first


def test_the_example_of_the_standard() -> None:
    # RFC 9562 A.6: 2022-02-22 14:22:22 -05:00, rand_a 0xCC3, rand_b 0x18C4DC0C0C07398F.
    ns = 0x17F22E279B0 * 1_000_000 + -(-0xCC3 * 1_000_000 // PER_MS)
    made = RequestIds().following(ns, 0x18C4DC0C0C07398F)
    assert made == "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"


def test_they_are_made_fast_enough_for_any_load() -> None:
    # As many as there are ticks in a tenth of a second, all at once: still in order, and the last
    # is not ahead of the clock by more than that.
    ids = RequestIds()
    made = [ids.following(NOW, 0) for _ in range(PER_MS * 100)]
    assert UUID(made[-1]).int >> 80 == NOW // 1_000_000 + 99
