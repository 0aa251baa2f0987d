"""Which rule a request is under."""

from typing import Final
from unicodedata import normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbstr.sansio.config.reader import Rule
from arbstr.sansio.errors import ErrorReply
from arbstr.sansio.routing.policy import choose_policy
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


@pytest.mark.parametrize(
    ("keyword", "text", "matches"),
    [
        pytest.param("代码", "代码怎么写", True, id="Han at the start"),
        pytest.param("代码", "写一段代码", True, id="Han behind Han"),
        pytest.param("コード", "このコードを直して", True, id="Katakana behind Hiragana"),
        pytest.param("ひらがな", "漢字とひらがな", True, id="Hiragana"),
        pytest.param("โค้ด", "เขียนโค้ดให้หน่อย", True, id="Thai"),
        pytest.param("ລະຫັດ", "ຂຽນລະຫັດ", True, id="Lao"),
        pytest.param("កូដ", "សរសេរកូដ", True, id="Khmer"),
        pytest.param("ကုဒ်", "ရေးကုဒ်", True, id="Burmese"),
        pytest.param("𠮷野", "牛丼𠮷野家", True, id="Han beyond 16 bits"),
        pytest.param("々", "人々", True, id="a mark that repeats"),
        pytest.param("代码", "mein代码", True, id="Han behind Latin"),
        pytest.param("code", "写code吧", True, id="Latin behind Han"),
        pytest.param("code", "写decode吧", False, id="Latin behind Latin, among Han"),
        pytest.param("코드", "이코드", False, id="Korean has blanks"),
        pytest.param("코드", "이 코드를", True, id="Korean at the start"),
        pytest.param("code", "unicodé code", True, id="behind an accent and a blank"),
        pytest.param("code", "écode e\u0301code q\u0301code", False, id="behind accents"),
        pytest.param("café", "ein cafe\u0301 bitte", True, id="NFC in the rule, NFD in the text"),
        pytest.param("cafe\u0301", "ein CAFÉ bitte", True, id="NFD in the rule, NFC in the text"),
        pytest.param("cafe", "café cafe\u0301", False, id="another letter, however written"),
        pytest.param("cafe", "cafe\u0301 cafes", True, id="another letter first"),
        pytest.param("カ", "カ\u3099 ガ", False, id="another Japanese letter"),
        pytest.param("ガ", "カ\u3099", True, id="Japanese in NFD"),
        pytest.param("가", "\u1100\u1161\u11a8", False, id="another Korean syllable"),
        pytest.param("각", "\u1100\u1161\u11a8", True, id="Korean in NFD"),
        pytest.param("ताल", "पाताल", False, id="inside of a Hindi word, behind a vowel sign"),
        pytest.param("ताल", "वह। ताल", True, id="behind a Hindi full stop"),
        pytest.param("c++", "c++20 abc++", True, id="signs of a pattern"),
        pytest.param("c++", "abc++", False, id="signs of a pattern inside of a word"),
        pytest.param("[a-z]", "x", False, id="not a pattern"),
        pytest.param(" code ", "code", True, id="blanks around a keyword"),
    ],
)
def test_words_begin_in_every_script(keyword: str, text: str, matches: bool) -> None:
    rule = Rule("r", keywords=(keyword,))
    assert choose_policy(chat(text=text), None, (rule,)) is (rule if matches else None)


LETTERS: Final = st.text("code_éèq代カガパ -", max_size=20)


@given(LETTERS.map(str.strip).filter(bool), LETTERS)
def test_it_does_not_matter_how_accents_are_written(keyword: str, text: str) -> None:
    found = {
        choose_policy(chat(text=normalize(one, text)), None, (Rule("r", keywords=(other_way,)),))
        is not None
        for one in ("NFC", "NFD")
        for other_way in (normalize("NFC", keyword), normalize("NFD", keyword))
    }
    assert len(found) == 1


@given(
    st.text("code_ +-9\n", min_size=1, max_size=3).filter(str.strip),
    st.text("code_ +-9\n", max_size=30),
)
def test_a_keyword_is_found_as_the_rule_is_written(keyword: str, text: str) -> None:
    wanted = keyword.strip()
    begins = any(
        text.startswith(wanted, at)
        and (at == 0 or not (text[at - 1].isalnum() or text[at - 1] == "_"))
        for at in range(len(text))
    )
    rule = Rule("r", keywords=(keyword,))
    assert (choose_policy(chat(text=text), None, (rule,)) is rule) == begins


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
