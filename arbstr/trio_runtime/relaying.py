"""A stream, event by event, from its first output on, until it is complete or broken."""

from collections.abc import Awaitable, Callable
from math import inf
from typing import TYPE_CHECKING, Final, final

from arbstr.trio_runtime.upstream.call import UpstreamCall
from arbstr.trio_runtime.upstream.deadlines import Deadlines
from arbstr.trio_runtime.upstream.pipe import TooLate
from arbstr.trio_runtime.upstream.transport import AnswerBroken

if TYPE_CHECKING:
    from arbstr.sansio.failover.failure import Failure

AFTER_COMPLETE_SECONDS: Final = 2.0
"""How long a stream that is complete is waited on for its usage and last event."""


@final
class Relaying:
    """One attempt's stream, whose first bytes to pass on are here. `clock` measures its silences.

    `unsent` is what was read and not passed on: a `run` that is cancelled loses nothing.
    """

    __slots__ = ("_call", "_clock", "unsent")

    def __init__(self, call: UpstreamCall, first: bytes, clock: Deadlines) -> None:
        self._call = call
        self._clock = clock
        self.unsent = first

    async def run(
        self,
        pass_on: Callable[[bytes], Awaitable[None]],
        keep: Callable[[tuple[str, ...], str], Awaitable[None]],
    ) -> "Failure | None":
        """Passes on what comes. `None`: the stream is complete.

        `keep` is given the ecash that stood in it, before what stood beside that goes out.
        """
        call, now = self._call, self._clock.now
        relay, idle = call.relay, call.provider.timeouts.idle
        broke: Failure | None = None
        events, after, ending = relay.events, 0, False
        silence = call.within(idle, self._clock)
        deadline = silence.deadline
        try:
            while True:
                came = now()
                if (relay.finished and relay.ending) or relay.error is not None:
                    # Only its last word can follow; output shows that this was not the end.
                    if not ending or relay.after_finish != after:
                        ending, after = True, relay.after_finish
                        deadline = came + min(idle, AFTER_COMPLETE_SECONDS)
                elif relay.events != events:
                    events = relay.events
                    deadline = came + idle
                if self.unsent:
                    # A client that is slow to take this is not the provider's silence.
                    silence.deadline = inf
                    if relay.refunds:
                        await keep(call.stray_change(), call.provider.name)
                    await pass_on(self.unsent)
                    self.unsent = b""
                    deadline += now() - came
                if (relay.done and call.has_said_all) or call.ended or relay.overflow:
                    break
                silence.deadline = deadline
                self.unsent = await call.more()
                deadline = silence.deadline  # moved on where arbstr itself took its time
        except AnswerBroken as error:
            relay.broke()
            broke = call.cut_short(f"broke off: {error.sentence}")
        except TooLate:
            if not ending:
                broke = call.cut_short(f"sent nothing for {idle:g} s")
        finally:
            silence.end()
        if relay.refunds:
            await keep(call.stray_change(), call.provider.name)
        if relay.complete:
            return None
        return call.stream_failure() or broke or call.ended_early()
