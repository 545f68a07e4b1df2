"""The release file: one file for one line; the revision to create, its endpoints, the line's traffic.

The keys are S0-A's as they stand, plus `service`, `artifact` and `endpoints`. `KEYS` is the one
table of them: the reader, the JSON Schema and the reference page all come from it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fairlead.domain.batching import (
    BATCHING_KEYS,
    Batching,
    batching_from_json,
    batching_to_json,
    contradictions,
)
from fairlead.domain.ids import DEFAULT_ENDPOINT, LATEST, NAME, NAME_RULE, ArtifactRef, RevisionId
from fairlead.domain.paths import SERVICE, SERVICE_RULE, CustomPath, parse_path
from fairlead.domain.reading import Node, shown
from fairlead.domain.resources import MAX_QUANTITY, read_resources
from fairlead.domain.schema import Key, object_schema

WHOLE = 100  # what the percents of a line's traffic sum to (S0-41)
_API_VERSION = "v1"  # of the project API, whose paths no endpoint may own
_PATH = re.compile(r"/[A-Za-z0-9._~!$&'()*+,;=:@/-]*")
INTERNAL = "/internal/"  # never routed
_PATH_RULE = "a path that starts with '/', without '?' or '%'"
_SHORTHANDS = ("stream", "validate")  # endpoints that may be written at the top
_MAX_REPLICAS = 10_000
_MAX_CONCURRENCY = 1_000  # Knative's own bound on containerConcurrency
_MAX_SECONDS = 3600  # of a scale-down delay (S0-37), and of a request


@dataclass(frozen=True, slots=True)
class EndpointSpec:
    """One separately scaled way into a revision. `concurrency` 0 means no limit, `max_scale` 0 likewise.

    `timeout_seconds` 0 is the gateway's own.
    """

    name: str
    min_scale: int = 1
    max_scale: int = 1
    concurrency: int = 0
    paths: tuple[str, ...] = ()
    resources: Mapping[str, Any] = field(default_factory=dict)
    batching: Batching = field(default_factory=Batching)
    scale_down_delay_seconds: int = 0
    timeout_seconds: int = 0


@dataclass(frozen=True, slots=True)
class TrafficShare:
    """Which share of a line's requests a revision gets."""

    tag: str
    percent: int


@dataclass(frozen=True, slots=True)
class Release:
    """What a release file says."""

    service: str | None
    line: str
    version: str
    artifact: ArtifactRef | None
    endpoints: tuple[EndpointSpec, ...]
    traffic: tuple[TrafficShare, ...]
    env: str | None = None
    image: str | None = None
    image_entrypoint: str | None = None
    legacy_api_key: bool = False

    @property
    def revision_id(self) -> RevisionId:
        """Identity of the revision this file creates; only for a file that names its service."""
        if self.service is None:
            raise ValueError("a release without a service has no revision identity")
        return RevisionId(self.service, self.line, self.version)

    def digest(self) -> str:
        """SHA-256 of the content: equal for files that mean the same, however they are written."""
        return hashlib.sha256(
            json.dumps(release_to_json(self), sort_keys=True).encode()
        ).hexdigest()


_NAME_SCHEMA = {"type": "string", "pattern": f"^{NAME.pattern}$"}
_SERVICE_SCHEMA = {"type": "string", "pattern": f"^{SERVICE.pattern}$"}
ENDPOINT_KEYS = (
    Key(
        "minScale",
        {"type": "integer", "minimum": 0, "maximum": _MAX_REPLICAS},
        "replicas kept even without requests (default 1)",
    ),
    Key(
        "maxScale",
        {"type": "integer", "minimum": 0, "maximum": _MAX_REPLICAS},
        "most replicas; 0 is no limit (default: minScale, at least 1)",
    ),
    Key(
        "concurrency",
        {"type": "integer", "minimum": 0, "maximum": _MAX_CONCURRENCY},
        "requests one replica works on at once; ten times as many wait, more are refused; 0 is no limit (default 0)",
    ),
    Key(
        "paths",
        {"type": "array", "items": {"type": "string", "pattern": f"^{_PATH.pattern}$"}},
        "paths of its own that lead to this endpoint",
    ),
    Key(
        "resources",
        {"type": "object"},
        "Kubernetes resource maps: {requests: {...}, limits: {...}}",
    ),
    Key(
        "batching",
        object_schema(BATCHING_KEYS),
        "how requests share runs, over what the model's own file says",
    ),
    Key(
        "scaleDownDelaySeconds",
        {"type": "integer", "minimum": 0, "maximum": _MAX_SECONDS},
        "how long fewer requests must last before replicas go (default 0)",
    ),
    Key(
        "timeoutSeconds",
        {"type": "integer", "minimum": 1, "maximum": _MAX_SECONDS},
        "how long a request may take, its whole answer included (default: the gateway's deadline)",
    ),
)
_ENDPOINT_SCHEMA = object_schema(ENDPOINT_KEYS)
KEYS = (
    Key(
        "env",
        {"type": "string"},
        "staging or prod; picks the public host name where a target has one",
    ),
    Key("service", _SERVICE_SCHEMA, "the service this line belongs to: what clients call"),
    Key("model", _NAME_SCHEMA, "the line: what `Accept-Version` names", required=True),
    Key("version", _NAME_SCHEMA, 'the revision of the line, as text: "2"', required=True),
    Key("artifact", {"type": "string"}, "<name>/<version>: what local, Compose and Swarm run"),
    Key(
        "image",
        {"type": "string"},
        "full image reference, by digest if possible: what Kubernetes runs",
    ),
    Key("imageEntrypoint", {"type": "string"}, "WSGI entry inside the image"),
    Key(
        "provideApiKeyAuthForLegacyContainerSupport",
        {"enum": ["true", "false"]},
        'the text "true" or "false": callers may send a key in the body, as older speech clients do',
    ),
    Key("stream", _ENDPOINT_SCHEMA, "shorthand for endpoints.stream"),
    Key("validate", _ENDPOINT_SCHEMA, "shorthand for endpoints.validate"),
    Key(
        "endpoints",
        {"type": "object", "additionalProperties": _ENDPOINT_SCHEMA},
        "the revision's endpoints by name (default: one, `predict`)",
    ),
    Key(
        "traffic",
        {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["tag", "percent"],
                "properties": {
                    "tag": _NAME_SCHEMA,
                    "percent": {"type": "integer", "minimum": 0, "maximum": WHOLE},
                },
            },
        },
        "which revision gets which share; percents sum to 100; 0 keeps a revision reachable by its exact "
        "version only (default: all to this file's version)",
    ),
)


def json_schema() -> dict[str, Any]:
    """JSON Schema of the release file, for editors and for `fairlead docs release`."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Fairlead release file",
        "type": "object",
        "additionalProperties": False,
        "required": [key.name for key in KEYS if key.required],
        "properties": {key.name: dict(key.schema) | {"description": key.meaning} for key in KEYS},
    }


def release_from_document(document: object, source: str) -> Release:
    """Read a release file's content. Raises InvalidInput with every problem, each with its key path."""
    node = Node(document)
    node.mapping([key.name for key in KEYS], [key.name for key in KEYS if key.required])
    if not isinstance(document, Mapping):
        node.done(source)
    line = node.child("model").text(NAME, f"write {NAME_RULE}") if node.has("model") else ""
    if line == LATEST:
        node.child("model").wrong(
            "is 'latest'", "that word is the pin's; give the line a name of its own"
        )
    version = _version(node.child("version")) if node.has("version") else ""
    release = Release(
        service=_optional(node, "service", SERVICE, f"write {SERVICE_RULE}"),
        line=line,
        version=version,
        artifact=_artifact(node.child("artifact")) if node.has("artifact") else None,
        endpoints=_endpoints(node),
        traffic=_traffic(node.child("traffic"))
        if node.has("traffic")
        else (TrafficShare(version, WHOLE),),
        env=_optional(node, "env"),
        image=_optional(node, "image"),
        image_entrypoint=_optional(node, "imageEntrypoint"),
        legacy_api_key=_legacy(node.child("provideApiKeyAuthForLegacyContainerSupport")),
    )
    if release.artifact is None and release.image is None and not node.has("artifact"):
        node.child("artifact").wrong(
            "is missing", "say what to run: artifact: <name>/<version> (or image)"
        )
    node.done(source)
    return release


def release_to_json(release: Release) -> dict[str, Any]:
    """The release as a document that reads back to the same release."""
    document: dict[str, Any] = {
        "env": release.env,
        "service": release.service,
        "model": release.line,
        "version": release.version,
        "artifact": str(release.artifact) if release.artifact else None,
        "image": release.image,
        "imageEntrypoint": release.image_entrypoint,
        "provideApiKeyAuthForLegacyContainerSupport": "true" if release.legacy_api_key else None,
        "endpoints": {endpoint.name: endpoint_to_json(endpoint) for endpoint in release.endpoints},
        "traffic": [{"tag": share.tag, "percent": share.percent} for share in release.traffic],
    }
    return {key: value for key, value in document.items() if value is not None}


def endpoint_to_json(endpoint: EndpointSpec) -> dict[str, Any]:
    """One endpoint as the release file writes it."""
    document: dict[str, Any] = {
        "minScale": endpoint.min_scale,
        "maxScale": endpoint.max_scale,
        "concurrency": endpoint.concurrency,
        "paths": list(endpoint.paths),
        "resources": dict(endpoint.resources),
    }
    # Not said is not written: files from before it existed keep their digest.
    said = {
        "batching": batching_to_json(endpoint.batching),
        "scaleDownDelaySeconds": endpoint.scale_down_delay_seconds,
        "timeoutSeconds": endpoint.timeout_seconds,
    }
    return document | {key: value for key, value in said.items() if value}


def read_endpoint(name: str, node: Node) -> EndpointSpec:
    """Read one endpoint; problems are noted on the node."""
    node.mapping([key.name for key in ENDPOINT_KEYS])
    least = node.child("minScale").integer(0, _MAX_REPLICAS) if node.has("minScale") else 1
    most = (
        node.child("maxScale").integer(0, _MAX_REPLICAS) if node.has("maxScale") else max(least, 1)
    )
    if 0 < most < least:
        node.child("maxScale").wrong(
            f"is {most}, less than minScale {least}", f"write {least} or more, or 0 for no limit"
        )
    paths = (
        [child.text(_PATH, f"write {_PATH_RULE}") for child in node.child("paths").elements()]
        if node.has("paths")
        else []
    )
    for path, count in Counter(paths).items():
        if count > 1:
            node.child("paths").wrong(f"names {path} twice", "each path once")
        if path.startswith(INTERNAL):
            node.child("paths").wrong(f"names {path}", f"{INTERNAL}… is between agent and worker")
    return EndpointSpec(
        name,
        least,
        most,
        node.child("concurrency").integer(0, _MAX_CONCURRENCY) if node.has("concurrency") else 0,
        tuple(paths),
        read_resources(node.child("resources")) if node.has("resources") else {},
        batching_from_json(node.child("batching")) if node.has("batching") else Batching(),
        node.child("scaleDownDelaySeconds").integer(0, _MAX_SECONDS)
        if node.has("scaleDownDelaySeconds")
        else 0,
        node.child("timeoutSeconds").integer(1, _MAX_SECONDS) if node.has("timeoutSeconds") else 0,
    )


def _version(node: Node) -> str:
    if type(node.value) is int and abs(node.value) < MAX_QUANTITY:
        told = str(node.value)
        node.wrong(f"is the number {told}", f'write it as text: "{told}"')
        return ""
    return node.text(NAME, f'write {NAME_RULE}, as text: "2"')


def _artifact(node: Node) -> ArtifactRef | None:
    try:
        return ArtifactRef.parse(node.text())
    except ValueError as error:
        if isinstance(node.value, str):
            node.wrong(f"is {shown(node.value)}", str(error))
        return None


def _optional(node: Node, key: str, *rule: Any) -> str | None:  # noqa: ANN401 - as of `text`
    return node.child(key).text(*rule) if node.has(key) else None


def _legacy(node: Node) -> bool:
    if node.value is None:
        return False
    if isinstance(node.value, bool):
        node.wrong(f"is {shown(node.value)}", 'write it as text: "true" or "false"')
        return False
    return node.one_of(["true", "false"]) == "true"


def _endpoints(node: Node) -> tuple[EndpointSpec, ...]:
    found = {key: _endpoint(key, node.child(key)) for key in _SHORTHANDS if node.has(key)}
    endpoints = node.child("endpoints")
    if node.has("endpoints") and endpoints.mapping():
        for name, child in endpoints.items():
            if not NAME.fullmatch(name):
                child.wrong("is not an endpoint's name", f"write {NAME_RULE}")
            if name in found:
                child.wrong(
                    "is given twice", f"keep endpoints.{name} or the shorthand {name!r}, not both"
                )
            found[name] = _endpoint(name, child)
    _check_paths(endpoints if node.has("endpoints") else node, found)
    return tuple(found[name] for name in sorted(found)) or (EndpointSpec(DEFAULT_ENDPOINT),)


def _endpoint(name: str, node: Node) -> EndpointSpec:
    """As its author writes it: what it says must not be wrong whatever the model's own file says."""
    before = len(node.problems)
    endpoint = read_endpoint(name, node)
    if len(node.problems) == before:
        said, seconds = endpoint.batching, endpoint.timeout_seconds
        where = f"{node.path}.batching"
        node.problems += contradictions(said, where, timeout_seconds=seconds, whole=False)
    return endpoint


def _check_paths(node: Node, endpoints: Mapping[str, EndpointSpec]) -> None:
    owner: dict[str, str] = {}
    for endpoint in endpoints.values():
        for path in endpoint.paths:
            if not isinstance(parse_path(path, _API_VERSION), CustomPath):
                node.child(f"{endpoint.name}.paths").wrong(
                    f"{path} is a path of Fairlead's own", "choose another path"
                )
            first = owner.setdefault(path, endpoint.name)
            if first != endpoint.name:
                node.child(f"{endpoint.name}.paths").wrong(
                    f"{path} leads to {first} too", "one endpoint for each path"
                )


def _traffic(node: Node) -> tuple[TrafficShare, ...]:
    before = len(node.problems)
    shares = [
        TrafficShare(_version(child.child("tag")), child.child("percent").integer(0, WHOLE))
        for child in node.elements()
        if child.mapping(["tag", "percent"], ["tag", "percent"])
    ]
    if len(node.problems) == before:
        check_traffic(node, shares)
    return tuple(shares)


def check_traffic(node: Node, shares: list[TrafficShare]) -> None:
    """The rules every split keeps, from a file or a command: sums to 100, each tag once."""
    for tag, count in Counter(share.tag for share in shares).items():
        if count > 1:
            node.wrong(f"names the tag {tag!r} {count} times", "each tag once")
    total = sum(share.percent for share in shares)
    if total != WHOLE:
        listed = " + ".join(str(share.percent) for share in shares) or "nothing"
        node.wrong(f"percents sum to {total} ({listed})", f"make them sum to {WHOLE}")
