"""What a node lists, read; and what it will reserve, as the recorded node did."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from arbstr.sansio.money import Rates
from arbstr.sansio.routing.listing import (
    Listed,
    TooLow,
    parse_models,
    reservation_msats,
    too_low,
)
from tests.node import Model

CORPUS = Path(__file__).parents[2] / "corpus" / "node"


def recorded(name: str) -> bytes:
    """The body of a recorded answer."""
    text = (CORPUS / f"{name}.txt").read_bytes()
    return text.partition(b"--- response")[2].partition(b"\r\n\r\n")[2].partition(b"\n--- end")[0]


def listing(*models: object) -> bytes:
    return json.dumps({"data": list(models)}).encode()


def model(**more: Any) -> dict[str, Any]:
    return {"id": "m", "sats_pricing": {"prompt": 0.002, "completion": 0.006}, **more}


def parsed(body: bytes) -> tuple[Listed, ...]:
    found = parse_models(body)
    assert not isinstance(found, str), found
    return found


def test_the_recorded_node_lists_its_model_at_its_rates() -> None:
    (found,) = parsed(recorded("01-models"))
    assert found.model == "mock-model"
    # The shortest digits of its floats, times a thousand.
    assert found.rates == Rates(Decimal("2.0199999999999997"), Decimal("6.06"))


@pytest.mark.parametrize(
    ("characters", "max_tokens", "msats"),
    [(17, None, 12009), (17, 50, 314), (20, 50, 316), (20, None, 12011)],
)
def test_a_reservation_is_reckoned_as_the_recorded_node_did(
    characters: int, max_tokens: int | None, msats: int
) -> None:
    (found,) = parsed(recorded("01-models"))
    assert reservation_msats(found, characters, max_tokens) == msats


def test_what_a_prompt_beyond_the_context_takes_is_not_taken_off() -> None:
    (found,) = parsed(recorded("01-models"))
    assert reservation_msats(found, 10**6, None) == 27997


def test_a_node_that_does_not_say_what_it_may_reserve_is_believed_to_reserve_nothing_known() -> (
    None
):
    (found,) = parsed(listing(model()))
    assert reservation_msats(found, 10, None) is None


def test_a_key_is_too_low_for_certain_or_not_at_all() -> None:
    (found,) = parsed(listing(Model(0.002, 0.006).listed("m")))
    wanted = reservation_msats(found, 10, None)
    assert wanted is not None
    assert too_low(found, 10, None, wanted) is None
    assert too_low(found, 10, None, wanted - 1) == TooLow(wanted - 1, wanted, limited=False)
    assert too_low(found, 10, 10, wanted - 1) is None, "less is reserved for it"
    (silent,) = parsed(listing(model()))
    assert too_low(silent, 10, None, 0) is None, "nobody knows what it reserves"


@pytest.mark.parametrize(
    "without_price",
    [
        model(sats_pricing=None),
        model(sats_pricing={"prompt": 0, "completion": 0}),
        model(sats_pricing={"prompt": -0.002, "completion": 0.006}),
        model(sats_pricing={"prompt": 0.002}),
        model(sats_pricing={"prompt": "0.002", "completion": 0.006}),
        model(sats_pricing={"prompt": True, "completion": 0.006}),
        model(sats_pricing={"prompt": 1e9, "completion": 0.006}),
        model(enabled=False),
        model(id=""),
        model(id=7),
        model(id="a\nb"),
        model(id="m" * 300),
        "m",
        None,
    ],
)
def test_what_has_no_price_is_not_listed(without_price: object) -> None:
    assert [found.model for found in parsed(listing(without_price, model(id="good")))] == ["good"]


def test_numbers_that_are_none_are_no_price() -> None:
    body = b'{"data":[{"id":"m","sats_pricing":{"prompt":NaN,"completion":1e999999999}}]}'
    assert isinstance(parse_models(body), str)


def test_a_model_free_to_read_is_listed() -> None:
    (found,) = parsed(listing(model(sats_pricing={"prompt": 0, "completion": 0.006})))
    assert found.rates.input_rate == 0


def test_tokens_from_a_cache_have_a_price_of_their_own_if_it_is_not_zero() -> None:
    pricing = {"prompt": 0.002, "completion": 0.006, "input_cache_read": 0.0005}
    (found,) = parsed(listing(model(sats_pricing=pricing)))
    assert found.rates.cached_input_rate == Decimal("0.5")
    pricing["input_cache_read"] = 0.0
    (found,) = parsed(listing(model(sats_pricing=pricing)))
    assert found.rates.cached_input_rate is None


def test_so_have_tokens_written_to_one() -> None:
    pricing = {"prompt": 0.002, "completion": 0.006, "input_cache_write": 0.0025}
    (found,) = parsed(listing(model(sats_pricing=pricing)))
    assert found.rates.cache_write_rate == Decimal("2.5")
    pricing["input_cache_write"] = 0.0
    (found,) = parsed(listing(model(sats_pricing=pricing)))
    assert found.rates.cache_write_rate is None


@pytest.mark.parametrize(
    ("more", "tokens"),
    [
        ({"context_length": 9, "top_provider": {"context_length": 8}}, 8),
        ({"context_length": 9, "top_provider": {"context_length": None}}, 9),
        ({"context_length": 9, "top_provider": None}, 9),
        ({"context_length": 0}, None),
        ({"context_length": True}, None),
        ({"context_length": "9"}, None),
        ({"context_length": 2**31}, None),
        ({}, None),
    ],
)
def test_a_context_is_what_is_served_and_not_what_could_be(
    more: dict[str, Any], tokens: int | None
) -> None:
    (found,) = parsed(listing(model(**more)))
    assert found.context == tokens


def test_aliases_and_slugs_are_other_names() -> None:
    (found,) = parsed(listing(model(alias_ids=["m", "a", 7, "a"], canonical_slug="v/m-2024")))
    assert found.names == ("a", "v/m-2024")


@pytest.mark.parametrize(
    "body", [b"", b"[", b"[" * 100_000, b"7", b"{}", b'{"data":{}}', b'"x"', b"\xff", b"null"]
)
def test_anything_else_is_said_to_be_no_listing(body: bytes) -> None:
    assert isinstance(parse_models(body), str)


def test_a_node_without_models_lists_none() -> None:
    assert parse_models(b'{"data":[]}') == ()
