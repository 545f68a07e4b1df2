"""A request's head that comes again, byte for byte, is not read again.

Whoever keeps a connection to ask one model asks with the same head each time; only the body is another. Parsing it anew costs
a fifth of a small request. So a connection keeps its last head with what was read of it, and bytes that begin with it, and are as
many as that head and its body, are the next request: the same bytes at the start of a message mean the same. Whatever
is not exactly so (half a request, two at once, another length) goes to the parser as ever.
"""

from __future__ import annotations

from fairlead.server.http.handlers import Headers
from fairlead.server.http.routes import HeaderList

_END = b"\r\n\r\n"
_MOST_BYTES = 2048  # of a head that is kept, by each connection
_PATIENCE = (
    16  # heads in a row that were not like the one before: a proxy's, which carry an id each
)


class Head:
    """What was read of a head, of a request that was small, complete and not the connection's last."""

    __slots__ = ("body_bytes", "headers", "raw", "size", "start", "url")

    def __init__(
        self, start: bytes, url: bytes, headers: Headers, raw: HeaderList, body_bytes: int
    ) -> None:
        self.start = start
        self.url = url
        self.headers = headers  # shared by all requests that bring it: nobody may change them
        self.raw = raw
        self.body_bytes = body_bytes
        self.size = len(start) + body_bytes


class LastHead:
    """The last head of one connection, until it turns out that no two are alike."""

    __slots__ = ("_misses", "known")

    def __init__(self) -> None:
        self.known: Head | None = None
        self._misses = 0

    def came_again(self) -> None:
        self._misses = 0

    def came(
        self, begun: bytes, url: bytes, headers: Headers, raw: HeaderList, body_bytes: int
    ) -> None:
        """A POST was parsed, whose body had a length: of what the parser was given when it began, `begun` is the start."""
        self.known = None
        self._misses += 1
        if self._misses > _PATIENCE:
            return
        size = begun.find(_END) + len(_END)
        start = begun[:size]
        plain = start.startswith(b"POST %b HTTP/1.1\r\n" % url)
        # One line for each header, or the parser has read it in another way than it looks.
        if plain and len(_END) < size <= _MOST_BYTES and start.count(b"\r\n") == len(raw) + 2:
            self.known = Head(start, url, headers, raw, body_bytes)
