"""Which path is what: the URLs of the project API (S3-A) and the Open Inference Protocol (S1-G 40).

Matching is on the path as it was sent, without its query: nothing is decoded, merged or resolved, so every
data plane sees the same thing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from fairlead.domain.ids import NAME, NAME_RULE
from fairlead.domain.keys import Verb

GET = ("GET", "HEAD")
WRITE = ("POST",)
CUSTOM = ("GET", "POST")  # S0-8
OPENAI_SPEECH = (
    "/audio/speech"  # the end of a path at which OpenAI's clients send a text: a body, so no GET
)

PREDICT = "predict"
BIO = "bio"
INFER = "infer"
READY = "ready"
METADATA = "metadata"
CONFIG = "config"
STATS = "stats"
# What a service may be called: a path of its own must not be everybody's.
SERVICE = re.compile(rf"(?!{STATS}$){NAME.pattern}")
SERVICE_RULE = f"{NAME_RULE}; not {STATS!r}: /v2/models/{STATS} is everybody's statistics"

# Every action has one verb: what a key needs to ask it. Whatever a release's own paths do is inference.
VERBS: Mapping[str, Verb] = {
    PREDICT: Verb.INFER,
    INFER: Verb.INFER,
    BIO: Verb.READ,
    READY: Verb.READ,
    METADATA: Verb.READ,
    CONFIG: Verb.READ,
    STATS: Verb.READ,
}


@dataclass(frozen=True, slots=True)
class OpenPath:
    """A path that no service answers: `name` says which. `keyed`: what it tells depends on who asks."""

    path: str
    name: str
    methods: tuple[str, ...]
    keyed: bool = False


@dataclass(frozen=True, slots=True)
class ModelPath:
    """A path that names a service; `artifact_version` is what follows `/versions/`, as sent."""

    path: str
    service: str
    action: str
    methods: tuple[str, ...]
    artifact_version: str | None = None

    @property
    def verb(self) -> Verb:
        return VERBS[self.action]


@dataclass(frozen=True, slots=True)
class CustomPath:
    """Any other path: perhaps one that an endpoint of some release owns."""

    path: str
    methods: tuple[str, ...] = CUSTOM

    @property
    def verb(self) -> Verb:
        return Verb.INFER


# Extensions of Open Inference servers that are not here, by the first part of their paths.
NOT_SERVED: Mapping[str, str] = {
    "trace": "trace",
    "logging": "logging",
    "systemsharedmemory": "system_shared_memory",
    "cudasharedmemory": "cuda_shared_memory",
}
_MODEL_METHODS: Mapping[tuple[str, ...], tuple[str, ...]] = {
    (): GET,
    (READY,): GET,
    (CONFIG,): GET,
    (STATS,): GET,
    (INFER,): WRITE,
}

PathMatch = OpenPath | ModelPath | CustomPath


@cache  # asked for every request of a data plane
def open_paths(api_version: str) -> Mapping[str, OpenPath]:
    """Every path that is answered for all services."""
    root = f"/{api_version}" if api_version else ""
    names = {
        "/": "home",
        "/livez": "livez",
        "/healthz": "healthz",
        "/metrics": "metrics",
        "/docs": "docs",
        "/openapi.json": "openapi",
        f"{root}/": "root" if root else "home",
        f"{root}/live": "live",
        f"{root}/ready": "ready",
        "/v2": "v2",
        "/v2/": "v2",
        "/v2/health/live": "v2_live",
        "/v2/health/ready": "v2_ready",
    }
    found = {path: OpenPath(path, name, GET) for path, name in names.items()}
    for path, name, methods in (
        ("/v2/models/stats", "v2_stats", GET),
        ("/v2/repository/index", "v2_index", WRITE),
    ):
        found[path] = OpenPath(path, name, methods, keyed=True)
    return found


def parse_path(target: str, api_version: str) -> PathMatch:
    """Read a request target. `api_version` is the first part of the project API's paths; it may be empty."""
    path = target.partition("?")[0]
    known = open_paths(api_version).get(path)
    if known is not None:
        return known
    if path.startswith(STATIC_PREFIX):
        return OpenPath(path, "static", GET)
    parts = path.split("/")[1:]
    prefix = [api_version, "model"] if api_version else ["model"]
    if parts[: len(prefix)] == prefix and len(parts) == len(prefix) + 2:
        return _project(path, *parts[len(prefix) :])
    match parts:
        case ["v2", "models", service, *rest] if service and rest != ["trace", "setting"]:
            return _open_inference(path, service, rest)
        case ["v2", *rest]:
            return _extension(path, rest)
        case _:
            return CustomPath(path, WRITE if path.endswith(OPENAI_SPEECH) else CUSTOM)


def extension_of(path: str) -> str:
    """Which extension a `v2_extension` path belongs to."""
    return NOT_SERVED.get(path.split("/")[2], "trace")


STATIC_PREFIX = "/static-offline-docs/"  # the docs page's script and style


def _project(path: str, service: str, action: str) -> PathMatch:
    methods = {PREDICT: WRITE, BIO: GET}.get(action)
    return ModelPath(path, service, action, methods) if methods and service else CustomPath(path)


def _open_inference(path: str, service: str, rest: list[str]) -> PathMatch:
    version = None
    if len(rest) > 1 and rest[0] == "versions":
        version, rest = rest[1], rest[2:]
    methods = _MODEL_METHODS.get(tuple(rest))
    if methods is None or version == "":
        return CustomPath(path)
    return ModelPath(path, service, rest[0] if rest else METADATA, methods, version)


def _extension(path: str, rest: list[str]) -> PathMatch:
    """Paths of the protocol's extensions: what loads and unloads, and what is not served here."""
    match rest:
        case ["repository", "models", service, "load" | "unload"] if service:
            return OpenPath(path, "v2_control", WRITE, keyed=True)
        case ["models", _, "trace", "setting"]:
            return OpenPath(path, "v2_extension", CUSTOM, keyed=True)
        case [first, *_] if first in NOT_SERVED:
            return OpenPath(path, "v2_extension", CUSTOM, keyed=True)
        case _:
            return CustomPath(path)
