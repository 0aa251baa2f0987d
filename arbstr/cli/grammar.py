"""The command line as data, read off its parser, so that nothing else repeats it.

    parser() --commands--> Command, ...  --command_table--> the page of commands

argparse has no public way to ask what it was told; `_actions` and its like are the same in every
Python that arbstr runs on (tests/cli/test_grammar.py).
"""

import argparse
from collections.abc import Iterator, Sequence
from typing import Final, final

from arbstr.cli.command_line import parser
from arbstr.sansio.frozen import dataclass

HELP: Final = "help"


@final
@dataclass(frozen=True, slots=True)
class Argument:
    """An option, or a value by its place, which has no `flags`.

    value      what stands for its value; `None`: it takes none
    values     those that are known
    needless   whether it may be left out
    other_way  what may stand in its place: arguments of one such set exclude each other
    """

    flags: tuple[str, ...]
    value: str | None
    values: tuple[str, ...]
    does: str
    needless: bool
    other_way: int | None

    def __str__(self) -> str:
        """As one types it, by its shortest name; a value that is one of a few is told by --help."""
        value = "..." if self.value and "|" in self.value else self.value
        return " ".join(part for part in (min(self.flags, key=len, default=""), value) if part)


@final
@dataclass(frozen=True, slots=True)
class Command:
    """A command, its other names, what it does, and what it takes."""

    name: str
    aliases: tuple[str, ...]
    does: str
    arguments: tuple[Argument, ...]


def commands() -> tuple[Command, ...]:
    """All there are, in the order of `arbstr --help`."""
    (subparsers,) = (
        action for action in parser()._actions if isinstance(action, argparse._SubParsersAction)
    )
    does = {action.dest: action.help or "" for action in subparsers._choices_actions}
    names: dict[int, list[str]] = {}
    for name, command in subparsers.choices.items():
        names.setdefault(id(command), []).append(name)
    return tuple(
        Command(name, tuple(aliases), does[name], tuple(_arguments(subparsers.choices[name])))
        for name, *aliases in names.values()
    )


def _arguments(command: argparse.ArgumentParser) -> Iterator[Argument]:
    other_way = {
        id(action): number
        for number, group in enumerate(command._mutually_exclusive_groups)
        for action in group._group_actions
    }
    for action in command._actions:
        takes_one = action.nargs != 0
        values = tuple(map(str, action.choices or ()))
        value = action.metavar or "|".join(values) or action.dest.upper()
        assert isinstance(value, str)  # a tuple is for several values, and no argument takes them
        yield Argument(
            tuple(action.option_strings),
            value if takes_one else None,
            values or tuple(each for each in value.split("|") if each != "...") * ("|" in value),
            action.help or "",
            not action.required,
            other_way.get(id(action)),
        )


def usage(command: Command) -> str:
    """The line that is typed, as `arbstr stats [-c PATH] ...`."""
    shown = [each for each in command.arguments if HELP not in "".join(each.flags)]
    options = [each for each in shown if each.flags] + [each for each in shown if not each.flags]
    return " ".join(("arbstr", command.name, *_in_brackets(options)))


def _in_brackets(arguments: Sequence[Argument]) -> Iterator[str]:
    said: set[int] = set()
    for argument in arguments:
        if argument.other_way is None:
            yield f"[{argument}]" if argument.needless else str(argument)
        elif argument.other_way not in said:
            said.add(argument.other_way)
            ways = [str(each) for each in arguments if each.other_way == argument.other_way]
            yield " or ".join(ways)


def command_table() -> str:
    """All of them as a Markdown table."""
    rows = [
        f"| `{usage(command)}` | {'; '.join((command.does, *map(_also, command.aliases)))} |"
        for command in commands()
    ]
    return "\n".join(("| command | |", "|---|---|", *rows))


def _also(alias: str) -> str:
    return f"also `arbstr {alias}`"
