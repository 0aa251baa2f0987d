"""How soon each provider begins to answer: the moving average behind `lowest_latency`.

What is measured is an attempt that brought an answer, from its start to the first output of its
stream. A plain answer has no such moment: its first output is all of it, however long it is. So
plain answers count, by the time to the whole of them, only until the provider's first stream,
which replaces what they taught: who never streams has an order all the same, and who does is not
misled. Failures measure nothing; who fails is the breaker's affair.

A provider that was slow is not asked again as long as faster ones answer, so its figure stays
until one of them fails, or arbstr starts anew.
"""

from typing import Final, final

from arbstr.sansio.frozen import dataclass

ALPHA: Final = 0.2
"""Weight of a new measurement: a provider that turns slow is overtaken after a handful of
requests, and one slow answer does not do it alone. Picked, not measured."""


@final
@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds from the start of an attempt to its first output, as a moving average.

    `streams`: measured on streams; otherwise on plain answers, for want of anything better.
    """

    seconds: float
    streams: bool

    @classmethod
    def after(cls, before: "Latency | None", seconds: float, *, stream: bool) -> "Latency":
        """What is known after one more answer; `before` is `None` at the first."""
        if before is None or (stream and not before.streams):
            return cls(seconds, stream)
        if before.streams and not stream:
            return before
        return cls(before.seconds + ALPHA * (seconds - before.seconds), stream)
