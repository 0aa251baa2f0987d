"""What the mock providers answer at /v1/embeddings."""

import base64
import json
import struct
from collections.abc import Iterator
from typing import Final, final

from arbstr.trio_runtime.mock.said import JSON, Asked, Reply, tokens_in

_DIMENSIONS: Final = 8
"""Numbers of an embedding that nobody asked for in another length (picked)."""


@final
class _Embeddings:
    """A vector of numbers between -1 and 1 for each text, always the same for the same one."""

    stream: Final = False

    def __init__(self, asked: Asked) -> None:
        given = asked.get("input")
        one = not isinstance(given, list) or (bool(given) and isinstance(given[0], int))
        self._texts = [given] if one else given
        self._model = asked["model"]
        length = asked.get("dimensions")
        self._length = length if type(length) is int and 0 < length <= 4096 else _DIMENSIONS
        self._packed = asked.get("encoding_format") == "base64"

    def _vector(self, given: object) -> object:
        seed = sum(json.dumps(given).encode())
        numbers = [((seed + 37 * at) % 201 - 100) / 100 for at in range(self._length)]
        if self._packed:
            return base64.b64encode(struct.pack(f"<{self._length}f", *numbers)).decode()
        return numbers

    def whole(self) -> JSON:
        """A list of embeddings."""
        data = [
            {"object": "embedding", "index": index, "embedding": self._vector(given)}
            for index, given in enumerate(self._texts or ())
        ]
        count = sum(
            len(given) if isinstance(given, list) else tokens_in(str(given))
            for given in self._texts or ()
        )
        usage = {"prompt_tokens": count, "total_tokens": count}
        return {"object": "list", "data": data, "model": self._model, "usage": usage}

    def events(self) -> Iterator[bytes]:
        """There is no stream of them."""
        return iter(())


def embeddings(asked: Asked, name: str, ids: Iterator[int]) -> Reply | str:
    """A vector for each text."""
    if not isinstance(asked.get("input"), str | list):
        return "input must be a string or a list"
    return _Embeddings(asked)
