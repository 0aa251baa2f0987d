"""Which rule a request is under: the one its header names, else the first one a keyword finds.

    header, else the last user message --choose_policy--> rule, none, or there is no such rule

What the rule then allows is `routing.py`.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

from arbstr.sansio.chat import ChatRequest
from arbstr.sansio.config import AUTO, Rule
from arbstr.sansio.errors import ErrorReply

MOST_NAMES: Final = 20
"""Names an error message lists: more do not help a person, and OpenRouter alone has hundreds."""

LONGEST_NAME: Final = 100
"""Characters of a client's name for something that a message repeats and a search looks at."""


def choose_policy(
    request: ChatRequest, header: str | None, rules: Sequence[Rule]
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
    said = request.last_user_text.casefold()
    for rule in rules:
        if (request.model == AUTO or rule.allows(request.model)) and any(
            _begins_word(k, said) for k in _folded(rule.keywords)
        ):
            return rule
    return None


@lru_cache(maxsize=256)
def _folded(keywords: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(keyword.strip().casefold() for keyword in keywords)


def _begins_word(keyword: str, said: str) -> bool:
    """Whether the keyword stands at the start of a word. Both are case-folded.

    By `str.find`, not a regular expression: the text may be megabytes, and nobody else is served
    meanwhile.
    """
    at = said.find(keyword)
    while at != -1:
        if at == 0 or not (said[at - 1].isalnum() or said[at - 1] == "_"):
            return True
        at = said.find(keyword, at + 1)
    return False


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
