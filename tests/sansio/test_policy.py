"""Which rule a request is under."""

import pytest

from arbstr.sansio.config import Rule
from arbstr.sansio.errors import ErrorReply
from arbstr.sansio.policy import choose_policy
from tests.chats import chat

CODE = Rule("code", keywords=("code", "Implement", "c++", "größe"))


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        pytest.param("please code this", True, id="a word"),
        pytest.param("code", True, id="all of the text"),
        pytest.param("CODE!", True, id="in capitals"),
        pytest.param("implementing it", True, id="the start of a word"),
        pytest.param("please decode", False, id="the end of a word"),
        pytest.param("decode, then code", True, id="the end of one word and the start of another"),
        pytest.param("my_code", False, id="behind an underscore"),
        pytest.param("4code", False, id="behind a digit"),
        pytest.param("(code)", True, id="behind a bracket"),
        pytest.param("line\ncode", True, id="on another line"),
        pytest.param("write C++", True, id="a keyword with signs"),
        pytest.param("die GRÖSSE", True, id="a keyword that folds to more letters"),
        pytest.param("co de", False, id="in two words"),
        pytest.param("", False, id="no text"),
    ],
)
def test_a_keyword_matches_at_the_start_of_a_word(text: str, matches: bool) -> None:
    assert choose_policy(chat(text=text), None, (CODE,)) is (CODE if matches else None)


def test_the_first_rule_in_the_files_order_counts() -> None:
    one, two = Rule("one", keywords=("b",)), Rule("two", keywords=("a", "b"))
    assert choose_policy(chat(text="a b"), None, (one, two)) is one
    assert choose_policy(chat(text="a b"), None, (two, one)) is two


def test_only_the_last_user_message_is_looked_at() -> None:
    request = chat(
        messages=[
            {"role": "user", "content": "code"},
            {"role": "assistant", "content": "code"},
            {"role": "user", "content": [{"type": "text", "text": "tell me"}]},
            {"role": "assistant", "content": "code"},
        ]
    )
    assert choose_policy(request, None, (CODE,)) is None


def test_a_rule_found_by_keyword_is_passed_over_if_it_does_not_allow_the_model() -> None:
    narrow = Rule("narrow", allowed_models=("x",), keywords=("code",))
    wide = Rule("wide", allowed_models=("m",), keywords=("code",))
    assert choose_policy(chat(text="code"), None, (narrow, wide)) is wide
    assert choose_policy(chat(text="code"), None, (narrow,)) is None


def test_the_header_goes_before_the_keywords() -> None:
    other = Rule("other")
    assert choose_policy(chat(text="code"), " other ", (CODE, other)) is other
    assert choose_policy(chat(text="code"), "  ", (CODE, other)) is CODE


def test_a_rule_without_keywords_is_found_by_name_alone() -> None:
    assert choose_policy(chat(text="anything"), None, (Rule("quiet"),)) is None


def test_an_unknown_policy_is_refused_with_the_names_there_are() -> None:
    error = choose_policy(chat(), "cod", (CODE, Rule("other")))
    assert isinstance(error, ErrorReply)
    assert (error.status, error.code) == (400, "unknown_policy")
    assert error.message == 'There is no policy "cod". Policies: "code", "other".'
    error = choose_policy(chat(), "cod", ())
    assert isinstance(error, ErrorReply)
    assert error.message.endswith("None is configured.")


def test_half_a_surrogate_pair_in_a_name_can_be_sent_back() -> None:
    error = choose_policy(chat(), "\ud800" * 200, (Rule("r"),))
    assert isinstance(error, ErrorReply)
    assert b"?..." in error.body()
    assert len(error.body()) < 400
