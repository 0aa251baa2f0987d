"""What commands print in a terminal: it fits, whatever is in it; screens are kept beside this file.

To renew them after a change: `ARBSTR_WRITE_SCREENS=1 python -m pytest tests/cli/test_tables.py`,
and read what git says of them.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from arbstr.cli.cells import filled, width_of
from arbstr.cli.commands import main
from arbstr.cli.discover_command import _narrow
from arbstr.cli.figures import LEAST_SATS, aligned_sats, in_sats
from arbstr.cli.tables import GAP, Column, fit
from tests.ledgers import Row, attempt, request, write_ledger
from tests.process import clean_environ, write_config
from tests.weeks import a_week

SCREENS: Final = Path(__file__).parent / "screens"
WRITE: Final = "ARBSTR_WRITE_SCREENS" in os.environ

CONFIG: Final = """
[[providers]]
name = "node-of-a-friend"
url = "https://node.example.com/v1"
api_key = "${NOT_SET_HERE}"
models = ["gpt-4o", "anthropic/claude-sonnet-4.5"]
input_rate = 3.123456789
output_rate = 15
[providers.model_ids]
"gpt-4o" = "openai/gpt-4o-2024-08-06"
[[providers]]
name = "beta"
url = "https://llm.example.com"
models = ["gpt-4o"]
input_rate = 8
output_rate = 35
"""

WEEK: Final = ("--since", "2026-02-02", "--until", "2026-02-09")
ODD: Final = ("--since", "2026-02-10", "--until", "2026-02-11")

COMMANDS: Final = {
    "stats": ("stats", *WEEK),
    "stats-odd": ("stats", *ODD),
    "stats-week-policy": ("stats", *WEEK, "--group-by", "week,policy"),
    "requests": ("requests", *WEEK, "--per-page", "6"),
    "requests-odd": ("requests", *ODD),
    "request": ("requests", "9c229eb8"),
    "request-odd": ("requests", "odd-0002"),
    "cost": ("cost", "-m", "gpt-4o", "--text", "Hello!"),
    "providers": ("providers",),
}

LONG: Final = "anthropic/claude-sonnet-4.5-with-a-long-name"
WIDE: Final = "\N{CJK UNIFIED IDEOGRAPH-6A21}\N{CJK UNIFIED IDEOGRAPH-578B}" * 12


def odd_ones() -> list[Row]:
    """Names that are long or wide, words that are long, amounts of all sizes."""
    then = "2026-02-10T04:05:06.789Z"
    lost = attempt(provider="node-of-a-friend", failure="no_answer", money="unknown")
    return [
        request("odd-0001", timestamp=then, model=LONG, provider="node-of-a-friend"),
        request(
            "odd-0002",
            timestamp=then,
            model=WIDE,
            endpoint="completions",
            policy="code_generation",
            status="client_disconnected",
            cost_sats=1_234_567.891,
            provider_cost_sats=1_234_567.891,
            input_tokens=1_234_567,
            tries=[lost, lost, attempt(model=WIDE, upstream_request_id="chatcmpl-" + "9" * 40)],
        ),
        request(
            "odd-0003",
            timestamp=then,
            status="stream_incomplete",
            endpoint="messages",
            cost_sats=0.000012345,
            tries=[attempt(cost_sats=0.000012345, provider_cost_sats=0.000012345)],
        ),
    ]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a configuration and a ledger, which nobody changes."""
    directory = tmp_path_factory.mktemp("tables")
    write_config(directory, CONFIG)
    write_ledger(directory / "arbstr.db", [*a_week(), *odd_ones()])
    return directory


@pytest.fixture(autouse=True)
def _in_place(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    for name in {*os.environ} - {*clean_environ()} | {"NO_COLOR", "FORCE_COLOR", "COLUMNS"}:
        monkeypatch.delenv(name, raising=False)


def in_terminal(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """One reads what is printed from now on; without colours."""
    monkeypatch.setattr("arbstr.cli.output._Raw.isatty", lambda _: True)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")


def shown(capsys: pytest.CaptureFixture[str], command: Sequence[str]) -> str:
    capsys.readouterr()
    assert main(command) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    return re.sub(r"\x1b\[[0-9;]*m", "", printed.out)


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_prints_what_is_kept_and_fits(
    name: str, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    in_terminal(monkeypatch, width)
    text = shown(capsys, COMMANDS[name])
    assert max(map(width_of, text.splitlines())) <= width
    assert not any(line.endswith(" ") for line in text.splitlines())
    monkeypatch.setenv("TERM", "dumb")
    assert shown(capsys, COMMANDS[name]) == text
    path = SCREENS / f"{name}-{width}.txt"
    if WRITE:
        path.write_text(text, "utf-8")
    assert text == path.read_text("utf-8")


def test_no_screen_is_kept_that_nobody_compares() -> None:
    kept = {path.name for path in SCREENS.iterdir()}
    assert kept == {f"{name}-{width}.txt" for name in COMMANDS for width in (80, 120)}


@pytest.mark.parametrize("width", [72, 100])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_fits_into_any_terminal(
    name: str, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    in_terminal(monkeypatch, width)
    text = shown(capsys, COMMANDS[name])
    assert max(map(width_of, text.splitlines())) <= width


def test_a_pipe_has_no_width(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is broken or left out of what a program reads."""
    told = {name: shown(capsys, command) for name, command in COMMANDS.items()}
    monkeypatch.setenv("COLUMNS", "40")
    assert told == {name: shown(capsys, command) for name, command in COMMANDS.items()}
    assert not any("no room" in text for text in told.values())


# -- how columns fit


NAMES: Final = st.text(st.sampled_from("ab\N{CJK UNIFIED IDEOGRAPH-6A21}"), max_size=40)


@st.composite
def tables(draw: st.DrawFn) -> list[Column]:
    rows = draw(st.integers(1, 3))
    columns = [Column("name", [Text(draw(NAMES) or "-") for _ in range(rows)])]
    for at in range(draw(st.integers(0, 6))):
        numbers = [Text(str(draw(st.integers(0, 10**6)))) for _ in range(rows)]
        columns.append(
            Column(f"number {at}", numbers, short="n", right=True, spare=draw(st.integers(0, 3)))
        )
    return columns


@given(tables(), st.integers(20, 130))
def test_what_there_is_room_for_is_shown_and_the_rest_is_named(
    columns: list[Column], width: int
) -> None:
    fitted = fit(columns, width, drop=True)
    taken = sum(wide for _, wide in fitted.shown) + GAP * (len(fitted.shown) - 1)
    must = [each.narrow() for each in columns if not each.spare]
    if taken > width:  # then all is left out that can be, and the rest is as narrow as it gets
        assert [each.cells for each, _ in fitted.shown] == [each.cells for each in must]
    # Numbers are whole.
    assert all(wide >= each.least(8) for each, wide in fitted.shown)
    names = {*fitted.left_out}
    assert [each.cells for each in columns if each.name not in names] == [
        each.cells for each, _ in fitted.shown
    ]
    gone = [each.spare for each in columns if each.name in names]
    stays = [each.spare for each in columns if each.name not in names]
    assert not gone or 0 < min(gone) >= max(stays)
    assert fit(columns, width, drop=False).left_out == ()


@given(st.text(max_size=60), st.integers(1, 120))
def test_a_sentence_is_broken_into_lines_that_fit(text: str, width: int) -> None:
    lines = filled("  ", text, width, hang=2)
    assert max(map(width_of, lines)) <= max(width, 40)
    assert len(filled("  ", text, 0)) == 1


def test_remarks_are_broken_and_toml_is_not() -> None:
    remark = "# " + "a remark of some length " * 6
    assert max(map(len, _narrow(remark, 80))) <= 80
    assert all(line.startswith("# ") for line in _narrow(remark, 80))
    for line in (remark, 'url = "https://' + "a" * 90 + '"', '# url = "https://' + "a b " * 30):
        assert _narrow(line, 0 if line is remark else 80) == [line]


# -- amounts


@given(st.floats(0, 1e12) | st.decimals(0, 10**12, places=18))
def test_an_amount_has_four_digits_or_those_of_whole_sats(amount: float) -> None:
    digits = in_sats(amount).replace(",", "")
    if 0 < amount < float(LEAST_SATS):
        assert digits == "<0.000001"
        return
    whole, _, part = digits.partition(".")
    assert len((whole + part).lstrip("0")) <= max(4, len(whole))
    assert abs(float(digits) - float(amount)) <= max(float(amount) * 0.0006, 0.5 * (not part))


def test_amounts_of_a_column_have_their_points_below_each_other() -> None:
    cells = aligned_sats([0.00025, 1234.5, 12.34, None, 0])
    assert cells == ["0.00025", "1,234      ", "12.34   ", "unknown", "0      "]
    assert aligned_sats([1, 20]) == ["1", "20"]
