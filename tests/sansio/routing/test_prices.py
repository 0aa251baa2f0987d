"""What a node asks, from one listing to the next, and which model a name means."""

from dataclasses import replace
from decimal import Decimal

import pytest

from arbstr.sansio.money import Rates
from arbstr.sansio.routing.listing import Listed, Most
from arbstr.sansio.routing.prices import (
    AGED_SECONDS,
    FRESH_SECONDS,
    Age,
    Ambiguous,
    NodePrices,
    Price,
    PriceBook,
    age_of,
    kept,
    moved,
    over_ceiling,
    restored,
    scaled,
)


def listed(model: str = "m", rate: float = 2, *, names: tuple[str, ...] = ()) -> Listed:
    return Listed(model, names, Rates(Decimal(str(rate)), Decimal(str(rate * 3))))


def rate_of(book: PriceBook, model: str = "m") -> Decimal:
    assert book.prices is not None
    return book.prices.prices[model].rates.input_rate


def test_a_price_begins_with_its_first_listing_and_is_kept_as_long_as_it_stays() -> None:
    book = PriceBook()
    news = book.fetched([listed()], 100.0, 7)
    assert news.new == (Price(7, listed(), 100.0),)
    news = book.fetched([listed()], 220.0, 9)
    assert (news.new, news.gone, news.held) == ((), (), ())
    assert book.prices is not None
    assert (book.prices.fetched, book.prices.prices["m"].id) == (220.0, 7)


@pytest.mark.parametrize("rate", [0.7, 1.2, 2.8, 6])
def test_a_price_that_moves_by_up_to_three_times_is_believed_at_once(rate: float) -> None:
    book = PriceBook()
    book.fetched([listed()], 0.0, 1)
    assert book.fetched([listed(rate=rate)], 120.0, 2).new
    assert rate_of(book) == Decimal(str(rate))


@pytest.mark.parametrize("rate", [8, 0.5, 0])
def test_a_price_that_jumps_waits_for_the_next_listing(rate: float) -> None:
    book = PriceBook()
    book.fetched([listed()], 0.0, 1)
    news = book.fetched([listed(rate=rate)], 120.0, 2)
    assert (news.new, [held.model for held in news.held]) == ((), ["m"])
    assert rate_of(book) == 2
    news = book.fetched([listed(rate=rate)], 240.0, 3)
    assert [price.id for price in news.new] == [3]
    assert rate_of(book) == Decimal(str(rate))


def test_a_jump_that_is_taken_back_was_none() -> None:
    book = PriceBook()
    book.fetched([listed()], 0.0, 1)
    book.fetched([listed(rate=8)], 120.0, 2)
    book.fetched([listed()], 240.0, 3)
    assert book.fetched([listed(rate=8)], 360.0, 4).held, "it waits anew"
    assert rate_of(book) == 2


def test_a_second_jump_of_another_size_waits_again() -> None:
    book = PriceBook()
    book.fetched([listed()], 0.0, 1)
    book.fetched([listed(rate=8)], 120.0, 2)
    assert book.fetched([listed(rate=80)], 240.0, 3).held
    assert rate_of(book) == 2


def test_a_model_that_is_listed_no_more_is_gone_and_comes_back_as_new() -> None:
    book = PriceBook()
    book.fetched([listed(), listed("n")], 0.0, 1)
    assert book.fetched([listed("n")], 120.0, 5).gone == ("m",)
    assert book.prices is not None
    assert book.prices.find("m") is None
    assert [price.id for price in book.fetched([listed(), listed("n")], 240.0, 6).new] == [6]


@pytest.mark.parametrize(
    ("seconds", "age"),
    [
        (0, Age.FRESH),
        (FRESH_SECONDS, Age.FRESH),
        (FRESH_SECONDS + 1, Age.AGED),
        (AGED_SECONDS, Age.AGED),
        (AGED_SECONDS + 1, Age.OLD),
        (-3600, Age.FRESH),
    ],
)
def test_how_far_a_listing_is_relied_on(seconds: float, age: Age) -> None:
    assert age_of(1e9, 1e9 + seconds) is age


def prices(*models: Listed) -> NodePrices:
    book = PriceBook()
    book.fetched(models, 5.0, 1)
    assert book.prices is not None
    return book.prices


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("gpt-4o", "gpt-4o"),
        ("GPT-4O", "gpt-4o"),
        ("openai/gpt-4o", "gpt-4o"),
        ("gpt-4o-2024", "gpt-4o"),
        ("claude", "acme/claude"),
        ("acme/Claude", "acme/claude"),
        ("other/claude", None),
        ("gpt", None),
        ("", None),
    ],
)
def test_a_name_finds_its_model(name: str, found: str | None) -> None:
    node = prices(listed("gpt-4o", names=("gpt-4o-2024",)), listed("acme/claude"))
    price = node.find(name)
    assert price == (None if found is None else node.prices[found])


def test_an_exact_name_goes_before_all_others() -> None:
    node = prices(listed("a/m"), listed("m"), listed("M"))
    assert node.find("m") == node.prices["m"]


def test_a_name_that_may_mean_two_models_means_neither() -> None:
    node = prices(
        listed("a/m"), listed("b/m"), listed("x", names=("y",)), listed("z", names=("y",))
    )
    assert node.find("m") == Ambiguous(("a/m", "b/m"))
    assert node.find("y") == Ambiguous(("x", "z"))
    assert node.find("a/m") == node.prices["a/m"]


def test_what_is_kept_for_the_next_start_is_the_same_to_the_last_digit() -> None:
    rates = Rates(Decimal("2.0199999999999997"), Decimal("6.06"), Decimal("0.5"))
    most = Most(Decimal("28.28"), Decimal("16.16"), Decimal("12.12"))
    dear = replace(rates, cache_write_rate=Decimal("2.525"))
    node = prices(
        Listed("m", ("a", "b"), rates, most), Listed("o", (), dear, most, 200_000), listed("n")
    )
    assert restored(kept(node), 5.0) == node


def test_what_was_kept_without_what_is_written_to_a_cache_is_restored() -> None:
    old = '[[1,5.0,"m",[],"2","6","0.5"],[2,5.0,"n",[],"2","6",null,"28","16","12"]]'
    rates, most = Rates(Decimal(2), Decimal(6)), Most(Decimal(28), Decimal(16), Decimal(12))
    cached = replace(rates, cached_input_rate=Decimal("0.5"))
    found = restored(old, 5.0)
    assert found is not None
    assert found.prices["m"].listed == Listed("m", (), cached)
    assert found.prices["n"].listed == Listed("n", (), rates, most)


def test_an_aged_price_is_a_tenth_more_in_all_its_parts() -> None:
    rates = Rates(Decimal(2), Decimal(6), Decimal(1), Decimal(10), Decimal(3))
    more = scaled(rates, Decimal("1.1"))
    assert more == Rates(*map(Decimal, ("2.2", "6.6", "1.1", "11", "3.3")))


@pytest.mark.parametrize("text", ["", "{}", "[1]", "[[]]", '[["a"]]', "null"])
def test_what_was_never_kept_is_not_restored(text: str) -> None:
    found = restored(text, 0.0)
    assert found is None or not found.prices


def test_a_ceiling_refuses_what_is_above_it_and_says_by_how_much() -> None:
    ceiling = Rates(Decimal(5), Decimal(10))
    assert over_ceiling(Rates(Decimal(5), Decimal(10)), ceiling) is None
    assert over_ceiling(Rates(Decimal(5), Decimal("12.5")), ceiling) == (
        "costs 12.5 sats per 1000 output tokens, you allowed 10"
    )
    assert "input" in (over_ceiling(Rates(Decimal(6), Decimal(1)), ceiling) or "")


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        pytest.param({"cached_input_rate": 2, "cache_write_rate": 7}, None, id="as allowed"),
        pytest.param(
            {"cached_input_rate": 3},
            "costs 3 sats per 1000 tokens read from a cache, you allowed 2",
            id="read",
        ),
        pytest.param(
            {"cached_input_rate": 1, "cache_write_rate": 8},
            "costs 8 sats per 1000 tokens written to a cache, you allowed 7",
            id="written",
        ),
        pytest.param(
            {}, "costs 5 sats per 1000 tokens read from a cache, you allowed 2", id="as its input"
        ),
    ],
)
def test_each_typed_rate_is_a_ceiling_of_its_own(listed: dict[str, int], said: str | None) -> None:
    ceiling = Rates(Decimal(5), Decimal(10), Decimal(2), cache_write_rate=Decimal(7))
    more = {name: Decimal(rate) for name, rate in listed.items()}
    assert over_ceiling(replace(Rates(Decimal(5), Decimal(10)), **more), ceiling) == said


def test_what_is_not_typed_is_no_ceiling() -> None:
    asked = Rates(Decimal(5), Decimal(10), Decimal(6), cache_write_rate=Decimal(9))
    assert over_ceiling(asked, Rates(Decimal(5), Decimal(10))) is None


def test_what_a_cache_costs_jumps_and_moves_as_any_price() -> None:
    plain = Rates(Decimal(5), Decimal(10), Decimal(1), cache_write_rate=Decimal(6))
    for more in ({"cached_input_rate": Decimal(4)}, {"cache_write_rate": Decimal(19)}):
        dear = replace(plain, **more)
        assert moved(plain, dear)
        book = PriceBook()
        book.fetched([Listed("m", (), plain)], 0.0, 1)
        assert book.fetched([Listed("m", (), dear)], 1.0, 2).held
        assert book.fetched([Listed("m", (), dear)], 2.0, 2).new


def test_a_change_of_a_hundredth_is_worth_a_row() -> None:
    assert moved(listed(rate=100).rates, listed(rate=101).rates)
    assert not moved(listed(rate=100).rates, listed(rate=100.9).rates)
    assert moved(listed(rate=0).rates, listed(rate=1).rates)
