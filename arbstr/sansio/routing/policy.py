"""Which rule a request is under: the one its header names, else the first one a keyword finds.

    header, else the last user message --choose_policy--> rule, none, or there is no such rule

What the rule then allows is `plan.py`.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Final
from unicodedata import normalize

from arbstr.sansio.config.reader import AUTO, Rule
from arbstr.sansio.dialects.dialect import Asked, Dialect
from arbstr.sansio.errors import ErrorReply

POLICY_HEADER: Final = "x-arbstr-policy"
"""By which a client names its policy."""

MOST_NAMES: Final = 20
"""Names an error message lists: more do not help a person, and OpenRouter alone has hundreds."""

LONGEST_NAME: Final = 100
"""Characters of a client's name for something that a message repeats and a search looks at."""


def choose_policy(
    request: Asked, header: str | None, rules: Sequence[Rule]
) -> Rule | ErrorReply | None:
    """The rule for a request; `None` if it has none, an error if it names one that is not there.

    `header` is the value of `X-Arbstr-Policy`; empty counts as absent. A rule found by
    keyword is passed over if it does not allow the model: it must not fail a request that
    did not ask for it. For `AUTO` none is, since the rule says which models there are.
    """
    wanted = (header or "").strip()
    if wanted:
        for rule in rules:
            if rule.name == wanted:
                return rule
        there = f"Policies: {listed(r.name for r in rules)}." if rules else "None is configured."
        return ErrorReply("unknown_policy", f"There is no policy {shown(wanted)}. {there}")
    said: str | None = None
    for rule in rules:
        if rule.keywords and (request.model == AUTO or rule.allows(request.model)):
            if said is None:
                said = request.last_user_text.casefold()
            if any(find(said) is not None for find in _finders(rule.keywords)):
                return rule
    return None


def parse_and_choose(
    dialect: Dialect,
    body: bytes,
    headers: Mapping[str, str],
    query: bytes,
    rules: Sequence[Rule],
) -> tuple[Asked | ErrorReply, str | None]:
    """For a large body: what its door reads but for the text that keywords are looked for in, and
    the header that names the rule they find, so that nobody need look again."""
    request, header = dialect.parse(body, headers, query), headers.get(POLICY_HEADER)
    if isinstance(request, ErrorReply):
        return request, header
    rule = choose_policy(request, header, rules)
    found = rule.name if isinstance(rule, Rule) else header
    return replace(request, last_user_text=""), found


_UNSPACED: Final = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f"  # Burmese
    "\u1780-\u17ff\u19e0-\u19ff"  # Khmer
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # Hiragana, Katakana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"  # Han
)
"""Characters of scripts without blanks between words: such a one ends no word, and begins one."""

_ACCENTS: Final = "\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff"
"""Combining characters that make another letter of the one before them."""

_SIGNS: Final = _ACCENTS + "\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u0900-\u0963\u0966-\u0dff"
"""What belongs to a word and is no letter to Python: accents, Hebrew and Arabic points, the vowels
of India's scripts (with all else of those but their full stops)."""

_COMPOSES: Final = _ACCENTS + "\u1160-\u11ff\u3099\u309a"
"""What makes another letter of the last one of a keyword, so that "cafe" does not begin
"caf\u00e9", however that is written. Of Korean and Japanese, too."""


@lru_cache(maxsize=256)
def _finders(keywords: tuple[str, ...]) -> tuple[Callable[[str], object], ...]:
    """For each keyword what finds it at the start of a word of a case-folded text, or not: `None`.

    Accents may be part of their letter or follow it (NFC, NFD), so both ways of writing a keyword
    are looked for. The text stays as it is: to normalise it may take time by the square of its
    length (measured: 0.9 s for 16,000 accents).

    A pattern begins with the keyword itself, which is then searched for as fast as by `str.find`,
    and what is before it is looked at afterwards, in C: a text of megabytes may have it a million
    times inside of words, and nobody else is served meanwhile. Measured: 45 ms for 8 MB of
    "decode", where a loop over `str.find` takes 590.
    """
    found = []
    for keyword in keywords:
        folded = keyword.strip().casefold()
        for form in dict.fromkeys((folded, normalize("NFC", folded), normalize("NFD", folded))):
            pattern = text = re.escape(form)
            if re.match(f"[{_UNSPACED}]", form) is None:
                pattern += f"(?<![^\\W{_UNSPACED}]{text})(?<![{_SIGNS}]{text})"
            found.append(re.compile(f"{pattern}(?![{_COMPOSES}])").search)
    return tuple(found)


def listed(names: Iterable[str]) -> str:
    """The first `MOST_NAMES` names, and how many more there are."""
    every = tuple(names)
    more = len(every) - MOST_NAMES
    first = ", ".join(shown(name) for name in every[:MOST_NAMES])
    return f"{first} and {more} more" if more > 0 else first


def shown(name: str) -> str:
    """A name in quotes, short, and such that it can be encoded: JSON may smuggle half a surrogate
    pair into a string."""
    short = name if len(name) <= LONGEST_NAME else name[:LONGEST_NAME] + "..."
    return '"' + short.encode("utf-8", "replace").decode() + '"'
