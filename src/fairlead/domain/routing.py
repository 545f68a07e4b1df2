"""Routing: the reference for every data plane.

`route` decides one request by a `RoutingTable`.
Order: key (401), path (404), method (405), killed key and its scope (403), kill switch (503), version (404, listing
only what this key may use; 403 if it is there but not this key's), contradiction (400). Never a silent fallback.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from fairlead.domain.errors import Kind
from fairlead.domain.ids import BUCKETS, LATEST, PER_PERCENT, EndpointId
from fairlead.domain.keys import KeyRecord
from fairlead.domain.paths import CustomPath, ModelPath, OpenPath, PathMatch, parse_path
from fairlead.domain.table import LineRoute, RevisionRoute, RoutingTable, ServiceRoute
from fairlead.domain.versions import natural_key, split_version, version_key

Hash64 = Callable[
    [bytes], int
]  # xxh64 with seed 0; passed in, because this package is standard library only

NO_KEY = "No API key found in request"
BAD_KEY = "Invalid authentication credentials"
DUPLICATE_KEY = "Duplicate API key found"
NOT_YOURS = "You cannot consume this service"


@dataclass(frozen=True, slots=True)
class Ask:
    """What of a request matters to routing. `client` is the key's, once authenticated."""

    method: str
    path: str
    client: str
    accept_version: str | None = None
    sticky_key: str | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that no worker sees."""

    kind: Kind
    message: str
    retry_seconds: int = 0  # when to ask again; 0 says nothing


@dataclass(frozen=True, slots=True)
class Open:
    """A path without a service's name, answered for all by the gateway itself."""

    name: str


@dataclass(frozen=True, slots=True)
class Choice:
    """The shares a request is split over: weights out of 10,000, stable first, canary last.

    A target is None where the share's revision has no endpoint for the path.
    """

    service: str
    path: PathMatch
    targets: tuple[tuple[RevisionRoute, EndpointId | None, int], ...]


@dataclass(frozen=True, slots=True)
class Forward:
    """The endpoint that answers, and the bucket that chose it (None where there was nothing to choose)."""

    endpoint: EndpointId
    digest: str
    bucket: int | None = None


def authenticate(credentials: Mapping[str, str], keys: Iterable[str]) -> str | Refusal:
    """The client whose secret was sent. `credentials` maps secrets to clients; `keys` are the header's values."""
    sent = list(keys)
    if len(sent) > 1 or any("," in key for key in sent):
        return Refusal(Kind.UNAUTHENTICATED, DUPLICATE_KEY)
    if not sent:
        return Refusal(Kind.UNAUTHENTICATED, NO_KEY)
    client = credentials.get(sent[0])
    return Refusal(Kind.UNAUTHENTICATED, BAD_KEY) if client is None else client


def route(table: RoutingTable, ask: Ask, hash64: Hash64) -> Forward | Open | Refusal:
    """Decide one authenticated request."""
    choice = choose(table, ask)
    if not isinstance(choice, Choice):
        return choice
    if len(choice.targets) == 1:
        return _forward(choice, 0, None)
    bucket = bucket_of(ask, hash64)
    passed = 0
    for index, (_, _, weight) in enumerate(choice.targets):
        passed += weight
        if bucket < passed:
            return _forward(choice, index, bucket)
    raise AssertionError(f"weights of {choice.service} sum to {passed}, not {BUCKETS}")


def bucket_of(ask: Ask, hash64: Hash64) -> int:
    """The bucket of a caller: xxh64 of the sticky key if sent, else of the key's client, mod 10,000."""
    return (
        hash64(
            (ask.client if ask.sticky_key is None else ask.sticky_key).encode("latin-1", "replace")
        )
        % BUCKETS
    )


def choose(table: RoutingTable, ask: Ask) -> Choice | Open | Refusal:
    """Everything about a request but the bucket; data planes are built by asking this for every case."""
    path = parse_path(ask.path, table.api_version)
    if isinstance(path, OpenPath):
        return _open(table, ask, path)
    if isinstance(path, ModelPath):
        service = table.services.get(path.service)
        owners = [service] if service else []
    else:
        owners = table.owners(path.path)
    if not owners:
        return _nobody(path)
    if ask.method not in path.methods:
        return _wrong_method(ask, path.methods)
    return _choose_service(table, ask, path, owners)


def _open(table: RoutingTable, ask: Ask, path: OpenPath) -> Open | Refusal:
    if ask.method not in path.methods:
        return _wrong_method(ask, path.methods)
    key = table.keys.get(ask.client)
    if path.keyed and key is not None and key.killed:
        return Refusal(Kind.FORBIDDEN, key.killed)
    return Open(path.name)


def _choose_service(
    table: RoutingTable, ask: Ask, path: ModelPath | CustomPath, owners: list[ServiceRoute]
) -> Choice | Refusal:
    key = table.keys.get(ask.client)
    if key is not None and key.killed:
        return Refusal(Kind.FORBIDDEN, key.killed)
    whole = [owner for owner in owners if key is not None and key.allows(owner.name, path.verb)]
    if key is None or not whole:
        return Refusal(Kind.FORBIDDEN, NOT_YOURS)
    allowed = [_with_lines_of(key, owner, path) for owner in whole]
    found = [
        outcome
        for mine, owner in zip(allowed, whole, strict=True)
        if (outcome := _choose_version(mine, ask, path, owner)) is not None
    ]
    if len(found) == 1:
        return found[0]
    if found:
        message = f"several services answer here: send Accept-Version; versions: {_listed(allowed)}"
        return Refusal(Kind.NOT_FOUND, message)
    if any(_choose_version(owner, ask, path, owner) is not None for owner in whole):
        return Refusal(Kind.FORBIDDEN, NOT_YOURS)
    return _nothing_chosen(ask, path, allowed)


def _nothing_chosen(ask: Ask, path: ModelPath | CustomPath, allowed: list[ServiceRoute]) -> Refusal:
    if isinstance(path, ModelPath) and path.artifact_version is not None:
        return Refusal(Kind.NOT_FOUND, _no_artifact_version(allowed[0], path.artifact_version))
    version = LATEST if ask.accept_version is None else ask.accept_version
    return Refusal(Kind.NOT_FOUND, f"no version {version!r} here; versions: {_listed(allowed)}")


def _listed(services: Iterable[ServiceRoute]) -> str:
    there = {version for service in services for version in service.versions()}
    return ", ".join(sorted(there, key=version_key)) or "none is ready yet"


def _with_lines_of(
    key: KeyRecord, service: ServiceRoute, path: ModelPath | CustomPath
) -> ServiceRoute:
    """The service as if it held only the lines that this key may use for this path."""
    mine = key.lines(service.name, path.verb, service.lines)
    if len(mine) == len(service.lines):
        return service
    return replace(service, lines={name: service.lines[name] for name in mine})


def _choose_version(
    service: ServiceRoute, ask: Ask, path: ModelPath | CustomPath, whole: ServiceRoute
) -> Choice | Refusal | None:
    """None if this service has no such version for this path; `whole` is it with all its lines."""
    if service.kill is not None:
        return Refusal(Kind.UNAVAILABLE, service.kill.message)
    if ask.accept_version is not None and _hidden(_named(service, ask), service, whole):
        return None
    if isinstance(path, ModelPath) and path.artifact_version is not None:
        return _choose_artifact_version(service, ask, path)
    name, revision = split_version(_named(service, ask))
    line = service.lines.get(name)
    if line is None:
        return None
    if revision is not None:
        exact = line.revisions.get(revision)
        return None if exact is None else _exactly(service, path, exact)
    return _by_traffic(service, path, line)


def _hidden(version: str, service: ServiceRoute, whole: ServiceRoute) -> bool:
    """Does this version lie in a line that the key may not use?"""
    line, _ = split_version(version)
    return line in whole.lines and line not in service.lines


def _by_traffic(
    service: ServiceRoute, path: ModelPath | CustomPath, line: LineRoute
) -> Choice | Refusal | None:
    if not line.traffic:
        return Refusal(Kind.UNAVAILABLE, f"{line.id} is not ready: {line.reason}")
    targets = tuple(
        (
            line.revisions[share.tag],
            line.revisions[share.tag].endpoint_for(path),
            share.percent * PER_PERCENT,
        )
        for share in line.traffic
        if share.percent
    )
    if all(endpoint is None for _, endpoint, _ in targets):
        return None
    return Choice(service.name, path, targets)


def _choose_artifact_version(
    service: ServiceRoute, ask: Ask, path: ModelPath
) -> Choice | Refusal | None:
    """`/versions/N`: a live revision that runs artifact version N; the pinned line first, then the newest."""
    live = [
        revision
        for line in service.lines.values()
        for revision in line.revisions.values()
        if str(revision.artifact_version) == path.artifact_version
    ]
    if not live:
        return None
    if ask.accept_version is not None and ask.accept_version != LATEST:
        name, tag = split_version(ask.accept_version)
        if name not in service.lines or (
            tag is not None and tag not in service.lines[name].revisions
        ):
            return _no_version(service, ask.accept_version)
        live = [
            revision
            for revision in live
            if revision.id.line == name and tag in (None, revision.id.revision)
        ]
    elif ask.accept_version == LATEST:
        live = [revision for revision in live if revision.id.line == service.pin]
    if not live:
        message = f"the path asks for artifact version {path.artifact_version}, Accept-Version for {ask.accept_version}"
        return Refusal(Kind.INVALID, f"{message}: send one of the two")
    best = max(
        live,
        key=lambda one: (
            one.id.line == service.pin,
            natural_key(one.id.line),
            natural_key(one.id.revision),
        ),
    )
    return _exactly(service, path, best)


def _exactly(
    service: ServiceRoute, path: ModelPath | CustomPath, revision: RevisionRoute
) -> Choice | Refusal | None:
    endpoint = revision.endpoint_for(path)
    if endpoint is None:
        return None
    if not revision.routable:
        return Refusal(Kind.UNAVAILABLE, f"{revision.id} is not ready: {revision.reason}")
    return Choice(service.name, path, ((revision, endpoint, BUCKETS),))


def _named(service: ServiceRoute, ask: Ask) -> str:
    return service.pin if ask.accept_version in (None, LATEST) else str(ask.accept_version)


def _forward(choice: Choice, index: int, bucket: int | None) -> Forward | Refusal:
    revision, endpoint, _ = choice.targets[index]
    if endpoint is None:
        return Refusal(
            Kind.NOT_FOUND, f"{revision.id.served_version} does not answer {choice.path.path}"
        )
    return Forward(endpoint, revision.digest, bucket)


def _nobody(path: ModelPath | CustomPath) -> Refusal:
    if isinstance(path, ModelPath) and path.path.startswith("/v2/models/"):
        # Clients of this protocol look for these words. They may have come by gRPC, so no HTTP path is named.
        message = f"Request for unknown model: {path.service!r:.80} is not found; the repository index lists what is here"
        return Refusal(Kind.NOT_FOUND, message)
    return Refusal(Kind.NOT_FOUND, f"nothing answers {path.path}; GET / tells what is here")


def _wrong_method(ask: Ask, methods: Iterable[str]) -> Refusal:
    return Refusal(Kind.METHOD, f"{ask.method} is not for this path; use {' or '.join(methods)}")


def _no_version(service: ServiceRoute, version: str) -> Refusal:
    return Refusal(Kind.NOT_FOUND, f"no version {version!r} here; versions: {_listed([service])}")


def _no_artifact_version(service: ServiceRoute, version: str) -> str:
    live = sorted(
        {one.artifact_version for line in service.lines.values() for one in line.revisions.values()}
    )
    listed = ", ".join(map(str, live)) or "none is ready yet"
    return f"no live revision of {service.name} runs artifact version {version}; artifact versions: {listed}"
