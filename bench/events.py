"""What the relay's machine costs without any I/O, and that a large event is linear.

    python bench/events.py

One event of 1 to 8 MB arrives in pieces of 1 kB: if the time per MB grows with the size, every
byte is looked at more than a bounded number of times. Then ordinary events, one per piece and 20.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from arbstr.sansio.dialects.chat.reading import ChatReading
from arbstr.sansio.dialects.relay import Relay
from arbstr.sansio.dialects.sse import SSEReader

PIECE = 1000
MEGABYTE = 1_000_000
REPEATS = 5
EVENTS = 20_000

DELTA = (
    b'data: {"id":"chatcmpl-B0ZcVYbC8lDdE4bWGZkbench","object":"chat.completion.chunk",'
    b'"created":1760000000,"model":"bench","system_fingerprint":null,"choices":[{"index":0,'
    b'"delta":{"content":" token"},"logprobs":null,"finish_reason":null}]}\n\n'
)


def large_event(megabytes: int) -> bytes:
    """One chunk with so much content."""
    before, after = DELTA.split(b" token")
    return before + b"x" * (megabytes * MEGABYTE) + after


def pieces(data: bytes, size: int) -> list[bytes]:
    """`data` as it may arrive."""
    return [data[at : at + size] for at in range(0, len(data), size)]


def best_of(work: Callable[[list[bytes]], int], parts: list[bytes]) -> float:
    """Seconds of CPU of the fastest of some runs. `work` returns how many bytes came out."""
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        if not work(parts):
            raise SystemExit("nothing came out: this measures something else")
        times.append(time.process_time() - start)
    return min(times)


def through_relay(parts: list[bytes]) -> int:
    """Feeds a relay."""
    relay = Relay(ChatReading(choices=1, asks_usage=False))
    return sum(len(relay.feed(part)) for part in parts)


def through_reader(parts: list[bytes]) -> int:
    """Feeds a reader of events alone."""
    reader = SSEReader()
    return sum(len(event.raw) for part in parts for event in reader.feed(part))


def main() -> None:
    """Prints two tables."""
    print(f"one event in pieces of {PIECE} bytes, CPU of the best of {REPEATS} runs")
    print(f"  {'MB':>3}  {'reader ms':>10}  {'ms/MB':>6}  {'relay ms':>9}  {'ms/MB':>6}")
    for size in (1, 2, 4, 8):
        parts = pieces(large_event(size), PIECE)
        reader = best_of(through_reader, parts) * 1000
        relay = best_of(through_relay, parts) * 1000
        print(
            f"  {size:>3}  {reader:10.2f}  {reader / size:6.2f}  {relay:9.2f}  {relay / size:6.2f}"
        )
    print(f"\n{EVENTS} events of {len(DELTA)} bytes through the relay")
    for burst in (1, 20):
        parts = [DELTA * burst] * (EVENTS // burst)
        seconds = best_of(through_relay, parts)
        print(f"  {burst:>3} in a piece: {seconds / EVENTS * 1e6:6.2f} us/event")


if __name__ == "__main__":
    main()
