"""`arbstr completion SHELL`: a script for bash, zsh or fish, made of the parser's own words.

    grammar --> (command, what stands before) -> what may follow --> a script

What one types last is completed by what the command takes: its options, the values of one, files.
"""

import argparse
import shlex
from collections.abc import Iterator, Sequence
from typing import Final

from arbstr.cli.clients import CLIENTS
from arbstr.cli.grammar import Argument, Command, commands
from arbstr.cli.help_command import TOPICS

FILES: Final = frozenset({"PATH", "FILE"})
"""The values that are files."""

KNOWN: Final = {
    ("help", "TOPIC"): TOPICS,
    ("connect", "NAME"): tuple(client.name for client in CLIENTS),
}
"""Values that argparse is not told, because commands say better which there are."""


def run(options: argparse.Namespace) -> int:
    """Prints the script; returns the exit code."""
    print({"bash": bash, "zsh": zsh, "fish": fish}[options.shell](), end="")
    return 0


def _values(command: Command, argument: Argument) -> Sequence[str]:
    return argument.values or KNOWN.get((command.name, argument.value or ""), ())


def _every() -> Iterator[tuple[str, Command]]:
    """The commands by each of their names."""
    for command in commands():
        for name in (command.name, *command.aliases):
            yield name, command


def _first(command: Command) -> str:
    """What may stand anywhere behind a command: its options, and its values by their place."""
    places = (each for each in command.arguments if not each.flags)
    flags = (flag for each in command.arguments for flag in each.flags)
    return " ".join((*flags, *(value for each in places for value in _values(command, each))))


def _takes_files(command: Command) -> bool:
    return any(each.value in FILES for each in command.arguments if not each.flags)


_BASH: Final = """\
# Completes arbstr in bash: eval "$(arbstr completion bash)"
_arbstr() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}}
    local command= word words= files=
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case $word in -*) ;; *) command=$word; break ;; esac
    done
    case "$command $before" in
{values}
        *) case $command in
{firsts}
        esac ;;
    esac
    COMPREPLY=($(compgen -W "$words" -- "$current"))
    if [ -n "$files" ]; then compopt -o default 2>/dev/null; fi
}}
complete -F _arbstr arbstr
"""

_ZSH: Final = """\
#compdef arbstr
# Completes arbstr in zsh: eval "$(arbstr completion zsh)", after compinit
_arbstr() {{
    local command= before=$words[CURRENT-1] word files=
    local -a known
    for word in $words[2,CURRENT-1]; do
        case $word in (-*) ;; (*) command=$word; break ;; esac
    done
    case "$command $before" in
{values}
        (*) case $command in
{firsts}
        esac ;;
    esac
    compadd -- $known
    if [[ -n $files ]]; then _files; fi
}}
if [[ $funcstack[1] == _arbstr ]]; then _arbstr "$@"; else compdef _arbstr arbstr; fi
"""


def bash() -> str:
    """For bash, from 3.2 on."""
    return _BASH.format(
        values="\n".join(_cases('"{}"', "words={}", "        {}) {} ;;", quote=True)),
        firsts="\n".join(_firsts("words={}", "            {}) {} ;;", quote=True)),
    )


def zsh() -> str:
    """For zsh."""
    return _ZSH.format(
        values="\n".join(_cases('"{}"', "known=({})", "        ({}) {} ;;", quote=False)),
        firsts="\n".join(_firsts("known=({})", "            ({}) {} ;;", quote=False)),
    )


def _cases(pattern: str, words: str, line: str, *, quote: bool) -> Iterator[str]:
    """What follows an option that wants a value."""
    for name, command in _every():
        for argument in command.arguments:
            if argument.flags and argument.value is not None:
                before = "|".join(pattern.format(f"{name} {flag}") for flag in argument.flags)
                values = " ".join(_values(command, argument))
                yield line.format(before, _set(words, values, argument.value in FILES, quote))


def _firsts(words: str, line: str, *, quote: bool) -> Iterator[str]:
    every = " ".join(("--version", "--help", *(name for name, _ in _every())))
    yield line.format('""', _set(words, every, False, quote))
    for name, command in _every():
        yield line.format(name, _set(words, _first(command), _takes_files(command), quote))


def _set(words: str, values: str, are_files: bool, quote: bool) -> str:
    done = words.format(shlex.quote(values) if quote else values)
    return f"{done} files=1" if are_files else done


def fish() -> str:
    """For fish."""
    lines = [
        "# Completes arbstr in fish: arbstr completion fish | source",
        "complete -c arbstr -f",
        "complete -c arbstr -n __fish_use_subcommand -l version",
    ]
    for name, command in _every():
        does = shlex.quote(command.does)
        lines.append(f"complete -c arbstr -n __fish_use_subcommand -a {name} -d {does}")
        here = f"complete -c arbstr -n '__fish_seen_subcommand_from {name}'"
        for argument in command.arguments:
            words = [
                f"-{'l' if flag[1] == '-' else 's'} {flag.lstrip('-')}" for flag in argument.flags
            ]
            if argument.value is not None and argument.flags:
                words.append("-r" if argument.value in FILES else "-x")
            if argument.value in FILES:
                words.append("-F")
            values = " ".join(_values(command, argument))
            if values:
                words.append(f"-a {shlex.quote(values)}")
            if argument.does and argument.flags:
                words.append(f"-d {shlex.quote(argument.does)}")
            if words:
                lines.append(" ".join((here, *words)))
    return "\n".join((*lines, ""))
