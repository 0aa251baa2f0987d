"""How soon a provider answers: streams are measured, plain answers stand in until there is one."""

import pytest

from arbstr.sansio.routing.latency import ALPHA, Latency


def measured(*answers: tuple[float, str]) -> Latency | None:
    latency: Latency | None = None
    for seconds, what in answers:
        latency = Latency.after(latency, seconds, stream=what == "stream")
    return latency


def test_the_first_answer_is_the_average() -> None:
    assert measured((2.0, "stream")) == Latency(2.0, True)
    assert measured((2.0, "plain")) == Latency(2.0, False)


def test_each_further_one_moves_it_by_its_weight() -> None:
    for what in ("stream", "plain"):
        latency = measured((2.0, what), (3.0, what))
        assert latency is not None
        assert latency.seconds == pytest.approx(2.0 + ALPHA)


def test_the_first_stream_replaces_what_plain_answers_taught() -> None:
    assert measured((9.0, "plain"), (9.0, "plain"), (0.5, "stream")) == Latency(0.5, True)


def test_a_plain_answer_says_nothing_of_a_provider_that_streams() -> None:
    assert measured((0.5, "stream"), (9.0, "plain")) == Latency(0.5, True)
