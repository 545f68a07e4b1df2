"""One request as the gateway's access log has it, read into words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fairlead.domain.ids import RevisionId
from fairlead.domain.rules import Rule, read_rule

# Of `Server-Timing`: a metric's name, or one of its parameters, of which we write `dur` and `desc`.
_PART = re.compile(r'([a-z]+)(?=;)|;(dur|desc)=(?:"((?:[^"\\]|\\.)*)"|([^,;"]*))')
# `speech/v9.2@1f2e3d4c5b6a` or `speech/v9.2/stream@1f2e3d4c5b6a`: revision or endpoint, and which workers.
_CLUSTER = re.compile(r"([^/@]+)/([^/@.]+)\.([^/@]+)(?:/([^/@]+))?@[^@]*")
_NUMBER = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?")
_NOTHING = _NO_FLAGS = "-"
_ACTIVATOR = (
    "activator"  # the socket of what stands between Envoy and a worker that was not there yet
)
# What a gRPC call would have been over HTTP: for those who read the log, a status says how a request ended.
_STATUS_OF_CODE: Mapping[int | None, int] = {
    1: 499,
    2: 500,
    3: 400,
    4: 504,
    5: 404,
    7: 403,
    8: 429,
    9: 409,
    12: 501,
    13: 500,
    14: 503,
    16: 401,
}
# With no attempt counted, these say that one was made all the same; without them (a refused key, a quota) the
# route that the log names was found, and nothing was sent along it.
_TRIED = frozenset({"UH", "UF", "UO", "NC", "URX", "UC", "UR", "UT"})


@dataclass(frozen=True, slots=True)
class Timing:
    """What `Server-Timing` says: milliseconds, requests in the run, place in the split, or why it was refused.

    The activator adds how long it held a request, and the worker it sent it to.
    """

    queue_ms: float | None = None
    engine_ms: float | None = None
    batch: int | None = None
    bucket: int | None = None
    refusal: str | None = None
    held_ms: float | None = None
    worker: str | None = None


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """A line of the access log. None or empty: the log does not say, because it did not come to that."""

    id: str
    time: str
    client: str | None
    peer: str
    protocol: str
    method: str
    path: str
    accept_version: str | None
    has_sticky_key: bool
    status: int
    flags: tuple[str, ...]
    details: str
    error_code: str | None
    rule: Rule | None
    upstream: str | None
    worker: str | None
    digest: str | None
    attempts: int
    timing: Timing
    upstream_ms: int | None
    total_ms: int
    bytes_received: int
    bytes_sent: int
    grpc_method: str | None = None
    grpc_code: int | None = None

    @property
    def revision(self) -> RevisionId | None:
        """The revision whose workers it was led to; None if it went to none."""
        found = _CLUSTER.fullmatch(self.upstream or "")
        return RevisionId(found[1], found[2], found[3]) if found else None

    @property
    def endpoint(self) -> str | None:
        """The endpoint, if these workers are known by it."""
        found = _CLUSTER.fullmatch(self.upstream or "")
        return found[4] if found else None


def read_request(line: Mapping[str, Any]) -> LoggedRequest:
    """Read one line's JSON; fields it lacks, or that are of another kind, are as if they were not said."""
    timing = read_timing(_text(line, "timing"))
    host = _text(line, "upstream_host").rpartition("/")[2].removesuffix(".sock")
    worker = timing.worker if host == _ACTIVATOR else host
    said = _text(line, "flags")
    flags = () if said in ("", _NO_FLAGS) else tuple(said.split(","))
    attempts = _whole(line, "attempts") or 0
    asked = _text_or_none(line, "accept_version")
    led = attempts > 0 or not _TRIED.isdisjoint(flags)
    grpc_method, grpc_code = _called(_text(line, "grpc"))
    status = _whole(line, "status") or 0
    return LoggedRequest(
        id=_text(line, "request_id"),
        time=_text(line, "time"),
        client=_text_or_none(line, "client"),
        peer=_text(line, "peer"),
        protocol=_text(line, "protocol"),
        method=_text(line, "method"),
        path=_text(line, "path"),
        accept_version=asked,
        has_sticky_key=line.get("has_sticky_key") is not None,
        status=_STATUS_OF_CODE.get(grpc_code, status) if grpc_code else status,
        flags=flags,
        details=_text(line, "details"),
        error_code=_text(line, "error_code") or None,
        rule=read_rule(_text(line, "route"), asked) if led else None,
        upstream=(_text(line, "upstream") or None) if led else None,
        worker=worker or None,
        digest=_text(line, "digest") or None,
        attempts=attempts,
        timing=timing,
        upstream_ms=_whole(line, "upstream_ms"),
        total_ms=_whole(line, "total_ms") or 0,
        bytes_received=_whole(line, "bytes_received") or 0,
        bytes_sent=_whole(line, "bytes_sent") or 0,
        grpc_method=grpc_method,
        grpc_code=grpc_code,
    )


def _called(text: str) -> tuple[str | None, int | None]:
    """The method and the code in `ModelInfer 0`; a dash is what the log has for nothing."""
    method, _, code = text.partition(" ")
    named = method if method not in ("", _NOTHING) else None
    return named, int(code) if code.isdigit() else None


def read_timing(header: str) -> Timing:
    """Read what a worker or the front desk wrote into `Server-Timing`; what we do not know is passed over."""
    found: dict[str, str] = {}
    metric = ""
    for name, kind, quoted, bare in _PART.findall(header):
        metric = name or metric
        if kind:
            found[f"{metric} {kind}"] = re.sub(r"\\(.)", r"\1", quoted) or bare
    batch, bucket = _number(found.get("batch desc")), _number(found.get("bucket desc"))
    return Timing(
        queue_ms=_number(found.get("queue dur")),
        engine_ms=_number(found.get("engine dur")),
        batch=None if batch is None else int(batch),
        bucket=None if bucket is None else int(bucket),
        refusal=found.get("refusal desc"),
        held_ms=_number(found.get("held dur")),
        worker=found.get("worker desc"),
    )


def _number(text: str | None) -> float | None:
    return float(text) if text is not None and _NUMBER.fullmatch(text) else None


def _text_or_none(line: Mapping[str, Any], name: str) -> str | None:
    value = line.get(name)
    return value if isinstance(value, str) else None


def _text(line: Mapping[str, Any], name: str) -> str:
    return _text_or_none(line, name) or ""


def _whole(line: Mapping[str, Any], name: str) -> int | None:
    value = line.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
