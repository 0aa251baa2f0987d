"""The table of what may follow a failed attempt: it has no holes, and it can be read.

What `Retry` makes of each row is played in `test_retry.py`.
"""

import pytest

from arbstr.sansio.config.reader import Kind
from arbstr.sansio.failover.failure import MONEY, FailureKind, Money
from arbstr.sansio.failover.verdicts import VERDICTS, verdict_table


@pytest.mark.parametrize("kind", FailureKind)
@pytest.mark.parametrize("provider_kind", Kind)
def test_every_failure_of_every_kind_of_provider_has_a_verdict(
    kind: FailureKind, provider_kind: Kind
) -> None:
    assert MONEY[kind][provider_kind]
    assert set(VERDICTS[kind]) == set(Money)


def test_the_table_prints_as_markdown() -> None:
    table = verdict_table()
    assert table.startswith(
        "| money and kind | what may follow |\n|---|---|\n"
        "| `not_sent`, when free | the next candidate at once; when none is left, those that were "
        "not reached again after a backoff, up to `max_retries` |\n"
        "| `server_error`, when free | the same provider after a backoff, up to `max_retries`; "
        "then the next |\n"
        "| `account`, `no_model`, `not_capable`, `no_endpoint`, `rate_limited`, `error_answer`, "
        "`bad_status`, `gave_up`, when free "
        "| the next provider at once |\n"
        "| `no_stream_options`, when free "
    )
    assert "`bad_answer`, when spent | nothing: `possibly_spent`" in table
    assert "`bad_status`, `no_answer`, `gave_up`, `stream_died`, when unknown" in table
    assert all(f"`{kind}`" in table for kind in FailureKind)
