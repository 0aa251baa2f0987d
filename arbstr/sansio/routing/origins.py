"""Who keeps what a request refers to: an answer it continues, an item of one.

    an answer --answered--> who gave it, by the ids that later requests may name it by
    a request's references --bound--> the offers of the one who keeps them all, or why none is there

What a provider keeps can be asked of no other one, so such a request goes there alone, however
cheap another is. Its input is not all in its body: what it refers to is read again, and paid.

Only ids are kept, in memory: after a start nothing is known, and the client is told to send the
conversation itself.
"""

from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import Final, final

from arbstr.sansio.config.reader import AUTO
from arbstr.sansio.dialects.dialect import Reference, Stored
from arbstr.sansio.errors import ErrorReply
from arbstr.sansio.frozen import dataclass
from arbstr.sansio.money import Usage
from arbstr.sansio.routing.catalog import Offer
from arbstr.sansio.routing.policy import shown

MOST_KEPT: Final = 20_000
"""Ids at once, the oldest out first: about 5 MB. An answer has one, and each of its items."""


@final
@dataclass(frozen=True, slots=True)
class Origin:
    """Who keeps a thing, of which model's answer, and how many tokens of a prompt it makes."""

    provider: str
    model: str
    tokens: int


@final
class Origins:
    """What was seen of the answers of this process."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, Origin] = OrderedDict()

    def answered(self, stored: Stored, provider: str, model: str, usage: Usage | None) -> None:
        """A provider gave an answer, and keeps it."""
        read, said = (usage.input_tokens, usage.output_tokens) if usage is not None else (0, 0)
        known = self._known
        for ids, tokens in ((stored.parts, said), (stored.wholes, read + said)):
            origin = Origin(provider, model, tokens)
            for id_ in ids:
                known[id_] = origin
                known.move_to_end(id_)
        while len(known) > MOST_KEPT:
            known.popitem(last=False)

    def of(self, id_: str) -> Origin | None:
        """Who gave the last answer with this id."""
        return self._known.get(id_)

    def forget(self, id_: str) -> None:
        """It is kept no more."""
        self._known.pop(id_, None)

    def retain(self, names: Collection[str]) -> None:
        """After a reload: what others keep cannot be asked for any more."""
        for id_ in [id_ for id_, origin in self._known.items() if origin.provider not in names]:
            del self._known[id_]

    def bound(
        self, references: Sequence[Reference], model: str, offers: Sequence[Offer]
    ) -> tuple[tuple[Offer, ...], int] | ErrorReply:
        """Those of the offers by whom all of it is kept, and the tokens it puts into the prompt."""
        found: dict[int, Origin] = {}
        for reference in references:
            origin = self._known.get(reference.id)
            if origin is None:
                return _refused(
                    f"{reference.name} names what one provider keeps, and arbstr does not know "
                    "which: it remembers only who gave the last answers since it was started.",
                    reference,
                )
            # By identity: the items of one answer are no more than that answer.
            found[id(origin)] = origin
        reference, last = references[-1], list(found.values())[-1]
        keepers = sorted({origin.provider for origin in found.values()})
        if len(keepers) > 1:
            return _refused(
                f"{reference.name} and what else the request refers to are kept by different "
                f"providers, each of which has only its own: {', '.join(keepers)}.",
                reference,
            )
        there = tuple(
            offer
            for offer in offers
            # A node passes each model on to somebody else, who keeps it; and who lets arbstr choose
            # goes on with whom it began.
            if offer.provider.name == last.provider and (model != AUTO or offer.model == last.model)
        )
        if not there:
            return _refused(
                f"{reference.name} names what provider {last.provider} keeps, and that does not "
                f"serve {shown(last.model if model == AUTO else model)} here.",
                reference,
            )
        return there, sum(origin.tokens for origin in found.values())


def _refused(why: str, reference: Reference) -> ErrorReply:
    return ErrorReply(
        "unsupported_parameter",
        f"{why} Send the whole conversation in `{reference.instead}` instead.",
        reference.param,
        should_retry=False,
    )
