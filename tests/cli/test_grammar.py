"""The command line as data is what argparse takes."""

import pytest

from arbstr.cli.command_line import ALIASES, COMMANDS, parser
from arbstr.cli.grammar import Argument, Command, commands, usage


def named(name: str) -> Command:
    (command,) = (each for each in commands() if each.name == name)
    return command


def argument(command: str, flag: str) -> Argument:
    (found,) = (each for each in named(command).arguments if flag in (*each.flags, each.value))
    return found


def test_every_command_is_there_once_with_what_it_does() -> None:
    assert [command.name for command in commands()] == list(COMMANDS)
    for command in commands():
        assert command.does == COMMANDS[command.name][0]
        assert command.aliases == ALIASES.get(command.name, ())


@pytest.mark.parametrize("command", commands(), ids=lambda command: command.name)
def test_all_that_is_said_is_taken(command: Command) -> None:
    """One option a time, with a value if it is said to want one."""
    places = [
        next(iter(each.values), "x")
        for each in command.arguments
        if not (each.flags or each.needless)
    ]
    for each in command.arguments:
        if not each.flags or "--help" in each.flags:
            continue
        value = [each.values[0] if each.values else "127.0.0.1:1"] if each.value else []
        if each.value in ("SECONDS", "N"):
            value = ["1"]
        is_other_way_open = command.name == "cost" and each.other_way is None
        needed = ["--text", "x"] if is_other_way_open else []
        for other in command.arguments:
            if other.flags and not other.needless and other is not each:
                needed += [other.flags[0], "x"]
        for flag in each.flags:
            parser().parse_args([command.name, *needed, flag, *value, *places])


def test_a_value_that_is_one_of_a_few_is_known() -> None:
    assert argument("stats", "--group-by").values[:2] == ("model", "provider")
    assert argument("run", "--log-level").values == ("debug", "info", "warning", "error")
    assert argument("stats", "--endpoint").values == ("chat", "responses")
    assert argument("stats", "--json").value is None
    assert argument("cost", "FILE").values == ()


def test_a_usage_is_what_one_types() -> None:
    assert usage(named("check")) == "arbstr check [-c PATH] [--network]"
    assert usage(named("cost")).endswith(" --text TEXT or FILE")
    assert usage(named("help")) == "arbstr help [TOPIC]"
