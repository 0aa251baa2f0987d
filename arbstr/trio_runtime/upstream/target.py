"""What is sent: the heads of the requests to a provider, prepared once for each path.

Only these headers are ever sent: our own, the provider's key, and those that a door names
(`Asked.forwarded`). Nothing here waits.
"""

from typing import Final, final

from arbstr.sansio.dialects.dialect import Asked, Headers
from arbstr.sansio.routing.catalog import Provider
from arbstr.trio_runtime.upstream.ask import USER_AGENT
from arbstr.trio_runtime.upstream.transport import Origin, RequestHead, target_of

MOST_HEADS: Final = 32
"""Heads kept for one path, each about 1 kB. Clients choose query and headers, and those of
one version of one program hardly differ."""


@final
class Target:
    """One path at one provider. Its repr shows nothing, for it holds the provider's key."""

    __slots__ = ("_common", "_heads", "_target", "origin")

    def __init__(self, provider: Provider, path: str) -> None:
        url = provider.url_of(path)
        self.origin = Origin.of(url, provider.proxy)
        self._target = target_of(url)
        self._common = [
            (b"host", self.origin.authority),
            (b"user-agent", USER_AGENT),
            (b"accept-encoding", b"identity"),
            (b"content-type", b"application/json"),
            *provider.credentials,
        ]
        self._heads: dict[tuple[bool, bytes, Headers], RequestHead] = {}

    def head(self, asked: Asked, *, stream: bool) -> RequestHead:
        """The head of a request for this."""
        named = stream, asked.query, asked.forwarded
        head = self._heads.get(named)
        if head is None:
            head = self._prepared(*named)
            if len(self._heads) >= MOST_HEADS:
                self._heads.clear()
            self._heads[named] = head
        return head

    def _prepared(self, stream: bool, query: bytes, forwarded: Headers) -> RequestHead:
        target = self._target
        if query:
            target += (b"&" if b"?" in target else b"?") + query
        accept = b"text/event-stream" if stream else b"application/json"
        headers = [*self._common, (b"accept", accept), *forwarded]
        return RequestHead.prepare(b"POST", target, headers)


@final
class Targets:
    """Those of one configuration: each is made when it is first asked for."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Target] = {}

    def of(self, provider: Provider, path: str) -> Target:
        """That of a door's path at a provider."""
        target = self._known.get((provider.name, path))
        if target is None:
            target = self._known[provider.name, path] = Target(provider, path)
        return target
