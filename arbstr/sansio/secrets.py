"""Values that must not be seen, and the `${VAR}` that keeps them out of the file.

A `Secret` shows itself as `[REDACTED]` wherever Python prints things: repr, str, format, tracebacks
with locals, dataclass reprs. The value comes out through `reveal()` alone, so `grep reveal` finds
every place that handles one. Here may not live: where a secret comes from (`config/reader.py`) and
what it is removed from (`catalog.redact`).

Ecash that a node gives back is one as well: whoever reads a `refund_token` can spend it.
"""

import hmac
import re
from collections.abc import Iterator, Mapping
from typing import Final, Never, final

REDACTED: Final = "[REDACTED]"

MASK_FROM: Final = 20
"""Characters a secret must have for its first six to be shown: from a shorter one, six would give
too much away."""

NO_KEY: Final = "must be visible ASCII without blanks or line ends"
"""What is wrong with a value that cannot stand in a header."""

_HEADER_SAFE: Final = re.compile(r"[\x21-\x7e]+")
"""Visible ASCII: all that RFC 9110 5.5 lets into a header without doubt. A blank or a line end in a
key is always a slip of the clipboard."""

_REFUND_TOKEN: Final = re.compile(rb'"refund_token"\s*:\s*"([^"\\]+)"')
"""Where a node puts ecash it gives back, beside the header: a member of the error object."""

VARIABLE_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@final
class Secret:
    """A key or token. Compared in constant time; neither hashable nor picklable."""

    __slots__ = ("_value",)
    __hash__ = None  # type: ignore[assignment]  # a hash of a secret would be a fingerprint of it

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value itself, for the one place that sends or compares it."""
        return self._value

    def masked(self) -> str:
        """What a person may see of it: six characters and `...***`, or nothing if it is short."""
        return f"{self._value[:6]}...***" if len(self._value) >= MASK_FROM else REDACTED

    def fits_a_header(self) -> bool:
        """Whether the value can stand in an Authorization header as it is."""
        return _HEADER_SAFE.fullmatch(self._value) is not None

    def __repr__(self) -> str:
        return REDACTED

    def __str__(self) -> str:
        return REDACTED

    def __format__(self, spec: str) -> str:
        return format(REDACTED, spec)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(_bytes(self._value), _bytes(other._value))

    def __reduce_ex__(self, protocol: object) -> Never:
        raise TypeError("a Secret is not pickled or copied: that would write its value down")


def _bytes(text: str) -> bytes:
    # An environment variable that is not UTF-8 arrives with lone surrogates.
    return text.encode("utf-8", "surrogatepass")


@final
class ExpansionError(Exception):
    """`${...}` that cannot be expanded; the message names the variable and shows no value."""


def expand(text: str, environ: Mapping[str, str]) -> str:
    """Replace every `${NAME}` by the variable's value; `$NAME` and a lone `$` stay as they are.

    What a variable holds is not expanded again. Raises `ExpansionError` for a `${` that is not
    closed, an empty or impossible name, and a variable that is not set.
    """
    return "".join(_pieces(text, environ))


def variables(text: str) -> tuple[str, ...]:
    """The names in the `${NAME}` of a text that can be expanded, each once."""
    parts = text.split("${")[1:]
    return tuple(dict.fromkeys(part.partition("}")[0] for part in parts))


def _pieces(text: str, environ: Mapping[str, str]) -> Iterator[str]:
    at = 0
    while (start := text.find("${", at)) != -1:
        yield text[at:start]
        end = text.find("}", start)
        if end == -1:
            raise ExpansionError('has a "${" without its "}"; close it')
        name = text[start + 2 : end]
        if not name:
            raise ExpansionError('has an empty "${}"; write the name of a variable into it')
        if VARIABLE_NAME.fullmatch(name) is None:
            # The name is not shown: between braces that do not belong together anything may stand.
            raise ExpansionError(
                'has a "${...}" whose name is not that of a variable; '
                "use letters, digits and underscores"
            )
        if name not in environ:
            raise ExpansionError(f"needs the environment variable {name}, which is not set; set it")
        yield environ[name]
        at = end + 1
    yield text[at:]


def refund_tokens(text: bytes | bytearray) -> list[str]:
    """The ecash in an answer, or in a part of one."""
    if b"refund_token" not in text:  # almost always: texts are long, and this is the fast search
        return []
    return [token.decode("utf-8", "replace") for token in _REFUND_TOKEN.findall(text)]


def without_refund_tokens(text: bytes) -> bytes:
    """The same text without its ecash; the same object if there is none in it."""
    if b"refund_token" not in text:
        return text
    return _REFUND_TOKEN.sub(b'"refund_token":null', text)
