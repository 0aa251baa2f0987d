"""How much a policy's answers take, learnt from those it had: tokens out for each token in.

    record of an answer --sample_of--> ratio of one choice --Ratio.after--> moving average
    average, once TRUSTED samples made it --expected_output--> tokens a choice

One `Ratio` for each policy, under its name; `NO_POLICY` for requests without one. The first
`TRUSTED` samples make a plain mean; from then on each new one moves the average by `ALPHA` of the
way. What a provider counts is its own affair, so nothing it says is taken for more than it may be
worth: a sample that cannot be is none, one far beyond the rest counts as `OUTLIER` averages, and
no answer is expected to be longer than `LONGEST_ANSWER`.

An estimate orders candidates and holds a request to a cap; it is never what something cost.
"""

from math import isfinite
from typing import Final, final

from arbstr.sansio.frozen import dataclass
from arbstr.sansio.money import Usage

NO_POLICY: Final = ""
"""The key of requests without a policy, here and in the table `token_ratios`."""

TRUSTED: Final = 20
"""Samples from which on the average is used: fewer say more about the last request."""

ALPHA: Final = 1 / TRUSTED
"""Weight of a new sample, so that the plain mean of the first `TRUSTED` goes over into the moving
average without a step. Half of the average is forgotten after 14 samples."""

MOST_RATIO: Final = 1000
"""The largest sample taken. "Hi" is 8 tokens to most models, and a reasoning one answers it with
8000 at the very worst; beyond it somebody's counting is broken. Picked, not measured."""

OUTLIER: Final = 10.0
"""A sample counts as at most so many times a trusted average, which it then moves by half at most:
one strange answer changes an order of candidates, not the order of magnitude. Picked."""

LONGEST_ANSWER: Final = 131_072
"""Tokens a choice that are expected at most: the longest output any large model allowed when this
was written (128 k). A long prompt under a policy of short ones would else be expected to fill a
library."""


@final
@dataclass(frozen=True, slots=True)
class Ratio:
    """A moving average of output tokens by input tokens, and how many samples made it."""

    average: float
    samples: int

    @property
    def is_trusted(self) -> bool:
        """Whether there are enough samples to go by it."""
        return self.samples >= TRUSTED

    def after(self, sample: float) -> "Ratio":
        """The ratio with one more sample, which must come from `sample_of`."""
        counted = min(sample, OUTLIER * self.average) if self.is_trusted else sample
        weight = max(ALPHA, 1 / (self.samples + 1))
        return Ratio(self.average + weight * (counted - self.average), self.samples + 1)


NOTHING_LEARNT: Final = Ratio(0.0, 0)
"""Before the first sample, whose weight is 1."""


def sample_of(usage: Usage | None, choices: int) -> float | None:
    """What one answer teaches: output tokens of one of its `choices` by input tokens.

    `None` if nothing: tokens not known, none where there must be some, or a ratio that cannot be.
    """
    if usage is None or usage.input_tokens < 1 or usage.output_tokens < 1:
        return None
    # Whole numbers are compared: a quotient of huge ones may not fit into a float.
    if usage.output_tokens > MOST_RATIO * choices * usage.input_tokens:
        return None
    return usage.output_tokens / (choices * usage.input_tokens)


def restored(average: object, samples: object) -> Ratio | None:
    """A ratio as it was stored, or `None` if nobody could have learnt it."""
    if isinstance(average, int | float) and isinstance(samples, int):
        plausible = isfinite(average) and 0 < average <= MOST_RATIO and samples > 0
        return Ratio(float(average), samples) if plausible else None
    return None


def expected_output(ratio: Ratio | None, input_tokens: int) -> int | None:
    """The tokens one choice is expected to take; `None` while too little is known."""
    if ratio is None or not ratio.is_trusted:
        return None
    return max(1, min(LONGEST_ANSWER, round(ratio.average * input_tokens)))
