"""What an attempt is called that ended on the wire."""

from arbstr.sansio.failover.failure import WATCHED, FailureKind
from arbstr.sansio.failover.watch import ENDINGS, READ_ON, End, Stage, Wait

EXPECTED = """\
UNWRITTEN not_sent not_sent not_sent not_sent
WRITTEN no_answer no_answer no_answer -
REFUSED - - - -
PLAIN bad_answer bad_answer - -
SILENT stream_died bad_answer - -
STREAM stream_died stream_died - -
OUTPUT stream_cut stream_cut stream_cut -
"""


def test_the_endings_are_what_was_agreed() -> None:
    lines = [
        " ".join([stage.name, *(ENDINGS[stage][end] or "-" for end in End)]) + "\n"
        for stage in Stage
    ]
    assert "".join(lines) == EXPECTED


def test_every_stage_and_every_end_has_its_cell() -> None:
    assert list(ENDINGS) == list(Stage)
    assert all(list(row) == list(End) for row in ENDINGS.values())


def test_they_name_what_no_status_tells_and_the_rest_is_why_arbstr_stopped() -> None:
    named = {found for row in ENDINGS.values() for found in row.values()} - {None}
    assert named == WATCHED - {FailureKind.CLIENT_LEFT, FailureKind.SHUTDOWN}


def test_what_was_left_is_read_on_by_whose_it_is_and_what_its_client_has() -> None:
    assert set(READ_ON) == {(failed, finishes) for failed in BOTH for finishes in BOTH}
    assert {place for place, wait in READ_ON.items() if wait is Wait.NOT} == {(True, False)}


BOTH = (False, True)
