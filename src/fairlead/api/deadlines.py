"""How long a caller waits: `X-Request-Timeout-Ms`, gRPC's `grpc-timeout`, and what the gateway allows.

The shortest counts, from the request's arrival here: in the queue and in the engine. A word that cannot
be understood is an error, not ignored: its caller believes in a deadline that nobody would keep.

Whoever lets requests wait, a model server or a gateway, tells them the same when they cannot.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from fairlead.domain.errors import Kind, Refused

Headers = Mapping[bytes, bytes]

FULL = "pending request queue full"  # S0-40

TIMEOUT = b"x-request-timeout-ms"
# gRPC over HTTP/2, "Requests": at most eight digits and a unit. 0 is what clients write whose time is over already.
GRPC_TIMEOUT = b"grpc-timeout"
MOST_GRPC_MILLISECONDS = 99_999_999  # what eight digits can say
GATEWAYS = b"x-envoy-expected-rq-timeout-ms"
_MILLISECONDS = re.compile(rb"[0-9]{1,9}")
_GRPC = re.compile(rb"([0-9]{1,8})([HMSmun])")
_SECONDS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


def no_answer(seconds: float) -> str:
    """What a caller is told whose `seconds` are over."""
    return f"no answer within {round(seconds, 3):g} s"


def is_named(headers: Headers) -> bool:
    """Does the caller itself say how long it waits?"""
    return TIMEOUT in headers or GRPC_TIMEOUT in headers


def is_impatient(headers: Headers, most: float) -> bool:
    """Does the caller wait for less time than the endpoint and the gateway would give it?"""
    gateways = headers.get(GATEWAYS)
    others = {} if gateways is None else {GATEWAYS: gateways}
    return seconds_to_answer(headers, most) < seconds_to_answer(others, most)


def seconds_to_answer(headers: Headers, most: float) -> float:
    """Seconds this request may take; raises Refused (INVALID) for a timeout that is none."""
    seconds = most
    gateways = headers.get(GATEWAYS)
    if gateways is not None and _MILLISECONDS.fullmatch(gateways) and int(gateways):
        seconds = min(seconds, int(gateways) / 1000)
    callers = headers.get(TIMEOUT)
    if callers is not None:
        if not _MILLISECONDS.fullmatch(callers) or not int(callers):
            shown = callers.decode("latin-1")
            message = f"X-Request-Timeout-Ms: {shown!r:.40} is no time; write whole milliseconds from 1 to 999999999"
            raise Refused(Kind.INVALID, message)
        seconds = min(seconds, int(callers) / 1000)
    grpc = headers.get(GRPC_TIMEOUT)
    if grpc is not None:
        found = _GRPC.fullmatch(grpc)
        if found is None:
            shown = grpc.decode("latin-1")
            message = f"grpc-timeout: {shown!r:.40} is no time; write up to eight digits and one of H, M, S, m, u, n"
            raise Refused(Kind.INVALID, message)
        seconds = min(seconds, int(found[1]) * _SECONDS[found[2]])
    return seconds
