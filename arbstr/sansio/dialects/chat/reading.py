"""A stream of chunks, read for `relay`: when a chat is whole, and how it ends.

A chat is whole with a finish reason for every index below the request's `n`, or with `[DONE]` after
at least one choice. `[DONE]` never goes on: `finish` writes the only one. Usage without a choice is
kept back for `finish`, which sends it if the client asked for it. Usage is no evidence of an end:
Routstr nodes send it after a cut, too.
"""

from dataclasses import replace
from typing import final

from arbstr.sansio.dialects.chat import glance
from arbstr.sansio.dialects.chat.ending import CHUNK, DONE, Head, error_event, last_events
from arbstr.sansio.dialects.chat.facts import ChatFacts, read_event, read_object
from arbstr.sansio.dialects.complaints import AN_ERROR, NOTHING, is_ping, read_stray
from arbstr.sansio.dialects.dialect import Facts
from arbstr.sansio.dialects.sse import Event, written
from arbstr.sansio.errors import ErrorReply


def _named(name: bytes, facts: Facts) -> Facts:
    """What the name of an event makes of what its data says."""
    if name == b"error":
        return replace(facts, error=True, said=False)
    if is_ping(name) and not (facts.passes or facts.kept):
        return Facts(counts=facts.counts, provider_cost_msats=facts.provider_cost_msats)
    return facts


@final
class ChatReading:
    """For a client that asked for `choices` answers (`n`).

    `asks_usage`: the client itself set `stream_options.include_usage`.
    `object_name`: what chunks call themselves.
    `usage_chunk`: the data of the usage chunk that was kept back.
    """

    __slots__ = (
        "_asks_usage",
        "_choices",
        "_counted",
        "_finished",
        "_head",
        "_named",
        "_over",
        "_usage_facts",
        "began",
        "spoke",
        "usage_chunk",
    )

    def __init__(self, *, choices: int, asks_usage: bool, object_name: str = CHUNK) -> None:
        self._choices = max(1, choices)
        self._asks_usage = asks_usage
        self._finished: set[int] = set()
        self._head = Head(object_name)
        self._named = False
        self._over = False
        self._counted = False
        self.began = False
        self.spoke = False
        self.usage_chunk: bytes | None = None
        self._usage_facts: ChatFacts | None = None

    def passes_whole(self, block: bytes) -> int:
        """How many unremarkable chunks a block has, 0 if anything else is in it."""
        count = glance.passes_whole(block)
        if count and not self.spoke:
            self.spoke = glance.speaks(block)
        return count

    def read(self, event: Event, *, output_seen: bool) -> Facts:
        """What one event says."""
        data = event.data
        if not data:
            return AN_ERROR if event.name == b"error" else NOTHING
        if data.lstrip().startswith(b"[DONE]"):
            self._over = self.began
            return Facts(last=True, whole=bool(self._finished))
        facts = read_event(data, output_seen=output_seen)
        if event.name is not None:
            facts = _named(event.name, facts)
        if isinstance(facts, ChatFacts):
            # Up to the first output, and of what goes on: whoever gets the same answer later has
            # nothing else, and may pass all behind that at a glance.
            if facts.passes and not (facts.kept or self._named or self._over):
                self._head.note(facts)
                self._named = facts.output
            if facts.kept and not facts.error:
                self._keep_usage(data, facts)
            elif facts.passes:
                return self._of_chunk(event, facts)
        return facts

    def _of_chunk(self, event: Event, facts: ChatFacts) -> ChatFacts:
        self.began = self.began or bool(facts.indexes)
        self.spoke = self.spoke or glance.speaks(event.raw)
        if facts.finished:
            self.spoke = self.spoke or any(reason != "stop" for _, reason in facts.finished)
            self._finished.update(index for index, _ in facts.finished if index < self._choices)
            if len(self._finished) >= self._choices:
                return replace(facts, whole=True)
        return facts

    def read_stray(self, stray: bytes) -> Facts:
        """What lines without a field say."""
        return read_stray(stray, read_object)

    def _keep_usage(self, data: bytes, facts: ChatFacts) -> None:
        # The last one, but never one of zeros for one with numbers; and none behind `[DONE]`.
        counts = facts.counts is not None and facts.counts.counted
        if not self._over and (counts or not self._counted):
            self.usage_chunk, self._usage_facts = data, facts
            self._counted = counts

    def finish(self, arbstr: bytes) -> bytes:
        """The end in one write: usage chunk if asked, `[DONE]`, trailer.

        `arbstr` goes into the usage chunk and into the trailer. The trailer is chunk-shaped and
        comes after `[DONE]` because that is what every client tolerates: most stop at `[DONE]`, the
        Vercel AI SDK validates what follows.
        """
        if self._usage_facts is not None:
            self._head.note(self._usage_facts)
        return last_events(self._head, self.usage_chunk if self._asks_usage else None, arbstr)

    def rest(self) -> bytes:
        """The usage chunk, if there was one, and `[DONE]`."""
        return DONE if self.usage_chunk is None else written(self.usage_chunk) + DONE

    def interrupt(self, error: ErrorReply, request_id: str | None = None) -> bytes:
        """The error event, and nothing after it."""
        return error_event(error)
