"""What a complete answer that is none is called: rules from top to bottom, the first that fits.

    REFUSALS    by its status, what it says and what was known before
    ERRORS      an error object in a 2xx, or an event of one before output

The rules are printed into the manual (`evidence`), so what a person reads there is what decides.
"""

import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final, final

from arbstr.sansio.config.reader import Kind
from arbstr.sansio.failover.capable import cannot
from arbstr.sansio.failover.failure import FailureKind
from arbstr.sansio.failover.kinds import TRAITS
from arbstr.sansio.failover.refusal import Refusal, words_of
from arbstr.sansio.frozen import dataclass

ACCOUNT_CODES: Final = frozenset(
    {"token_already_spent", "invalid_token", "cashu_error", "mint_error"}
)
NO_MODEL_CODES: Final = frozenset({"invalid_model", "model_not_found"})
RATE_LIMIT_CODES: Final = frozenset({"upstream_rate_limit"})

GATEWAY_STATUSES: Final = frozenset({499, 504, 524})
"""nginx's, everybody's and Cloudflare's word for: delivered, but no answer came in time.
502 and 520 to 523 mean that it did not arrive, or that what came was no HTTP."""

_OF_A_MODEL: Final = re.compile(r"(?<![/\w])models?\b|model_|deployment|no endpoints found", re.I)
"""How a 404 that is not about the path speaks: of a model, Azure of a deployment, OpenRouter of
endpoints for it. Not the `/models` of a path."""


@final
@dataclass(frozen=True, slots=True)
class Complete:
    """A complete answer, and what was known before it came.

    `names_option`: it names a `stream_options` that arbstr had added. `path_served`: the provider
    has answered at this path before.
    """

    status: int
    refusal: Refusal
    kind: Kind
    names_option: bool = False
    path_served: bool = False


class Says(StrEnum):
    """What must be so beside the status; the value is how the manual says it."""

    OPTION = "whose text names `stream_options`, which arbstr had added"
    CANNOT = (
        "whose `code`, `type` or text says that this model here cannot: context length, tools, "
        "images, a parameter"
    )
    PATH = "that do not speak of the model, before the provider has answered at this path"
    OF_ITS_KIND = "of its kind's own"
    PASSING = "that gives itself 401, 402, 403 or 429"


_SAYS: Final[Mapping[Says, Callable[[Complete], bool]]] = MappingProxyType(
    {
        Says.OPTION: lambda it: it.names_option,
        Says.CANNOT: lambda it: cannot(it.refusal),
        Says.PATH: lambda it: not (it.path_served or _speaks_of_the_model(it.refusal)),
        Says.OF_ITS_KIND: lambda it: it.status in TRAITS[it.kind].failing,
        # It is about the key or the moment, whatever its text speaks of.
        Says.PASSING: lambda it: it.refusal.status in (401, 402, 403, 429),
    }
)


@final
@dataclass(frozen=True, slots=True)
class Rule:
    """`failure` if all of it fits: one of `statuses` (none: any), one of `codes`, and `says`."""

    failure: FailureKind
    statuses: frozenset[int] = frozenset()
    codes: frozenset[str] = frozenset()
    says: Says | None = None

    def fits(self, it: Complete) -> bool:
        """Whether this is what was seen."""
        return (
            (not self.statuses or it.status in self.statuses)
            and (not self.codes or bool(self.codes & it.refusal.codes))
            and (self.says is None or _SAYS[self.says](it))
        )


def _of(*statuses: int) -> frozenset[int]:
    return frozenset(statuses)


ALL_4XX: Final = frozenset(range(400, 500))
ALL_5XX: Final = frozenset(range(500, 600))

REFUSALS: Final = (
    Rule(FailureKind.RATE_LIMITED, _of(429)),
    Rule(FailureKind.RATE_LIMITED, codes=RATE_LIMIT_CODES),
    Rule(FailureKind.ACCOUNT, _of(401, 402, 403)),
    Rule(FailureKind.ACCOUNT, _of(400, 422), ACCOUNT_CODES),
    Rule(FailureKind.NO_MODEL, _of(400, 404), NO_MODEL_CODES),
    Rule(FailureKind.NO_STREAM_OPTIONS, _of(400, 422), says=Says.OPTION),
    Rule(FailureKind.NOT_CAPABLE, _of(400, 404, 413, 422), says=Says.CANNOT),
    Rule(FailureKind.NO_ENDPOINT, _of(404, 405, 501), says=Says.PATH),
    Rule(FailureKind.NO_MODEL, _of(404)),
    Rule(FailureKind.GAVE_UP, GATEWAY_STATUSES),
    Rule(FailureKind.SERVER_ERROR, _of(408, 409, 425)),
    Rule(FailureKind.SERVER_ERROR, ALL_5XX),
    Rule(FailureKind.SERVER_ERROR, says=Says.OF_ITS_KIND),
    Rule(FailureKind.CLIENT_ERROR, ALL_4XX),
    Rule(FailureKind.BAD_STATUS),
)
"""For a status that `is_answer` denies. The last fits everything."""

ERRORS: Final = (
    Rule(FailureKind.RATE_LIMITED, codes=RATE_LIMIT_CODES),
    Rule(FailureKind.ERROR_ANSWER, says=Says.PASSING),
    Rule(FailureKind.NOT_CAPABLE, says=Says.CANNOT),
    Rule(FailureKind.ERROR_ANSWER),
)
"""For an error object where an answer was promised. The last fits everything."""


def called(rules: tuple[Rule, ...], it: Complete) -> FailureKind:
    """The failure of the first rule that fits."""
    return next(rule.failure for rule in rules if rule.fits(it))


def _speaks_of_the_model(refusal: Refusal) -> bool:
    return any(map(_OF_A_MODEL.search, (*refusal.codes, *words_of(refusal))))
