"""Some hundred cases of `python -m tests.judged`, and that it tells of one that differs."""

import pytest

from tests.judged.__main__ import KINDS, compared, main
from tests.judged.dice import dice
from tests.judged.events import check, judge
from tests.judged.objects import check_glance, check_members

SEED = 1


@pytest.mark.parametrize("kind", KINDS)
def test_what_ours_read_reads_the_same_at_its_judge(kind: str) -> None:
    found = compared(kind, SEED, 0, 400)
    assert found.total() == 400
    assert len(found) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_case_is_the_same_whatever_was_compared_before_it(kind: str) -> None:
    whole = compared(kind, SEED, 0, 40)
    assert compared(kind, SEED, 0, 15) + compared(kind, SEED, 15, 25) == whole


def test_another_seed_makes_other_cases() -> None:
    firsts = {dice(seed, number).random() for seed in (1, 2) for number in range(100)}
    assert len(firsts) == 200


def test_the_command_says_how_many_it_compared(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--seed", "3", "--start", "7", "--heads", "20", "--events", "5"])
    heads, events = capsys.readouterr().out.splitlines()
    assert heads.startswith("heads to 27: ")
    assert events.startswith("events to 12: 5 streams")


def test_a_case_that_differs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("arbstr.sansio.dialects.sse.BOM", b"")
    with pytest.raises(AssertionError, match=r"events \d+ of seed 1"):
        compared("events", SEED, 0, 200)


def test_the_judges_judge() -> None:
    assert judge(b"data: a\r\rdata:b\ndata\r\nevent: x") == ([(None, b"a"), (b"x", b"b\n")], False)
    assert check(b"data: a\n\r\n\r:\r", [7, 8, 9, 10]) == "streams"
    assert check_members(b'{"a":1,"stream":[{}],"b":2}') == "objects"
    assert check_members(b'{"a":01}') == "not JSON"
    assert check_glance(b'data: {"choices":[],"a":{"usage":null}}\n\n', 0) == "blocks that pass"
    assert check_glance(b'data: {"choices":[],"a":{"usage":{}}}\n\n', 0) == "blocks looked into"
