"""Heads of requests and answers as they pass the activator: read, and changed where it has to say something.

Everything else passes as it came, byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from fairlead.api.deadlines import (
    GATEWAYS,
    GRPC_TIMEOUT,
    MOST_GRPC_MILLISECONDS,
    TIMEOUT,
    seconds_to_answer,
)
from fairlead.api.grpc_status import STATUS
from fairlead.api.http_status import ERROR_CODE, NO_FAULT
from fairlead.domain.errors import Kind, Refused
from fairlead.domain.ids import EndpointId
from fairlead.gateway.listener import HELD_HEADER

END = b"\r\n\r\n"
_HELD = HELD_HEADER.encode()
_TIMES = (GATEWAYS, TIMEOUT, GRPC_TIMEOUT)
_PARTS = 4  # of the header that names an endpoint
_FOREVER = float("inf")
_TIMING = re.compile(rb"server-timing:", re.IGNORECASE)
_OF_CONNECTION = re.compile(rb"(connection|keep-alive):", re.IGNORECASE)
_FULL = re.compile(
    rb"\r\n%b: *%b\r\n" % (ERROR_CODE.encode(), str(Kind.OVERLOADED).encode()), re.IGNORECASE
)
_SERVER_ERROR = re.compile(rb"HTTP/1\.[01] 5")
_CALL_FAILED = re.compile(rb"\r\n%b: *(?:2|4|13|14)\r\n" % STATUS.encode(), re.IGNORECASE)
_EXCUSED = re.compile(rb"\r\n%b:" % NO_FAULT.encode(), re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked\r\n", re.IGNORECASE)
LAST_CHUNK = b"0\r\n\r\n"


@dataclass(frozen=True)
class RequestHead:
    """A request's first line and headers; names in lower case, as Envoy sends them."""

    first: bytes
    headers: tuple[tuple[bytes, bytes], ...]

    @cached_property
    def by_name(self) -> dict[bytes, bytes]:
        return dict(self.headers)

    @property
    def method(self) -> str:
        return self.first.partition(b" ")[0].decode("latin-1")

    @property
    def path(self) -> str:
        """Without the query, nothing decoded."""
        target = self.first.split(b" ")[1] if self.first.count(b" ") else b""
        return target.partition(b"?")[0].decode("latin-1")

    @property
    def endpoint(self) -> EndpointId | None:
        """Whom the route meant; None for what no route of ours sent."""
        parts = self.by_name.get(_HELD, b"").decode("latin-1").split("/")
        return EndpointId(*parts) if len(parts) == _PARTS else None

    @property
    def patience_seconds(self) -> float:
        """How long the caller itself waits; a time that is none is the worker's to refuse."""
        own = {name: self.by_name[name] for name in (TIMEOUT, GRPC_TIMEOUT) if name in self.by_name}
        try:
            return seconds_to_answer(own, _FOREVER)
        except Refused:
            return _FOREVER

    def route_seconds(self, held_seconds: float) -> float:
        """How long the gateway still waits for an answer."""
        said = {GATEWAYS: self.by_name[GATEWAYS]} if GATEWAYS in self.by_name else {}
        return max(0.0, seconds_to_answer(said, _FOREVER) - held_seconds)

    def sent_on(self, held_seconds: float) -> bytes:
        """The head as the worker gets it: for one request only, and with what is left of the times that are said."""
        lines = [self.first]
        for name, value in self.headers:
            if name in (_HELD, b"connection"):
                continue
            left = _left(name, value, held_seconds) if name in _TIMES else value
            lines.append(b"%b: %b" % (name, left))
        return b"\r\n".join((*lines, b"connection: close")) + END


def _left(name: bytes, value: bytes, held_seconds: float) -> bytes:
    """What is left of a time; as it came if it is none."""
    try:
        seconds = seconds_to_answer({name: value}, _FOREVER)
    except Refused:
        return value
    if seconds == _FOREVER:
        return value
    left = max(1, round((seconds - held_seconds) * 1000))
    return b"%dm" % min(left, MOST_GRPC_MILLISECONDS) if name == GRPC_TIMEOUT else b"%d" % left


def read_head(data: bytes) -> RequestHead:
    """Read a head, without its empty line."""
    first, *lines = data.split(b"\r\n")
    return RequestHead(first, tuple(_headers(lines)))


def _headers(lines: Iterable[bytes]) -> Iterable[tuple[bytes, bytes]]:
    for line in lines:
        name, _, value = line.partition(b":")
        yield name.lower(), value.strip()


def is_failure(head: bytes) -> bool:
    """Does this answer's head count against its worker? As Envoy's kill switch has it (clusters.py)."""
    failed = _SERVER_ERROR.match(head) or _CALL_FAILED.search(head)
    return failed is not None and not is_full(head) and _EXCUSED.search(head) is None


def is_chunked(head: bytes) -> bool:
    """Is the answer of no length that is known beforehand?"""
    return _CHUNKED.search(head) is not None


def is_full(head: bytes) -> bool:
    """Does this answer's head say that the worker's queue was full, so that nothing was done?"""
    return _FULL.search(head) is not None


def told(head: bytes, held_seconds: float, worker: str) -> bytes:
    """An answer's head, the last on its connection; `Server-Timing` says how long it was held and who answered."""
    said = b"held;dur=%.3f, worker;desc=%b" % (held_seconds * 1000, worker.encode())
    lines = [
        line for line in head.removesuffix(END).split(b"\r\n") if not _OF_CONNECTION.match(line)
    ]
    timing = next((at for at, line in enumerate(lines) if _TIMING.match(line)), None)
    if timing is None:
        lines.append(b"server-timing: " + said)
    else:
        lines[timing] += b", " + said
    return b"\r\n".join((*lines, b"connection: close")) + END
