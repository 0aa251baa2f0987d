"""A stranger's questions: one file answers each; its name can be guessed, and its page says so.

A question names the file, what in it decides, and words that must stand on the file's own page (its
docstring, or that of what decides). If what decides moves, its room does, and this test says where
people look for it.
"""

import ast
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from arbstr.sansio.config.reader import Kind
from arbstr.sansio.failover.failure import FailureKind, Money, money_of
from arbstr.sansio.failover.last_word import LAST_WORDS, LastWord
from arbstr.sansio.failover.refusal import read_refusal
from arbstr.sansio.failover.statuses import REFUSALS, Complete, called
from arbstr.sansio.failover.verdicts import VERDICTS

PACKAGE: Final = Path(__file__).parents[1] / "arbstr"

QUESTIONS: Final = {
    "What is a 504 called, and what is it a sign of?": (
        "sansio/failover/statuses", "REFUSALS", "complete answer", "first that fits",
    ),
    "What did an attempt cost that failed so?": (
        "sansio/failover/failure", "MONEY", "may have cost", "kind of",
    ),
    "Who may be asked after it?": (
        "sansio/failover/verdicts", "VERDICTS", "may follow a failed attempt",
    ),
    "The connection broke: was anything paid?": (
        "sansio/failover/watch", "ENDINGS", "ended on the wire", "the money",
    ),
    "When is a stream complete?": (
        "sansio/dialects/relay", "Relay", "complete",
    ),
    "May this still be spent today?": (
        "sansio/routing/budget", "Budget", "still be spent today",
    ),
    "What does the client read at the end of a day's budget, or of anything else?": (
        "sansio/failover/last_word", "LAST_WORDS", "What the client reads",
    ),
    "Who comes first among those that qualify?": (
        "sansio/routing/plan", "STRATEGIES", "order",
    ),
    "What does a Routstr node do that others do not?": (
        "sansio/failover/kinds", "TRAITS", "otherwise than others",
    ),
    "What can happen to a request, in which order?": (
        "sansio/life", "TRANSITIONS", "what may happen in which",
    ),
    "How does a row reach the disk?": (
        "trio_runtime/ledger/log_writer", "LogWriter", "batches",
    ),
    "What becomes of rows when the process is killed?": (
        "trio_runtime/ledger/intents", "Leftovers", "kill -9",
    ),
    "How do two machines share a budget?": (
        "sansio/routing/lease", "TICKS", "across processes and machines", "overdrawn",
    ),
    "What must a ledger's engine do?": (
        "trio_runtime/ledger/port", "Database", "engine",
    ),
    "When is a provider left alone?": (
        "sansio/failover/board", "Board", "circuit",
    ),
    "May a web page call?": (
        "sansio/callers", "Doorkeeper", "web page",
    ),
    "What follows when one of several processes dies?": (
        "sansio/fates", "FATES", "a worker ends",
    ),
    "In which order is everything closed?": (
        "trio_runtime/main", "run", "the order of closing",
    ),
}  # fmt: skip


@cache
def page(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


@cache
def defined(path: Path) -> dict[str, ast.stmt]:
    """What stands at the top of a module, by name."""
    found: dict[str, ast.stmt] = {}
    for node in page(path).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found[node.name] = node
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = node
    return found


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_stranger_finds_where_it_is_decided(question: str) -> None:
    file, symbol, *words = QUESTIONS[question]
    path = PACKAGE / f"{file}.py"
    assert symbol in defined(path), f"{symbol} is not in {file} any more"
    said = [ast.get_docstring(page(path)) or ""]
    node = defined(path)[symbol]
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        said.append(ast.get_docstring(node) or "")
    text = " ".join(" ".join(said).split())
    assert [word for word in words if word not in text] == []


@pytest.mark.parametrize("question", QUESTIONS)
def test_nowhere_else_is_anything_of_that_name(question: str) -> None:
    file, symbol, *_ = QUESTIONS[question]
    if symbol in ("run", "TRANSITIONS"):
        return  # what a command does is called so too; and each machine has its own
    homes = [
        path.relative_to(PACKAGE).with_suffix("").as_posix()
        for path in PACKAGE.rglob("*.py")
        if symbol in defined(path)
    ]
    assert homes == [file]


def test_the_answers_about_a_504_follow_from_those_tables() -> None:
    seen = Complete(504, read_refusal({}, b"", now_utc=0), Kind.OPENAI)
    failure = called(REFUSALS, seen)
    assert failure is FailureKind.GAVE_UP
    assert money_of(failure, Kind.OPENAI, signed=False) is Money.UNKNOWN
    assert VERDICTS[failure][Money.UNKNOWN].name == "STOP_UNLESS_CONSENT"


def test_the_end_of_a_days_budget_has_a_last_word() -> None:
    assert LastWord.BUDGET_EXCEEDED in LAST_WORDS
