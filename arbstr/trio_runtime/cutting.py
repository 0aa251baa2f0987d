"""What follows for one request where arbstr ends its work, or where its stream broke.

failover/cut_off.py says which of it the client reads; here the attempt is written off, and what its
client gets last is made. Everything is said at once: nobody waits here.
"""

from typing import Final, NamedTuple, final

from arbstr.sansio import life
from arbstr.sansio.errors import ErrorReply
from arbstr.sansio.exchange import Exchange
from arbstr.sansio.failover.cut_off import CUTS, FOLLOWS, Follows, Standing, Why
from arbstr.sansio.failover.failure import Failure, Money
from arbstr.sansio.failover.last_word import LastWord
from arbstr.sansio.failover.retry import GiveUp, TryFailed
from arbstr.trio_runtime.attempts import Attempts
from arbstr.trio_runtime.upstream.call import UpstreamCall


@final
class Ended(NamedTuple):
    """What the client reads: why there is no answer, or no more of it (`None`: it has all), and the
    bytes that end a stream which had begun."""

    error: ErrorReply | None
    last_bytes: bytes = b""


WHOLE: Final = Ended(None)


def cut_by_ourselves(
    attempts: Attempts, exchange: Exchange, why: Why, *, streamed: bool, total: float, now: float
) -> Ended:
    """The work was cancelled, and it was not its own client that left. `total`: `[timeouts] total`
    in seconds, for the sentence."""
    call, cut = attempts.call, CUTS[why]
    if streamed and call is not None:
        call.relay.broke()
    follows = FOLLOWS[_standing(call, exchange, streamed=streamed)]
    if follows is Follows.THE_ANSWER:
        return WHOLE
    reply = cut.reply(total)
    if follows is Follows.WHY or call is None:
        return Ended(_unless_spent(reply, exchange))
    sentence = cut.said(total)
    failure = call.given_up(cut.kind, sentence) if cut.kind else call.cut_short(sentence)
    if follows is Follows.THE_BREAK:
        return broken_off(attempts, exchange, failure, counts=False)
    attempts.write_off(failure, counts=False)
    command = attempts.retry.handle(TryFailed(failure), now)
    if isinstance(command, GiveUp):
        return Ended(command.error)
    return Ended(_unless_spent(reply, exchange))


def broken_off(
    attempts: Attempts, exchange: Exchange, failure: Failure, *, counts: bool = True
) -> Ended:
    """The stream the client was given is not complete. `counts`: the breaker is to hear of it."""
    call = attempts.call
    assert call is not None  # its stream broke
    charged = "" if failure.money is Money.FREE else " It may have been charged."
    error = ErrorReply(
        "stream_interrupted",
        f'The answer is not complete: provider "{call.provider.name}" {failure.sentence}.{charged}',
    )
    last_bytes = call.relay.interrupt(error, exchange.correlation_id)
    attempts.write_off(failure, counts=counts)
    return Ended(error, last_bytes)


def _standing(call: UpstreamCall | None, exchange: Exchange, *, streamed: bool) -> Standing:
    if streamed and call is not None and call.relay.complete:
        return Standing.WHOLE
    if call is None or exchange.phase is not life.Phase.ATTEMPTING:
        return Standing.BETWEEN
    return Standing.OUTPUT if exchange.output_began else Standing.RUNNING


def _unless_spent(why: ErrorReply, exchange: Exchange) -> ErrorReply:
    """With consent, attempts before this one may have cost: that is the more useful word."""
    if not exchange.possibly_spent:
        return why
    message = f"{why.message} Attempts before may have been paid for; see x-arbstr-retries."
    return ErrorReply(LastWord.POSSIBLY_SPENT.value, message, should_retry=False)
