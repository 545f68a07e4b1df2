"""A request's head that is like the last one on its connection is not parsed again.

Whoever keeps a connection asks with the same head each time, but for an id, a sticky key, a length. Parsing it costs a
sixth of a small request, and more of one that comes through the gateway, whose heads have a dozen lines. So a connection
keeps a pattern of its last head with what was read of it. A message that begins with the same lines, `MAY_DIFFER`
apart, means the same; those may have another value, which is taken over if it is made of visible characters only: then it
is what the parser would say it is. Nothing that decides where a message ends may differ, except its length.

Whatever is not exactly so (half a request, two at once, another line) goes to the parser as ever.

To make a pattern takes longer than to answer a request, so it is made for a head that came often, on whatever
connections, and shared by them all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fairlead.api.deadlines import GATEWAYS, TIMEOUT
from fairlead.server.http.handlers import Headers
from fairlead.server.http.routes import HeaderList

_LENGTH = b"content-length"
# Read from the headers by whoever needs them, each time. The protocol looks at none of them but the length.
MAY_DIFFER = frozenset(
    {
        *(b"x-request-id", b"x-sticky-key", b"x-client", GATEWAYS, TIMEOUT),
        *(b"traceparent", b"tracestate"),
        _LENGTH,
    }
)
_LINE_END = b"\r\n"
_END = b"\r\n\r\n"
_VALUE = rb"([!-~]{1,512})"
_SIZE = rb"([0-9]{1,9})"
_MOST_BYTES = 1020  # of a head that is kept, by each connection: what the parser is given at once
_PATIENCE = 16  # heads in a row that were not like the one before
_OFTEN = 4  # times a head was parsed before its pattern is made, which takes 0.1 to 0.8 ms
_MOST_PATTERNS = 128


class Patterns:
    """The patterns of the heads that come often to this process."""

    def __init__(self, often: int = _OFTEN) -> None:
        self._often = often
        self._known: dict[bytes, int | re.Pattern[bytes]] = {}  # or how often it came

    def of(self, words: bytes) -> re.Pattern[bytes] | None:
        """The pattern that these words are, if they came often enough."""
        known = self._known.pop(words, 0)  # and behind all others
        if isinstance(known, int):
            known += 1
            if known >= self._often:
                known = re.compile(words)
        self._known[words] = known
        if len(self._known) > _MOST_PATTERNS:
            del self._known[next(iter(self._known))]
        return None if isinstance(known, int) else known


@dataclass(frozen=True, slots=True)
class KnownHead:
    """What the parser said of a head, and how bytes that begin with one like it are told.

    Not who answered: a connection must not hold models that are gone.
    """

    url: bytes
    headers: dict[bytes, bytes]
    match: Callable[[bytes], re.Match[bytes] | None]
    differing: Sequence[bytes]  # names, in their order; the length is one of them


class LastHead:
    """The last head of one connection, until it turns out that no two are alike."""

    __slots__ = ("_patterns", "known", "misses")

    def __init__(self, patterns: Patterns) -> None:
        self._patterns = patterns
        self.known: KnownHead | None = None
        self.misses = 0  # since `again` last found one that was answered; its owner says so

    def came(self, begun: bytes, url: bytes, headers: Headers, raw: HeaderList) -> None:
        """A POST was parsed whose body had a length; what the parser was given when it began starts with `begun`."""
        self.known = None
        self.misses += 1
        end = begun.find(_END)
        if self.misses > _PATIENCE or not 0 < end <= _MOST_BYTES or len(raw) != len(headers):
            return
        lines = begun[:end].split(_LINE_END)
        # One line for each header, or the parser has read it in another way than it looks.
        if lines[0] != b"POST %b HTTP/1.1" % url or len(lines) != len(raw) + 1:
            return
        words, differing = [re.escape(lines[0])], []
        for line, (name, value) in zip(lines[1:], raw, strict=True):
            if name not in MAY_DIFFER:
                words.append(re.escape(line))
                continue
            start = line.removesuffix(value)
            if start.lower() not in (name + b": ", name + b":"):
                return
            words.append(re.escape(start) + (_SIZE if name == _LENGTH else _VALUE))
            differing.append(name)
        pattern = self._patterns.of(_LINE_END.join([*words, _LINE_END]))
        if pattern is not None:
            self.known = KnownHead(url, dict(headers), pattern.match, differing)

    def again(self, data: bytes) -> tuple[Headers, bytes] | None:
        """The headers and the body of the request that these bytes are, at the start of a message.

        None if the parser has to see them.
        """
        known = self.known
        if known is None:
            return None
        found = known.match(data)
        if found is None:
            return None
        headers = known.headers.copy()
        headers.update(zip(known.differing, found.groups(), strict=True))
        body = data[found.end() :]
        return (headers, body) if len(body) == int(headers[_LENGTH]) else None
