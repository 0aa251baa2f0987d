"""The rows of traits, and who may speak of a kind by its name."""

import ast
import re
from pathlib import Path

from arbstr.sansio.config.reader import Kind
from arbstr.sansio.failover.kinds import TRAITS, signed_by, stated_in


def test_every_kind_has_a_row() -> None:
    assert list(TRAITS) == list(Kind)


def test_header_names_are_in_lower_case() -> None:
    for row in TRAITS.values():
        for name in (row.signature, row.cost_header, row.prefix):
            assert name is None or name == name.lower()


def test_a_signature_tells_the_kind_and_a_charge_is_found_whoever_states_it() -> None:
    assert signed_by({"x-routstr-request-id": "1"}) is Kind.ROUTSTR
    assert signed_by({"x-request-id": "1"}) is None
    assert stated_in({"x-routstr-cost-msats": "12"}) == "12"
    assert stated_in({"x-cost": "12"}) == ""


PACKAGE = Path(__file__).parents[3] / "arbstr"


def test_nobody_else_tests_for_a_kind_or_names_its_headers() -> None:
    """Who needs to know asks for a trait. A kind is named where it is recognised, and where there
    is none to go by (no key, no call)."""
    may = {
        "sansio/failover/kinds.py",
        "sansio/config/credentials.py",
        "trio_runtime/mock/providers.py",
    }
    faults = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name, text = path.relative_to(PACKAGE).as_posix(), path.read_text("utf-8")
        if "Kind." not in text and "x-routstr-" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            match node:
                case ast.Compare():
                    fault = any(f"Kind.{kind.name}" in ast.unparse(node) for kind in Kind)
                case ast.Constant(value=str(value)):
                    fault = re.fullmatch(r"x-routstr-[a-z-]*", value) is not None
                case _:
                    fault = False
            if fault and name not in may:
                faults.append(f"{name}:{getattr(node, 'lineno', 0)}")
    assert faults == []
