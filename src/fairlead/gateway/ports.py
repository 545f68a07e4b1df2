"""The seam to Envoy; its fake ships in `fairlead.adapters.memory.envoy`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

Document = dict[str, Any]


class Envoy(Protocol):
    """One Envoy process and the files it reads.

    The `set_` methods write only what differs from what lies there, wait until Envoy has taken it,
    and say whether anything was written. They raise FairleadError of kind INVALID with Envoy's own words if
    it refuses, of kind DEADLINE if it is too slow, and of another if it ends over it; what was there before then
    stays in force, and on disk. OSError: the disk took nothing. Asked once more, they do it all again.

    While none runs they only write. If the next one does not start with that, the one after it is started with what
    was in force before.
    """

    async def adopt(self, bootstrap: Document) -> bool:
        """Take over the living Envoy that was started with this very bootstrap; end any other that lives here."""
        ...

    async def start(self, bootstrap: Document) -> None:
        """Start one, with whatever was set last; serves once this returns.

        Raises FairleadError if Envoy ends at once or does not answer.
        """
        ...

    async def set_clusters(self, clusters: Sequence[Document]) -> bool: ...

    async def set_routes(self, routes: Document) -> bool: ...

    async def set_listeners(self, listeners: Sequence[Document]) -> bool: ...

    async def set_certificate(self, certificate: Document | None) -> bool:
        """The pair that new TLS connections get; those there are stay. Set before a listener asks for it.

        None: nothing of it stays on the disk, once no listener asks for it.
        """
        ...

    def clusters(self) -> Mapping[str, Document]:
        """The clusters set last, by name; also by the gateway before this one."""
        ...

    def listeners(self) -> Mapping[str, Document]:
        """The listeners set last, by name; also by the gateway before this one."""
        ...

    def routes(self) -> Document:
        """The routes set last; empty if none ever were."""
        ...

    async def stats(self, pattern: str) -> Mapping[str, int]:
        """Counters and gauges whose name matches the regular expression; empty while Envoy is away."""
        ...

    async def switched_off(self) -> Mapping[str, frozenset[str]] | None:
        """The sockets that get no requests now because of their failures, by cluster; None while Envoy is away."""
        ...

    async def ended(self) -> str:
        """Wait until the process has ended; says how."""
        ...

    async def reopen_logs(self) -> None:
        """Go on writing under the old name after the access log was renamed."""
        ...

    async def drain(self, seconds: float) -> None:
        """Take no new connections, let requests finish; returns when none is left or time is up."""
        ...

    async def stop(self, seconds: float) -> None:
        """End the process, by force once time is up."""
        ...
