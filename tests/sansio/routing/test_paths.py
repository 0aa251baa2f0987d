"""Which APIs turned out not to be served where."""

import pytest

from arbstr.sansio.config.reader import parse_config
from arbstr.sansio.endpoints import ENDPOINTS
from arbstr.sansio.routing.catalog import Offer, build_catalog
from arbstr.sansio.routing.paths import Paths

TEXT = """
[[providers]]
name = "alpha"
url = "https://alpha.example"
models = ["m", "n"]
endpoints = ["chat", "responses"]
model_endpoints = { n = ["embeddings"] }

[[providers]]
name = "beta"
url = "https://beta.example"
models = ["m", "n"]
"""


def offer(provider: str, model: str = "m") -> Offer:
    catalog = build_catalog(parse_config(TEXT, {}))
    return next(each for each in catalog.offers(model) if each.provider.name == provider)


@pytest.fixture
def paths() -> Paths:
    return Paths()


def test_the_configuration_says_it_first(paths: Paths) -> None:
    served = [name for name in ENDPOINTS if not paths.lacks(offer("alpha"), name)]
    assert served == ["chat", "responses"]
    assert [name for name in ENDPOINTS if not paths.lacks(offer("alpha", "n"), name)] == [
        "embeddings"
    ]
    assert not any(paths.lacks(offer("beta"), name) for name in ENDPOINTS)
    assert paths.missing("alpha") == {}  # nothing turned out


def test_what_turned_out_to_be_missing_holds_for_every_model(paths: Paths) -> None:
    assert paths.miss(offer("beta"), "responses", for_the_model=False)
    assert paths.lacks(offer("beta"), "responses")
    assert paths.lacks(offer("beta", "n"), "responses")
    assert not paths.lacks(offer("beta"), "embeddings")
    assert not paths.lacks(offer("alpha"), "responses")
    assert paths.missing("beta") == {"responses": None}


def test_of_a_node_it_holds_for_that_model_alone(paths: Paths) -> None:
    paths.miss(offer("beta", "n"), "responses", for_the_model=True)
    paths.miss(offer("beta"), "responses", for_the_model=True)
    paths.miss(offer("beta"), "messages", for_the_model=True)
    assert paths.lacks(offer("beta", "n"), "responses")
    assert not paths.lacks(offer("beta", "n"), "messages")
    assert paths.missing("beta") == {"messages": ["m"], "responses": ["m", "n"]}


def test_chat_is_missing_only_where_something_else_was_answered(paths: Paths) -> None:
    assert not paths.miss(offer("beta"), "chat", for_the_model=False)
    assert not paths.lacks(offer("beta"), "chat")
    paths.serve("alpha", "responses")
    assert not paths.miss(offer("beta"), "chat", for_the_model=False)
    paths.serve("beta", "responses")
    assert paths.miss(offer("beta"), "chat", for_the_model=False)
    assert paths.lacks(offer("beta"), "chat")


def test_a_reload_forgets_what_was_missing_and_the_paths_of_those_that_left(paths: Paths) -> None:
    paths.serve("alpha", "chat")
    paths.serve("beta", "chat")
    paths.miss(offer("beta"), "responses", for_the_model=False)
    paths.retain({"beta"})
    assert not paths.lacks(offer("beta"), "responses")
    assert paths.serves("beta", "chat")
    assert not paths.serves("beta", "responses")
    assert not paths.serves("alpha", "chat")
