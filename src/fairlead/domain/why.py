"""Why a request went as it went: the access log's line, explained for people and for programs.

Pure: everything it says comes from the line, which holds the rule and its shares as they were when the
request was routed, and from the catalog as it was then, which knows the names behind a revision.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from fairlead.domain.catalog import Catalog, Revision
from fairlead.domain.ids import BUCKETS
from fairlead.domain.outcomes import outcome_of
from fairlead.domain.paths import CustomPath, ModelPath, PathMatch, parse_path
from fairlead.domain.requests import LoggedRequest
from fairlead.domain.routing import Ask, Hash64, bucket_of
from fairlead.domain.rules import How, Rule
from fairlead.domain.table import RevisionRoute

FRONT = "front"
_UNSURE = "the sticky key is not kept, and no worker got to say"


@dataclass(frozen=True, slots=True)
class Then:
    """What was configured when the request came; `exact` is false if only what holds now is known."""

    catalog: Catalog
    api_version: str
    exact: bool = True


@dataclass(frozen=True, slots=True)
class Bucket:
    """The place in the split, what was hashed (`sticky key` or `client`), and who says so (`worker`, `gateway`, `computed`)."""

    number: int | None
    of: str
    said_by: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """`parts` are what and how, in order, for people; `document` is the same for programs."""

    title: str
    parts: tuple[tuple[str, str], ...]
    document: dict[str, Any]


def explain(request: LoggedRequest, then: Then, hash64: Hash64) -> Explanation:
    """Explain one request."""
    path = parse_path(request.path, then.api_version)
    revision = _catalogued(request, then)
    bucket = _bucket(request, hash64)
    outcome = outcome_of(request, then.catalog)
    endpoint = _endpoint(request, path, revision)
    parts = (
        ("outcome", outcome.text),
        ("key", _key(request)),
        ("asked for", _asked(request, path, endpoint)),
        ("rule", _rule(request, outcome.refused)),
        ("bucket", _place(request, bucket)),
        ("revision", _revision(request, revision, then)),
        ("worker", _worker(request)),
        ("times", _times(request)),
        ("retries", _retries(request)),
    )
    document = {
        "requestId": request.id,
        "time": request.time,
        "status": request.status,
        "outcome": {"code": outcome.code, "text": outcome.text},
        "key": request.client,
        "peer": request.peer,
        "method": request.method,
        "path": request.path,
        "grpc": {"method": request.grpc_method, "code": request.grpc_code}
        if request.grpc_method
        else None,
        "dialect": _dialect(path),
        "verb": _verb(path),
        "service": _service(request, path),
        "endpoint": endpoint,
        "acceptVersion": request.accept_version,
        "rule": _rule_document(request.rule),
        "bucket": asdict(bucket) if bucket else None,
        "revision": str(request.revision) if request.revision else None,
        "artifact": str(revision.artifact) if revision else None,
        "digest": request.digest,
        "worker": _who(request),
        "heldMs": request.timing.held_ms,
        "queueMs": request.timing.queue_ms,
        "engineMs": request.timing.engine_ms,
        "batch": request.timing.batch,
        "upstreamMs": request.upstream_ms,
        "totalMs": request.total_ms,
        "attempts": request.attempts,
        "retries": max(0, request.attempts - 1),
        "flags": list(request.flags),
        "details": request.details,
        "refusal": request.timing.refusal,
        "errorCode": request.error_code,
        "bytesReceived": request.bytes_received,
        "bytesSent": request.bytes_sent,
        "catalog": {"generation": then.catalog.generation, "exact": then.exact},
    }
    how = f"gRPC {request.grpc_method}, as " if request.grpc_method else ""
    title = f"{how}{request.method} {request.path} at {request.time}, request {request.id}"
    return Explanation(title, tuple(part for part in parts if part[1]), document)


def explain_by_workers(request_id: str) -> Explanation:
    """Of a request that the access log does not have, but a worker wrote about: it came without the gateway."""
    title = f"request {request_id} is not in the access log: it was sent to a worker directly, or its line is gone"
    document = {"requestId": request_id, "outcome": {"code": "direct", "text": title}}
    return Explanation(title, (), document)


def _catalogued(request: LoggedRequest, then: Then) -> Revision | None:
    one = request.revision
    service = then.catalog.services.get(one.service) if one else None
    line = service.lines.get(one.line) if service and one else None
    return line.revisions.get(one.revision) if line and one else None


def _bucket(request: LoggedRequest, hash64: Hash64) -> Bucket | None:
    """None for a request that was not led anywhere."""
    of = "sticky key" if request.has_sticky_key else "client"
    if request.timing.bucket is not None:
        said_by = "gateway" if request.upstream == FRONT else "worker"
        return Bucket(request.timing.bucket, of, said_by)
    if request.rule is None or request.client is None:
        return None
    if request.has_sticky_key:
        return Bucket(None, of, "")
    ask = Ask(request.method, request.path, request.client)
    return Bucket(bucket_of(ask, hash64), of, "computed")


def _key(request: LoggedRequest) -> str:
    name = request.client or "none was accepted"
    if request.client is None and request.upstream == FRONT and request.timing.refusal is None:
        name = "none, and this page needs none"
    return f"{name}; from {request.peer or 'an unknown address'} over {request.protocol or '?'}"


def _asked(request: LoggedRequest, path: PathMatch, endpoint: str | None) -> str:
    version = (
        "no Accept-Version"
        if request.accept_version is None
        else f"Accept-Version {request.accept_version!r}"
    )
    service = _service(request, path)
    what = f"{service}, endpoint {endpoint}" if service and endpoint else service or "no service"
    return f"{what}: {_verb(path)} ({_dialect(path)}), {version}"


def _service(request: LoggedRequest, path: PathMatch) -> str | None:
    if isinstance(path, ModelPath):
        return path.service
    return request.revision.service if request.revision else None


def _dialect(path: PathMatch) -> str:
    if isinstance(path, CustomPath):
        return "project API, a path of the release's own"
    return "Open Inference Protocol" if f"{path.path}/".startswith("/v2/") else "project API"


def _verb(path: PathMatch) -> str:
    if isinstance(path, ModelPath):
        return path.action
    return "predict" if isinstance(path, CustomPath) else path.name


def _endpoint(request: LoggedRequest, path: PathMatch, revision: Revision | None) -> str | None:
    if request.endpoint is not None or request.revision is None or revision is None:
        return request.endpoint
    endpoints = RevisionRoute(
        revision.id, revision.artifact.version, revision.digest, revision.endpoints, routable=True
    )
    found = endpoints.endpoint_for(path)
    return found.endpoint if found else None


def _rule(request: LoggedRequest, refused: bool) -> str:  # noqa: FBT001 - of the outcome, one line above
    rule = request.rule
    if rule is None:
        return "" if refused or request.revision is None else "the log does not say (an older line)"
    line = rule.line
    found = {
        How.PIN: f"no version was asked for, so the pin of {line.service} chose line {line.line}",
        How.LINE: f"Accept-Version named line {line.line}",
        How.EXACT: "Accept-Version named exactly this revision",
        How.ARTIFACT: "the path named an artifact version, which this revision runs",
    }[rule.how]
    if rule.how is How.PIN and request.accept_version is not None:
        found = f"`latest` was asked for, so the pin of {line.service} chose line {line.line}"
    if rule.how in (How.EXACT, How.ARTIFACT):
        return found
    if len(rule.shares) == 1:
        return f"{found}; all of its traffic went to revision {rule.shares[0][0]} then"
    return f"{found}; its traffic was split then: {_shares(rule)}"


def _shares(rule: Rule) -> str:
    return ", ".join(
        f"{rule.line.line}.{tag} {weight * 100 // BUCKETS} %" for tag, weight in rule.shares
    )


def _place(request: LoggedRequest, bucket: Bucket | None) -> str:
    if bucket is None:
        return ""
    if bucket.number is None:
        return f"unknown: {_UNSURE}"
    place = f"{bucket.number} of {BUCKETS:,}, by the {bucket.of}"
    if request.rule is None or len(request.rule.shares) == 1:
        return f"{place} (there was nothing to split)" if request.rule else place
    tag, first, last = request.rule.chosen(bucket.number)
    return f"{place}: buckets {first} to {last} were {request.rule.line.line}.{tag}'s"


def _revision(request: LoggedRequest, revision: Revision | None, then: Then) -> str:
    if request.revision is None:
        return ""
    if revision is None:
        return f"{request.revision}, {request.digest or 'artifact unknown'}"
    text = f"{request.revision}, artifact {revision.artifact}, {request.digest or revision.digest}"
    if request.digest is not None and request.digest != revision.digest:
        when = "" if then.exact else " now"
        text += f" - BUT the catalog has {revision.digest}{when}"
    return text


def _who(request: LoggedRequest) -> str | None:
    return None if request.upstream == FRONT else request.worker


def _worker(request: LoggedRequest) -> str:
    if request.upstream == FRONT or request.timing.refusal is not None:
        return "none: the gateway answered this itself"
    return request.worker or "none was reached"


def _times(request: LoggedRequest) -> str:
    return ", ".join(_each_time(request))


def _each_time(request: LoggedRequest) -> Iterator[str]:
    timing = request.timing
    if timing.held_ms is not None:
        yield f"held for {timing.held_ms:g} ms until a worker had room for it"
    if timing.queue_ms is not None:
        yield f"queue {timing.queue_ms:g} ms"
    if timing.engine_ms is not None:
        yield f"engine {timing.engine_ms:g} ms in a batch of {timing.batch or 1}"
    elif request.revision is not None and request.worker is not None:
        yield "no model run that the worker told of"
    if request.upstream_ms is not None:
        yield f"first byte of the answer after {_milliseconds(request.upstream_ms)}"
    yield f"{_milliseconds(request.total_ms)} in all"


def _milliseconds(whole: int) -> str:
    return f"{whole} ms" if whole else "less than 1 ms"


def _retries(request: LoggedRequest) -> str:
    if request.attempts == 0:
        return "none: it was sent to no process behind the gateway"
    retries = request.attempts - 1
    if retries == 0:
        return "none"
    return f"{retries}, because a worker could not be reached, or broke off what may be asked again"


def _rule_document(rule: Rule | None) -> dict[str, Any] | None:
    if rule is None:
        return None
    shares = [{"tag": tag, "percent": weight * 100 // BUCKETS} for tag, weight in rule.shares]
    return {"by": rule.how.value, "line": str(rule.line), "shares": shares}
