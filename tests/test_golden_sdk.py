"""The golden stream, as the relay passes it on, read by the OpenAI Python SDK."""

import itertools

import httpx2  # what the SDK sends with; it brings it
import openai
import pytest

from arbstr.sansio.dialects.chat.reading import ChatReading
from arbstr.sansio.dialects.relay import Relay
from tests.cuttings import DRESSES, GOLDEN_TEXT, byte_by_byte, dressed

ARBSTR = b'{"request_id":"r1","provider":"alpha","model":"m1","cost_sats":0.5}'


def passed_on(data: bytes, *, asks_usage: bool) -> list[bytes]:
    """What the client is sent, in the pieces in which the relay gives it out."""
    relay = Relay(ChatReading(choices=1, asks_usage=asks_usage))
    pieces = [relay.feed(piece) for piece in byte_by_byte(data)]
    return [piece for piece in [*pieces, relay.end_input(), relay.finish(ARBSTR)] if piece]


def told(body: list[bytes]) -> tuple[list[str], str, list[str], list[tuple[int, int]]]:
    """What the SDK makes of it: the roles, the text, the finish reasons, the usages."""
    head = {"content-type": "text/event-stream"}
    transport = httpx2.MockTransport(
        lambda _: httpx2.Response(200, headers=head, content=iter(body))
    )
    roles: list[str] = []
    text = ""
    reasons: list[str] = []
    usages: list[tuple[int, int]] = []
    with (
        httpx2.Client(transport=transport, trust_env=False) as http,
        openai.OpenAI(base_url="http://arbstr/v1", api_key="x", http_client=http) as client,
        client.chat.completions.create(model="m", messages=[], stream=True) as stream,
    ):
        for seen in stream:
            for choice in seen.choices:
                roles += [choice.delta.role] if choice.delta.role else []
                text += choice.delta.content or ""
                reasons += [choice.finish_reason] if choice.finish_reason else []
            if seen.usage is not None:
                usages.append((seen.usage.prompt_tokens, seen.usage.completion_tokens))
    return roles, text, reasons, usages


@pytest.mark.parametrize("asks_usage", [False, True], ids=["not asked", "asked"])
@pytest.mark.parametrize(("line_end", "mark", "space", "ended", "last"), DRESSES)
def test_the_sdk_reads_the_golden_stream_in_every_dress(
    line_end: bytes, mark: bytes, space: bytes, ended: bool, last: str, asks_usage: bool
) -> None:
    body = passed_on(dressed(line_end, mark, space, ended, last), asks_usage=asks_usage)
    usages = [(3, 2)] if asks_usage and last != "finish" else []
    for pieces in (body, [b"".join(body)], byte_by_byte(b"".join(body))):
        assert told(pieces) == (["assistant"], GOLDEN_TEXT, ["stop"], usages)


def test_there_are_72_dresses_and_no_two_are_the_same() -> None:
    data = [dressed(*dress) for dress in DRESSES]
    assert len(data) == 72
    assert all(one != other for one, other in itertools.combinations(data, 2))
