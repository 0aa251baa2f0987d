"""The rows of traits."""

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
