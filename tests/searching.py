"""How many examples a property is tried with: few in every run, and many where one searches.

    @given(...)
    @examples(50)
    def test_nothing_raises(...) -> None: ...

A run has the same examples each time, so that more of them cost everybody time and find nothing
new. `pytest --hypothesis-profile search` tries `TIMES` as many, and other ones in every run.
"""

from typing import Any, Final

from hypothesis import settings

SAME: Final = "same"
SEARCH: Final = "search"

TIMES: Final = 20
"""How many examples a search tries for each of an ordinary run. A file takes it a minute or so."""

ORDINARY: Final = 50
"""Where a property does not say how many."""


def register_profiles() -> None:
    """Both, and the first is the one. No deadline: a slow machine is no fault of the code."""
    settings.register_profile(SAME, derandomize=True, deadline=None, max_examples=ORDINARY)
    settings.register_profile(SEARCH, print_blob=True, deadline=None, max_examples=TIMES * ORDINARY)
    settings.load_profile(SAME)


def examples(count: int, **more: Any) -> settings:
    """So many, or that many times `TIMES`; `more` is as for `hypothesis.settings`."""
    times = TIMES if settings.get_current_profile_name() == SEARCH else 1
    return settings(max_examples=times * count, **more)
