"""`arbstr stats --csv`: a line a group, or one of all, for a spreadsheet."""

import csv
import io
from typing import Final

from arbstr.sansio.ledger.reports import Group
from arbstr.sansio.visible import escaped
from arbstr.trio_runtime.ledger.reports import Report

_PARTS: Final = ("counts", "costs", "performance")

_FORMULA: Final = ("=", "+", "-", "@")
"""How a spreadsheet tells that a cell is to be reckoned: names are whatever a client typed."""


def as_csv(report: Report, group: Group | None, then: Group | None) -> str:
    """The figures of a report under the names they have in JSON, those of the comparison aside."""
    names = [each.value for each in (group, then) if each is not None] or ["since", "until"]
    rows = report["groups"] if group is not None else [report]
    figures = [name for part in _PARTS for name in (rows[0] if rows else report)[part]]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*names, *figures])
    for row in rows:
        values = [value for part in _PARTS for value in row[part].values()]
        writer.writerow([*(_cell(row[name]) for name in names), *values])
    return out.getvalue()


def _cell(name: str | None) -> str:
    text = escaped(name or "")
    return f"'{text}" if text.startswith(_FORMULA) else text
