"""How much output a request is held to: what is set aside for it, and what caps go by.

    [budget] hold   answers known          tokens of one choice
    most            any                    the client's maximum; without one, as `likely`
    likely          at least `TRUSTED`     what 19 of 20 of the last `KEPT` took, or `LEAST_HELD`
    likely          fewer                  `UNTIL_KNOWN`
                                           and never more than the client's maximum

    answer --Lengths.learn--> what answers under its policy, of its model, took
    client's maximum, length of 19 of 20 --hold_tokens--> tokens

An estimate (`ratios.py`) says what a request will cost most probably, and orders candidates; a hold
says what it must not be let through without. So what makes estimates good, that they follow the
input, would make holds worthless: "hi" is one token, and no answer to it is.
"""

from bisect import bisect_left, insort
from collections import OrderedDict, deque
from typing import Final, final

from arbstr.sansio.config.settings import MOST
from arbstr.sansio.frozen import dataclass
from arbstr.sansio.routing.ratios import LONGEST_ANSWER, NO_POLICY, TRUSTED

KEPT: Final = 500
"""Answers of a policy and model that are remembered: of the last few days, for a person."""

UNTIL_KNOWN: Final = 4096
"""Tokens of a choice while too few answers are known: hardly any is longer. Picked."""

LEAST_HELD: Final = 256
"""Tokens of a choice that are held at least, unless the client allows fewer: a few paragraphs.
Short answers teach nothing about the one that is not short."""

MOST_PAIRS: Final = 500
"""Pairs of a policy and a model that are remembered, about 20 kB each; where a provider serves any
model, clients make up the names."""


@final
@dataclass(frozen=True, slots=True)
class Hold:
    """What a request is held to at a model.

    `tokens` of output in each of `choices`; `allowed` is the client's maximum and `member` how its
    door calls that, `answers` how many are known of the policy and model, `mode` is
    `[budget] hold`.
    """

    input_tokens: int
    tokens: int
    choices: int
    allowed: int | None
    answers: int
    mode: str
    member: str = "max_tokens"

    @property
    def reason(self) -> str:
        """Why so many tokens: what follows a "because"."""
        each = f" in each of {self.choices} choices" if self.choices > 1 else ""
        allowed = f"the request allows {self.allowed} tokens of output{each}"
        tokens = str(self.tokens)
        if self.tokens == self.allowed:
            return allowed
        if self.allowed is None:
            allowed, tokens = (
                f"the request has no {self.member}",
                f"{self.tokens} tokens of output{each}",
            )
        if self.answers < TRUSTED:
            rest = f"{tokens} are reckoned with until {TRUSTED} answers are known"
        elif self.tokens == LEAST_HELD:
            rest = f"at least {tokens} are reckoned with"
        else:
            rest = f"{tokens} is what 19 of 20 such answers take at most"
        return f"{allowed}, and {rest}"

    def remedy(self, limit: str) -> str:
        """Why so much and what can be done: a sentence. `limit` is the key that forbids it."""
        less = f"{'give it a' if self.allowed is None else 'lower its'} {self.member}"
        mend = f"{less} or raise {limit}"
        if self.mode == MOST:
            mend = f'{less}, raise {limit} or set hold = "likely"'
        return f'So much, because {self.reason} ([budget] hold = "{self.mode}"); {mend}.'


@final
@dataclass(frozen=True, slots=True)
class Known:
    """How many answers are known, and the tokens 19 of 20 took at most: `None` if too few."""

    answers: int
    likely: int | None


NOTHING_KNOWN: Final = Known(0, None)


def hold_tokens(allowed: int | None, likely: int | None, mode: str) -> int:
    """The tokens one choice is held to. See the table of the module."""
    if mode == MOST and allowed is not None:
        return allowed
    tokens = UNTIL_KNOWN if likely is None else max(LEAST_HELD, likely)
    return tokens if allowed is None else min(tokens, allowed)


@final
class Lengths:
    """What answers took, in output tokens a choice, by policy and model."""

    def __init__(self) -> None:
        self._pairs: OrderedDict[tuple[str, str], _Last] = OrderedDict()

    def learn(self, policy: str | None, model: str, output_tokens: int, choices: int) -> None:
        """Takes one whole answer. One without output teaches nothing."""
        if output_tokens < 1:
            return
        pair = (policy or NO_POLICY, model)
        last = self._pairs.get(pair)
        if last is None:
            last = self._pairs[pair] = _Last()
            if len(self._pairs) > MOST_PAIRS:
                self._pairs.popitem(last=False)
        else:
            # So that the first one is the one without answers for longest.
            self._pairs.move_to_end(pair)
        last.add(min(LONGEST_ANSWER, -(-output_tokens // choices)))

    def become(self, other: "Lengths") -> None:
        """Takes all that another one knows in the place of what is known here."""
        self._pairs = other._pairs

    def known(self, policy: str | None, model: str) -> Known:
        """What is known of the answers of a model under a policy."""
        last = self._pairs.get((policy or NO_POLICY, model))
        return NOTHING_KNOWN if last is None else last.known()


@final
class _Last:
    """The last `KEPT` samples, in their order and by size."""

    def __init__(self) -> None:
        self._order: deque[int] = deque()
        self._sizes: list[int] = []

    def add(self, tokens: int) -> None:
        self._order.append(tokens)
        insort(self._sizes, tokens)
        if len(self._order) > KEPT:
            del self._sizes[bisect_left(self._sizes, self._order.popleft())]

    def known(self) -> Known:
        answers = len(self._sizes)
        if answers < TRUSTED:
            return Known(answers, None)
        # By the nearest rank: the smallest that at least 95 of 100 do not exceed.
        return Known(answers, self._sizes[-(-19 * answers // 20) - 1])
