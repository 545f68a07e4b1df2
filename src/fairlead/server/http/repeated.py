"""A request's head that is like the last one on its connection is not parsed again.

Whoever keeps a connection asks with the same head each time, but for an id, a sticky key, a length. Parsing it costs a
sixth of a small request, and more of one that comes through the gateway, whose heads have a dozen lines. So a connection
keeps the lines of its last head with what was read of them. A message that begins with the same lines, `MAY_DIFFER`
apart, means the same; those have another value, which is taken over if it is made of visible characters only: then it is
what the parser would say it is. Nothing that decides where a message ends may differ, except its length.

Whatever is not exactly so (half a request, two at once, another line) goes to the parser as ever.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fairlead.api.deadlines import GATEWAYS, TIMEOUT
from fairlead.server.http.exchange import is_small_length
from fairlead.server.http.handlers import Headers
from fairlead.server.http.routes import HeaderList

_LENGTH = b"content-length"
# Read from the headers by whoever needs them, each time. The protocol looks at none of them but the length, which is checked.
MAY_DIFFER = frozenset(
    {
        *(b"x-request-id", b"x-sticky-key", b"x-client", GATEWAYS, TIMEOUT),
        *(b"traceparent", b"tracestate"),
        _LENGTH,
    }
)
_END = b"\r\n\r\n"
_VISIBLE = re.compile(rb"[!-~]{1,512}").fullmatch
_MOST_BYTES = 1020  # of a head that is kept, by each connection: what the parser is given at once
_PATIENCE = 16  # heads in a row that were not like the one before


class Repeated(NamedTuple):
    """What the parser would have said of a whole request. Nobody may change the headers."""

    url: bytes
    headers: Headers
    body: bytes


@dataclass(slots=True)
class _Head:
    url: bytes
    headers: Headers
    lines: Sequence[bytes]
    differing: Sequence[tuple[int, bytes, bytes]]  # place, name, and the line up to the value
    body_bytes: int


class LastHead:
    """The last head of one connection, until it turns out that no two are alike."""

    __slots__ = ("_head", "misses")

    def __init__(self) -> None:
        self._head: _Head | None = None
        self.misses = 0  # since `again` last found one that was answered; its owner says so

    def came(
        self, begun: bytes, url: bytes, headers: Headers, raw: HeaderList, body_bytes: int
    ) -> None:
        """A POST was parsed whose body had a length; what the parser was given when it began starts with `begun`."""
        self._head = None
        self.misses += 1
        end = begun.find(_END)
        if self.misses > _PATIENCE or not 0 < end <= _MOST_BYTES or len(raw) != len(headers):
            return
        lines = begun[:end].split(b"\r\n")
        # One line for each header, or the parser has read it in another way than it looks.
        if lines[0] != b"POST %b HTTP/1.1" % url or len(lines) != len(raw) + 1:
            return
        differing = []
        for place, (name, value) in enumerate(raw, 1):
            if name in MAY_DIFFER:
                start = lines[place].removesuffix(value)
                if start.lower() not in (name + b": ", name + b":"):
                    return
                differing.append((place, name, start))
        self._head = _Head(url, headers, lines, differing, body_bytes)

    def again(self, data: bytes) -> Repeated | None:
        """The request that these bytes are, at the start of a message; None if the parser has to see them."""
        head = self._head
        end = data.find(_END) if head is not None else -1
        if head is None or end < 0:
            return None
        lines = data[:end].split(b"\r\n")
        known = head.lines
        if len(lines) != len(known):
            return None
        headers, size = head.headers, head.body_bytes
        for place, name, start in head.differing:
            line = lines[place]
            if line == known[place]:
                continue
            value = line[len(start) :]
            if not line.startswith(start) or not _VISIBLE(value):
                return None
            if name == _LENGTH:
                if not is_small_length(value):
                    return None
                size = int(value)
            if headers is head.headers:
                headers = dict(headers)
            headers[name] = value  # type: ignore[index] # our own copy
            lines[place] = known[place]
        if lines != known or len(data) != end + len(_END) + size:
            return None
        return Repeated(head.url, headers, data[end + len(_END) :])
