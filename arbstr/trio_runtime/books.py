"""What is done with the row of a request that is over: it is written, and teaches."""

import logging

import trio

from arbstr.sansio.exchange import Exchange
from arbstr.sansio.ledger.record import Record
from arbstr.trio_runtime.hub import Hub

log = logging.getLogger(__name__)


def enter(hub: Hub, record: Record, exchange: Exchange) -> None:
    """The final row of this exchange."""
    hub.log_writer.offer(record)
    if hub.accounts is not None:
        hub.accounts.ended(record)
    hub.learn_ratio(record.policy, record.token_ratio)
    hub.learn_length(record, exchange.choices)
    for sentence in exchange.disbelieved:
        log.warning("%s", sentence, extra={"request_id": record.correlation_id})
    for attempt in record.attempts:
        stated, expected = attempt.provider_cost_sats, attempt.expected_sats
        if stated is None or expected is None or not attempt.may_have_cost:
            continue
        alarm = hub.price_alarms.note(
            *(attempt.provider, attempt.model, stated, expected, trio.current_time()),
            listed=attempt.price_id is not None,
        )
        if alarm is not None:
            hub.alarmed(alarm, record.correlation_id)
