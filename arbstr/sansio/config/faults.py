"""What is wrong with a configuration file, in sentences.

Every fault is one sentence: the file, the key path, what is wrong, what to do. Values are never
repeated, for any of them may be a secret; names of keys, providers and rules are.

A path is a tuple of keys; `key_path` writes it as TOML would, so that it can be searched for:
`providers."alpha".model_rates."gpt-4o".input_rate`. An element of a list is `[#2]`, counted from
one; a provider that has no usable name is `providers[#2]`.
"""

import difflib
import re
import tomllib
from collections.abc import Iterable
from typing import Final, TypeAlias, final

from arbstr.sansio.errors import ConfigError

Path: TypeAlias = tuple[str | int, ...]
"""Keys from the top of the file; an int is the place in a list, counted from zero."""

LONGEST_KEY: Final = 64
"""Characters of a key that a sentence shows."""

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")

NAMED: Final = frozenset({"providers", "rules", "model_rates", "model_ids", "model_endpoints"})
"""Tables whose members a person named: their keys are quoted in a path whatever they look like."""

NO_BACKSLASH: Final = r"write it in single quotes, like 'C:\temp\new.db', or a path with / instead"
"""What to do about a backslash in double quotes, where `\\t` is a tab."""

_UNQUOTED_KEY: Final = re.compile(
    r"""\s*(?:\[+[^"'\]]*[^"'\]\sA-Za-z0-9_.-][^"'\]]*\]|[^"'=\[]*[^"'=\[\sA-Za-z0-9_.-][^"'=\[]*=)"""
)
"""The beginning of a line that has a key which needs quotes, like `[providers.model_rates.a/b]`."""

_POSITION: Final = re.compile(r" \(at (?:line (?P<line>\d+), column (?P<column>\d+)|[^)]*)\)$")


def quoted(name: str) -> str:
    """A name in double quotes, on one line, printable, at most `LONGEST_KEY` characters of it."""
    short = name if len(name) <= LONGEST_KEY else name[:LONGEST_KEY] + "..."
    printable = "".join(c if c.isprintable() and c not in '"\\' else "?" for c in short)
    return f'"{printable}"'


def quoted_list(names: Iterable[str]) -> str:
    """The first ten names."""
    every = [quoted(name) for name in names]
    return ", ".join(every[:10]) + (", ..." if len(every) > 10 else "")


def key_path(path: Path) -> str:
    """The path as text."""
    text = ""
    above: str | int = ""
    for key in path:
        if isinstance(key, int):
            text += f"[#{key + 1}]"
        else:
            bare = _BARE_KEY.fullmatch(key) is not None and len(key) <= LONGEST_KEY
            dot = "." if text else ""
            text += dot + (key if bare and above not in NAMED else quoted(key))
        above = key
    return text


@final
class Faults:
    """Collects the sentences of one file; `file` is its name, as the person gave it."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._sentences: list[str] = []
        self._unreadable: set[Path] = set()
        self._above: set[Path] = set()  # every path above one of those

    def add(self, path: Path, sentence: str) -> None:
        """Note a fault; `sentence` is what follows the key path."""
        self._sentences.append(self.sentence(path, sentence))

    def sentence(self, path: Path, rest: str) -> str:
        """A whole sentence, file and key path in front."""
        return f"{self._file}: {key_path(path)} {rest}"

    def unreadable(self, path: Path, sentence: str) -> None:
        """Note a value that could not even be expanded; later faults of it would be noise."""
        self.add(path, sentence)
        self._unreadable.add(path)
        self._above |= {path[:length] for length in range(len(path))}

    def is_unreadable(self, path: Path) -> bool:
        """Whether the value at the path, or one above or below it, could not be expanded."""
        if path in self._above:
            return True
        return any(path[:length] in self._unreadable for length in range(len(path) + 1))

    def unknown_key(self, path: Path, known: Iterable[str]) -> None:
        """Note a key nobody reads, with the nearest known one or all of them."""
        choices = tuple(known)
        near = difflib.get_close_matches(str(path[-1])[:LONGEST_KEY], choices, n=1)
        hint = f'did you mean "{near[0]}"?' if near else f"known here: {', '.join(choices)}"
        self.add(path, f"is not a known key; {hint}")

    def raise_if_any(self) -> None:
        """Raise `ConfigError` with all sentences, in the order they were noted."""
        if self._sentences:
            raise ConfigError(tuple(self._sentences))


def broken_toml(file: str, text: str, error: ValueError) -> ConfigError:
    """The fault of a file that is not TOML: file, line, column, what, but not the line itself.

    tomllib says the place in the message; only Python 3.14 also has it in attributes.
    """
    message = str(error)
    found = _POSITION.search(message)
    if not isinstance(error, tomllib.TOMLDecodeError) or found is None:
        # An integer of more digits than int() takes: tomllib lets that ValueError through.
        return ConfigError((f"{file}: a number has too many digits; shorten it",))
    if found["line"] is None:
        line, column = text.count("\n") + 1, len(text) - (text.rfind("\n") + 1) + 1
    else:
        line, column = int(found["line"]), int(found["column"])
    # The tuple is a path of keys in Python's notation; the position tells more.
    what = re.sub(r"\('.*\)", "it", message[: found.start()])
    remedy = _remedy((text.split("\n")[line - 1 : line] or [""])[0])
    return ConfigError((f"{file}: line {line}, column {column}: not TOML: {what}; {remedy}",))


def _remedy(line: str) -> str:
    if '"' in line and "\\" in line.partition('"')[2]:
        return f"a backslash in double quotes begins an escape: {NO_BACKSLASH}"
    if _UNQUOTED_KEY.match(line):
        return 'a key with other characters than A-Z a-z 0-9 _ - needs quotes, like "a/b"'
    return "correct it"
