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
_LINE_END = b"\r\n"
_END = b"\r\n\r\n"
_VISIBLE = re.compile(rb"[!-~]+").fullmatch
_MOST_VALUE_BYTES = 512  # of one that is taken over
_MOST_BYTES = 1020  # of a head that is kept, by each connection: what the parser is given at once
_MOST_LONGER_BYTES = 2048  # of a head that is compared with it
_PATIENCE = 16  # heads in a row that were not like the one before


class _Part(NamedTuple):
    """One value that may differ: its name, all that stands between it and the line before it, and what it was."""

    name: bytes
    before: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class _Head:
    """What the parser said of a head, and how bytes that begin with one like it are told.

    Not who answered: a connection must not hold models that are gone.
    """

    url: bytes
    headers: dict[bytes, bytes]
    body_bytes: int
    parts: Sequence[_Part]
    rest: bytes  # the lines behind the last value that may differ


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
        lines = begun[:end].split(_LINE_END)
        # One line for each header, or the parser has read it in another way than it looks.
        if lines[0] != b"POST %b HTTP/1.1" % url or len(lines) != len(raw) + 1:
            return
        parts = []
        between = [lines[0]]
        for line, (name, value) in zip(lines[1:], raw, strict=True):
            if name in MAY_DIFFER:
                start = line.removesuffix(value)
                if start.lower() not in (name + b": ", name + b":"):
                    return
                before = _LINE_END.join([*between, start])
                parts.append(_Part(name, before, value))
                between = []
            else:
                between.append(line)
        self._head = _Head(url, dict(headers), body_bytes, parts, _LINE_END.join(between))

    def again(self, data: bytes) -> tuple[bytes, Headers, bytes] | None:
        """The URL, the headers and the body of the request that these bytes are, at the start of a message.

        None if the parser has to see them. Nobody may change the headers.
        """
        known = self._head
        if known is None:
            return None
        rest, end, body = data.partition(_END)
        if not end or len(rest) > _MOST_LONGER_BYTES:
            return None
        headers, size = known.headers, known.body_bytes
        for name, before, value in known.parts:
            after = rest.removeprefix(before)
            if len(after) == len(rest):
                return None
            sent, _, rest = after.partition(_LINE_END)
            if sent == value:
                continue
            # Most are letters, digits and hyphens, which is told in a fifth of the time.
            plain = sent.replace(b"-", b"").isalnum() or _VISIBLE(sent)
            if not plain or len(sent) > _MOST_VALUE_BYTES:
                return None
            if name == _LENGTH:
                if not is_small_length(sent):
                    return None
                size = int(sent)
            if headers is known.headers:
                headers = headers.copy()
            headers[name] = sent
        return (known.url, headers, body) if rest == known.rest and len(body) == size else None
