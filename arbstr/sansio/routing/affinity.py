"""Where a conversation was answered last: its cache is there, and its encrypted reasoning.

    request --key_of--> a hash of what tells its conversation from others, and of its model
    key, now --home--> who answered it last, and how much input that one has seen
    an answer --answered--> that is where it is now

The one who answered last is asked first while its estimated cost, with the input it has seen before
at its price for cached input, is not above the cheapest's without a cache (`plan.py`). So a better
price wins as soon as it is worth more than the cache, and a cache that is priced like everything
else keeps nobody.

A conversation is told by the client (`prompt_cache_key`), or by what it begins with: its first text
of the system and its first of the user. Only a hash of that is kept, keyed with bytes that are
drawn at the start, in memory, for an hour after the last answer.
"""

from collections import OrderedDict
from hashlib import blake2b
from typing import Final, TypeAlias, final

from arbstr.sansio.frozen import dataclass

KEPT_SECONDS: Final = 3600.0
"""An hour after its last answer nobody has a conversation in a cache: providers keep them for five
minutes to an hour."""

MOST_KEPT: Final = 10_000
"""Conversations at once, the oldest out first: about 2 MB."""

KEY_BYTES: Final = 16
"""Of the hash's key: enough that nobody guesses a text by its hash."""

Key: TypeAlias = bytes


@final
@dataclass(frozen=True, slots=True)
class Home:
    """Who answered last, with which model, and the estimated tokens of input it was given."""

    provider: str
    model: str
    input_tokens: int


@final
class Affinity:
    """All conversations of this process. `secret` is `KEY_BYTES` long; times are monotonic."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._homes: OrderedDict[Key, tuple[Home, float]] = OrderedDict()

    def key_of(self, model: str, conversation: str) -> Key:
        """What a conversation is known by: of another model it is another one."""
        # Half a surrogate pair may stand in a JSON string.
        text = f"{model}\0{conversation}".encode("utf-8", "surrogatepass")
        return blake2b(text, digest_size=16, key=self._secret).digest()

    def home(self, key: Key, now: float) -> Home | None:
        """Who answered it last; None if nobody did within `KEPT_SECONDS`."""
        known = self._homes.get(key)
        if known is None or now - known[1] > KEPT_SECONDS:
            return None
        return known[0]

    def answered(self, key: Key, home: Home, now: float) -> None:
        """It was answered there."""
        homes = self._homes
        homes[key] = (home, now)
        homes.move_to_end(key)
        while len(homes) > MOST_KEPT or now - next(iter(homes.values()))[1] > KEPT_SECONDS:
            homes.popitem(last=False)

    def __len__(self) -> int:
        return len(self._homes)
