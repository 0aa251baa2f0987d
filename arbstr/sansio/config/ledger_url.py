"""Where a ledger lies that is no file: `postgresql://user:password@host:port/name`, taken apart.

Taken apart here and not by the driver, whose own messages repeat a URL with one slash too few
whole, and a password's piece behind a stray `%`. Every refusal is a `ValueError` whose message is
the rest of a sentence ("must be ...") and never repeats the value.
"""

import re
from collections.abc import Mapping
from dataclasses import field
from types import MappingProxyType
from typing import Final, final
from urllib.parse import parse_qsl, unquote, urlsplit

from arbstr.sansio.frozen import dataclass
from arbstr.sansio.secrets import Secret

SCHEMES: Final = ("postgresql", "postgres")

OPTIONS: Final = frozenset({"sslmode", "sslrootcert", "sslcert", "sslkey", "host"})
"""What may stand behind the `?`: TLS, and the directory of a Unix socket."""

_RULE: Final = (
    "must be postgresql://user:password@host:port/name, with %XX for what is no letter or digit in "
    "user and password"
)


@final
@dataclass(frozen=True, slots=True)
class LedgerUrl:
    """What a driver is told, piece by piece. Without a `name` it is the user's."""

    host: str
    port: int
    name: str
    user: str
    password: Secret | None
    options: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def shown(self) -> str:
        """For a person to read, without the password."""
        user = f"{self.user}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"postgresql://{user}{host}:{self.port}/{self.name}"


def is_ledger_url(text: str) -> bool:
    """Whether it is meant as such a URL, right or wrong."""
    return re.match(rf"({'|'.join(SCHEMES)}):", text, re.IGNORECASE) is not None


def parse_ledger_url(text: str) -> LedgerUrl:
    """Raises `ValueError`, see the module."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError(_RULE) from None
    if parts.scheme.lower() not in SCHEMES or not parts.netloc or parts.fragment:
        raise ValueError(_RULE)
    if parts.path.count("/") > 1 or re.search(r"%(?![0-9A-Fa-f]{2})", text):
        raise ValueError(_RULE)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := sorted(set(options) - OPTIONS):
        known = ", ".join(sorted(OPTIONS))
        named = [name for name in unknown if name.isidentifier()]
        what = f"the parameter {named[0]}" if named else "a parameter"
        raise ValueError(f"has {what}, and known are: {known}")
    return LedgerUrl(
        options.pop("host", "") or parts.hostname or "localhost",
        port or 5432,
        unquote(parts.path.removeprefix("/")),
        unquote(parts.username or ""),
        Secret(unquote(parts.password)) if parts.password else None,
        MappingProxyType(options),
    )
