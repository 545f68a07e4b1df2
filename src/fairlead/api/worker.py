"""What an agent tells a worker to be, and where the two meet on the worker's socket.

`python -m fairlead worker --spec FILE` reads one `WorkerSpec`, as JSON, and serves that revision.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairlead.domain.errors import InvalidInput, Problem
from fairlead.domain.ids import DEFAULT_ENDPOINT, EndpointId, RevisionId
from fairlead.domain.reading import Node

IDENTITY_PATH = "/internal/identity"  # GET: {"worker", "digest", "ready"}
METRICS_PATH = "/metrics"
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ServingSettings:
    """One process's settings. The environment's names are these with the prefix, in any case."""

    api_version: str = "v1"
    add_liveness: bool = True
    add_readiness: bool = True
    add_model_predict: bool = True
    add_model_bio: bool = True
    readiness_sample_inference: bool = False
    liveness_sample_inference: bool = False
    fastapi_name: str = "fastapi-app-name"
    uvicorn_http_port: int = 8501
    grpc_port: int = 0  # 0 is none
    uvicorn_host: str = "0.0.0.0"  # noqa: S104 - S3-5: a server meant for containers
    uvicorn_workers: int = 1
    logconfig_level: int = 20
    logconfig_json_format: bool = True
    logconfig_service: str = "fairlead"
    betterstack_enable: bool = False
    betterstack_api_token: str = "dummy"  # noqa: S105 - the default of S3-5, not a secret
    betterstack_base_url: str = "https://uptime.betterstack.com/api/v1/heartbeat/"
    model_name: str = "keywords"
    model_directory: str = "."
    body_limit_bytes: int = 64 * _MIB
    bodies_limit_bytes: int = 256 * _MIB  # of all requests that are being answered, together
    access_log: bool = False  # a line per request costs as much as a small model

    @property
    def root(self) -> str:
        """What every path of the project API starts with: `/v1`, or nothing."""
        return f"/{self.api_version}" if self.api_version else ""


@dataclass(frozen=True, slots=True)
class ServedEndpoint:
    """One way into the revision: requests at once (0 is no limit) and its own paths."""

    name: str = DEFAULT_ENDPOINT
    concurrency: int = 0
    paths: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """One worker and the revision it serves.

    `socket` is the unix socket to listen on (None in a stand-alone server). `threads` is what one run may
    use inside the engine. With `life_fd`, end of file on that descriptor means that the owner is gone.
    """

    worker: str
    revision: RevisionId
    artifact: Path
    digest: str
    endpoints: tuple[ServedEndpoint, ...] = (ServedEndpoint(),)
    socket: Path | None = None
    settings: ServingSettings = field(default_factory=ServingSettings)
    threads: int = 1
    drain_seconds: float = 30.0
    deadline_seconds: float = 300.0  # Knative's default revision timeout (S0-38)
    life_fd: int | None = None
    pod_name: str = "unknown_pod"
    allow_pickle: bool = False  # the node's setting: may its models load pickles?

    def endpoint_id(self, name: str) -> EndpointId:
        return EndpointId(self.revision.service, self.revision.line, self.revision.revision, name)

    def to_json(self) -> str:
        document = dataclasses.asdict(self)
        document["artifact"] = str(self.artifact)
        document["socket"] = None if self.socket is None else str(self.socket)
        return json.dumps(document)

    @classmethod
    def from_json(cls, text: str | bytes) -> WorkerSpec:
        """Read what `to_json` wrote; raises InvalidInput."""
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            problem = Problem("", f"is not JSON ({error})", "write what WorkerSpec.to_json gives")
            raise InvalidInput("worker spec", [problem]) from None
        node = Node(document)
        names = [one.name for one in dataclasses.fields(cls)]
        node.mapping(names, ["worker", "revision", "artifact", "digest"])
        settings = _of(node.child("settings"), ServingSettings)
        endpoints = [_of(child, ServedEndpoint) for child in _elements(node, "endpoints")]
        revision = node.child("revision")
        revision.mapping(["service", "line", "revision"], ["service", "line", "revision"])
        node.done("worker spec")
        values: dict[str, Any] = {name: document[name] for name in names if name in document}
        values["revision"] = RevisionId(**document["revision"])
        values["artifact"] = Path(document["artifact"])
        values["socket"] = Path(document["socket"]) if document.get("socket") else None
        values["settings"] = ServingSettings(**settings)
        values["endpoints"] = tuple(
            ServedEndpoint(**{**one, "paths": tuple(one.get("paths", ()))}) for one in endpoints
        ) or (ServedEndpoint(),)
        return cls(**values)


def _elements(node: Node, key: str) -> list[Node]:
    return node.child(key).elements() if node.has(key) else []


def _of(node: Node, kind: type) -> Mapping[str, Any]:
    if node.value is None:
        return {}
    node.mapping([one.name for one in dataclasses.fields(kind)])
    return node.value if isinstance(node.value, Mapping) else {}
