"""What a single value of the configuration may be: numbers, names, lists, keys.

Each function takes what tomllib made of the value and gives it back as arbstr uses it, or raises
`ValueError` with the rest of a sentence ("must be ..."), which never repeats the value. Addresses
have their own rules (`addresses.py`), where keys stand and which tables there are is `reader.py`.
"""

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Final

from arbstr.sansio.config.addresses import Proxy, parse_listen, parse_proxy, parse_url
from arbstr.sansio.config.credentials import Kind
from arbstr.sansio.config.ledger_url import parse_ledger_url
from arbstr.sansio.endpoints import ENDPOINTS
from arbstr.sansio.secrets import NO_KEY, Secret
from arbstr.sansio.visible import first_unseen

PROVIDER_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
RULE_NAME: Final = re.compile(r"[!-~]([ -~]{0,62}[!-~])?")
"""Visible ASCII: the name of a rule goes out in `x-arbstr-policy`."""

ANY_MODEL: Final = "*"
"""The entry of `models` that serves whatever a client asks for."""

RATE_BELOW: Final = 10**15
RATE_PLACES: Final = 30
"""What `sansio/money.py` adds up exactly. 10**15 sats are about half of all there will ever be."""


def text(value: object) -> str:
    """A string that says something."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be a string that is not empty")
    return value


def texts(value: object) -> tuple[str, ...]:
    """A list of such strings, each once, in the file's order. May be empty."""
    if not isinstance(value, list):
        raise ValueError("must be a list of strings")
    if not all(isinstance(item, str) and item.strip() for item in value):
        raise ValueError("must be a list of strings that are not empty")
    return tuple(dict.fromkeys(value))


def models(value: object) -> tuple[str, ...]:
    """A list of model ids with at least one."""
    if not isinstance(value, list) or not value:
        raise ValueError(
            'must be a list of model ids that is not empty, like ["gpt-4o"], or ["*"] for any'
        )
    return _ids(value, 'list the ids, or write ["*"] for any')


def allowed_models(value: object) -> tuple[str, ...]:
    """A list of model ids; empty, as `["*"]` is too, for all."""
    found = _ids(value, "list the ids, or remove the key to allow all")
    return () if ANY_MODEL in found else found


def _ids(value: object, remedy: str) -> tuple[str, ...]:
    found = texts(value)
    for at, item in enumerate(found, 1):
        if item != ANY_MODEL and (fault := no_model_id(item)):
            raise ValueError(f"(#{at}) {fault}; {remedy}")
    return found


def no_model_id(text: str) -> str | None:
    """Why it cannot be meant as the id of a model, if so; a pattern for example, as others know."""
    if any(sign in text for sign in "*?["):
        return "must not be a pattern with * ? or [, which arbstr does not know"
    if text != text.strip():
        return "must not begin or end with a blank"
    if unseen := first_unseen(text):
        return f"must not have a character that cannot be seen ({unseen})"
    return None


def model_ids(value: object) -> Mapping[str, str]:
    """A table from the client's model id to the provider's."""
    if not isinstance(value, dict) or not all(
        isinstance(item, str) and item.strip() for item in value.values()
    ):
        raise ValueError('must be a table of model ids, like { "gpt-4o" = "openai/gpt-4o" }')
    for item in value.values():
        if fault := no_model_id(item):
            raise ValueError(f"holds an id that {fault}; write the one id the provider knows")
    return MappingProxyType(dict(value))


def endpoints(value: object) -> tuple[str, ...]:
    """A list of APIs with at least one, in the usual order."""
    known = ", ".join(f'"{name}"' for name in ENDPOINTS)
    rule = f"must be a list of {known} with at least one of them"
    if not isinstance(value, list) or not value or not all(name in ENDPOINTS for name in value):
        raise ValueError(rule)
    return tuple(name for name in ENDPOINTS if name in value)


def model_endpoints(value: object) -> Mapping[str, tuple[str, ...]]:
    """A table from a model id to such a list."""
    if not isinstance(value, dict):
        raise ValueError('must be a table of lists, like { "gpt-4o" = ["chat", "responses"] }')
    return MappingProxyType({model: endpoints(item) for model, item in value.items()})


def each(parse: Callable[[str], str]) -> Callable[[object], tuple[str, ...]]:
    """The check of a list of strings that `parse` takes one by one."""
    return lambda value: tuple(dict.fromkeys(parse(item) for item in texts(value)))


def listen(value: object) -> str:
    """`host:port`, left as it is."""
    parse_listen(text(value))
    return text(value)


def url(value: object) -> str:
    """A provider's base URL, left as it is."""
    parse_url(text(value))
    return text(value)


def ledger_url(value: object) -> Secret:
    """A `postgresql://` URL, which may hold a password."""
    found = secret(value)
    parse_ledger_url(found.reveal())
    return found


def proxy(value: object) -> Proxy:
    """Through whom a provider is reached."""
    return parse_proxy(text(value))


def kind(value: object) -> Kind:
    """The money semantics of a provider's key."""
    return Kind(one_of(*Kind)(value))


def provider_name(value: object) -> str:
    """A name that fits a header, a URL and, mapped, an environment variable."""
    if not isinstance(value, str) or PROVIDER_NAME.fullmatch(value) is None:
        raise ValueError("must be 1 to 64 of the characters A-Z a-z 0-9 . _ -")
    return value


def rule_name(value: object) -> str:
    """A name that fits a header."""
    if not isinstance(value, str) or RULE_NAME.fullmatch(value) is None:
        raise ValueError("must be 1 to 64 characters of ASCII without blanks at its ends")
    return value


def one_of(*choices: str) -> Callable[[object], str]:
    """The check of a word from a list."""
    rule = "must be " + " or ".join(f'"{choice}"' for choice in choices)

    def check(value: object) -> str:
        if not isinstance(value, str) or value not in choices:
            raise ValueError(rule)
        return value

    return check


def switch(value: object) -> bool:
    """What is on or off."""
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _number(value: object, rule: str) -> Decimal:
    # TOML's true is an int in Python.
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise ValueError(rule)
    number = Decimal(value)
    if not number.is_finite() or number < 0:
        raise ValueError(rule)
    return number.copy_abs()  # TOML knows -0.0


def rate(value: object) -> Decimal:
    """A price in sats, exactly as it was written."""
    number = _number(value, "must be a number of sats, 0 or more, like 10 or 0.25")
    exponent = number.as_tuple().exponent
    if number >= RATE_BELOW or (isinstance(exponent, int) and exponent < -RATE_PLACES):
        raise ValueError(f"must be below 10**15 and have at most {RATE_PLACES} decimal places")
    return number


def seconds(value: object) -> float:
    """A duration that may be 0."""
    rule = "must be a number of seconds from 0 to 10**9, like 30 or 0.5"
    number = _number(value, rule)
    if number > 10**9:  # about 30 years: longer is a slip, and a float of 10**400 is infinite
        raise ValueError(rule)
    return float(number)


def seconds_above_0(value: object) -> float:
    """A duration that would make no sense as 0."""
    if not (number := seconds(value)):
        raise ValueError("must be a number of seconds above 0, like 30 or 0.5")
    return number


def megabytes(value: object) -> Decimal:
    """A size in units of 1,000,000 bytes."""
    rule = "must be a number of megabytes above 0 and below 10**6, like 64"
    number = _number(value, rule)
    if not 0 < number < 10**6:
        raise ValueError(rule)
    return number


def whole_number(least: int, most: int = 1000) -> Callable[[object], int]:
    """The check of a count."""

    def check(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError(f"must be a whole number from {least} to {most}")
        return value

    return check


def secret(value: object) -> Secret:
    """A key or token that can stand in a header."""
    if not isinstance(value, str) or not value:
        raise ValueError("must be a string that is not empty; remove the key to do without")
    found = Secret(value)
    if not found.fits_a_header():
        raise ValueError(f"{NO_KEY}; copy it again")
    return found
