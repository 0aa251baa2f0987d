"""Who keeps what a request refers to, and where it may go for it."""

from collections.abc import Sequence
from decimal import Decimal

import pytest

from arbstr.sansio.config.reader import AUTO
from arbstr.sansio.dialects.dialect import Reference, Stored
from arbstr.sansio.errors import ErrorReply
from arbstr.sansio.money import Rates, Usage
from arbstr.sansio.routing.catalog import Offer
from arbstr.sansio.routing.origins import MOST_KEPT, Origin, Origins
from tests.candidates import candidate

RATES = Rates(Decimal(1), Decimal(1))
USAGE = Usage(100, 20)


def offer(provider: str, model: str = "m") -> Offer:
    return candidate(provider, model, rates=RATES).offer


def ref(id_: str) -> Reference:
    return Reference(id_, f"`{id_}`", "param", "input")


OFFERS = (offer("alpha"), offer("alpha", "other"), offer("beta"))


@pytest.fixture
def origins() -> Origins:
    known = Origins()
    known.answered(Stored(("resp_1",), ("rs_1", "msg_1")), "beta", "m", USAGE)
    return known


def refused(found: tuple[Sequence[Offer], int] | ErrorReply) -> str:
    assert isinstance(found, ErrorReply)
    assert (found.status, found.code, found.param) == (400, "unsupported_parameter", "param")
    assert found.message.endswith(" Send the whole conversation in `input` instead.")
    return found.message


def test_it_goes_to_whom_it_is_kept_by_and_its_tokens_are_input_again(origins: Origins) -> None:
    assert origins.bound([ref("resp_1")], "m", OFFERS) == ((OFFERS[2],), 120)


def test_a_part_is_as_long_as_the_answer_it_is_of_however_many_there_are(origins: Origins) -> None:
    assert origins.bound([ref("rs_1")], "m", OFFERS) == ((OFFERS[2],), 20)
    assert origins.bound([ref("rs_1"), ref("msg_1")], "m", OFFERS) == ((OFFERS[2],), 20)


def test_without_usage_nothing_is_added(origins: Origins) -> None:
    origins.answered(Stored(("resp_2",)), "alpha", "m", None)
    assert origins.bound([ref("resp_2")], "m", OFFERS[:1]) == ((OFFERS[0],), 0)


def test_nobody_knows_who_keeps_it(origins: Origins) -> None:
    assert "does not know which" in refused(origins.bound([ref("resp_9")], "m", OFFERS))
    both = [ref("resp_1"), ref("resp_9")]
    assert "`resp_9`" in refused(origins.bound(both, "m", OFFERS))


def test_different_providers_keep_it(origins: Origins) -> None:
    origins.answered(Stored(("resp_2",)), "alpha", "m", USAGE)
    told = refused(origins.bound([ref("resp_1"), ref("resp_2")], "m", OFFERS))
    assert "alpha, beta" in told


def test_who_keeps_it_does_not_serve_the_model(origins: Origins) -> None:
    told = refused(origins.bound([ref("resp_1")], "other", OFFERS[:2]))
    assert 'provider beta keeps, and that does not serve "other"' in told


def test_who_lets_arbstr_choose_goes_on_with_the_model_it_began_with(origins: Origins) -> None:
    offers = (*OFFERS, offer("beta", "other"))
    assert origins.bound([ref("resp_1")], AUTO, offers) == ((OFFERS[2],), 120)
    assert '"m"' in refused(origins.bound([ref("resp_1")], AUTO, offers[3:]))


def test_the_last_answer_with_an_id_counts(origins: Origins) -> None:
    origins.answered(Stored(("resp_1",)), "alpha", "other", USAGE)
    assert origins.of("resp_1") == Origin("alpha", "other", 120)


def test_the_oldest_are_forgotten(origins: Origins) -> None:
    for number in range(MOST_KEPT - 1):
        origins.answered(Stored((f"r{number}",)), "alpha", "m", None)
    assert origins.of("resp_1") is not None
    assert origins.of("rs_1") is None
    origins.answered(Stored(("one more",)), "alpha", "m", None)
    assert origins.of("resp_1") is None


def test_what_is_deleted_and_whose_provider_is_gone_is_forgotten(origins: Origins) -> None:
    origins.answered(Stored(("resp_2",)), "alpha", "m", None)
    origins.retain(["beta"])
    assert origins.of("resp_2") is None
    assert origins.of("resp_1") is not None
    origins.forget("resp_1")
    origins.forget("resp_1")
    assert origins.of("resp_1") is None
