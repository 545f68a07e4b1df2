"""What an agent tells a worker to be, and where the two meet on the worker's sockets.

`python -m fairlead worker --spec FILE` reads a list of `WorkerSpec`, as JSON, and serves those revisions: each
on a socket of its own, under a name of its own, so that whoever calls one need not know of the others.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairlead.domain.errors import InvalidInput, Problem
from fairlead.domain.ids import DEFAULT_ENDPOINT, EndpointId, RevisionId
from fairlead.domain.reading import Node

IDENTITY_PATH = "/internal/identity"  # GET: {"worker", "digest", "ready"}
# GET: {"counted", "replicas": [{"worker", "digest", "ready", "failed", "held"}]}: everybody in the process, at any socket.
REPLICAS_PATH = "/internal/replicas"
# GET: {"serves": [{"service", "line", "revision", "digest", "batching"}]}: everybody in the process, at any socket.
BATCHING_PATH = "/internal/batching"
RETIRE_PATH = "/internal/retire"  # POST: answered when the replica of this socket is gone
# POST: the golden examples were answered at the socket of this replica, which nobody else has asked yet: what it has
# counted of them is nobody's traffic.
PROVED_PATH = "/internal/proved"
# POST: the model of a revision without the endpoint `predict`, asked through its first one.
PREDICT_PATH = "/internal/predict"
INFER_PATH = "/internal/infer"
METRICS_PATH = "/metrics"  # of the whole process, at any of its sockets
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
    model_control: bool = (
        False  # may callers load and unload models also where others can reach us?
    )
    access_log: bool = False  # a line per request costs as much as a small model

    @property
    def root(self) -> str:
        """What every path of the project API starts with: `/v1`, or nothing."""
        return f"/{self.api_version}" if self.api_version else ""


@dataclass(frozen=True, slots=True)
class ServedEndpoint:
    """One way into the revision: requests at once (0 is no limit) and its own paths.

    `batching` is what the release file says, as it says it.
    """

    name: str = DEFAULT_ENDPOINT
    concurrency: int = 0
    paths: tuple[str, ...] = ()
    batching: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """One replica of a revision: under which name, where, and from what it is served.

    `worker` is the replica's name; a process that serves several is known by its first one's. `socket` is the
    unix socket to listen on (None in a stand-alone server). `threads` is what one run may use inside the
    engine, 0 as many as turn out best. `measured` is where that is kept. With `life_fd`, end of file on that
    descriptor means that the owner is gone. `only` names the endpoint if the replica serves just that one of a
    revision that has others. `legacy_key` asks callers of the speech API for one of `legacy_keys` (S0-31); those never
    stand in a file: whoever reads the spec adds them.
    """

    worker: str
    revision: RevisionId
    artifact: Path
    digest: str
    endpoints: tuple[ServedEndpoint, ...] = (ServedEndpoint(),)
    socket: Path | None = None
    settings: ServingSettings = field(default_factory=ServingSettings)
    threads: int = 0
    drain_seconds: float = 30.0
    deadline_seconds: float = 300.0  # Knative's default revision timeout (S0-38)
    life_fd: int | None = None
    pod_name: str = "unknown_pod"
    allow_pickle: bool = False  # the node's setting: may its models load pickles?
    measured: Path | None = None
    only: str = ""
    legacy_key: bool = False
    legacy_keys: tuple[str, ...] = field(default=(), repr=False)

    @property
    def predict_path(self) -> str:
        """Where whoever proves this replica asks it in the project API's words, whatever its endpoints are called."""
        if self.has_default:
            return f"{self.settings.root}/model/{self.revision.service}/predict"
        return PREDICT_PATH

    @property
    def infer_path(self) -> str:
        """The same for the Open Inference Protocol."""
        if self.has_default:
            return f"/v2/models/{self.revision.service}/infer"
        return INFER_PATH

    @property
    def has_default(self) -> bool:
        """Has it the endpoint that the paths of the project API and the Open Inference Protocol lead to?"""
        return any(one.name == DEFAULT_ENDPOINT for one in self.endpoints)

    def endpoint_id(self, name: str) -> EndpointId:
        return self.revision.endpoint(name)

    def to_json(self) -> str:
        document = dataclasses.asdict(self)
        document["artifact"] = str(self.artifact)
        document["socket"] = None if self.socket is None else str(self.socket)
        document["measured"] = None if self.measured is None else str(self.measured)
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
        values["measured"] = Path(document["measured"]) if document.get("measured") else None
        values["settings"] = ServingSettings(**settings)
        values["legacy_keys"] = tuple(document.get("legacy_keys", ()))
        values["endpoints"] = tuple(
            ServedEndpoint(**{**one, "paths": tuple(one.get("paths", ()))}) for one in endpoints
        ) or (ServedEndpoint(),)
        return cls(**values)


def specs_to_json(specs: Sequence[WorkerSpec]) -> str:
    """What a worker's spec file holds."""
    return f"[{', '.join(spec.to_json() for spec in specs)}]"


def specs_from_json(text: str | bytes) -> tuple[WorkerSpec, ...]:
    """Read what `specs_to_json` wrote, or a single spec; raises InvalidInput."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        problem = Problem("", f"is not JSON ({error})", "write what specs_to_json gives")
        raise InvalidInput("worker spec", [problem]) from None
    each = document if isinstance(document, list) else [document]
    if not each:
        raise InvalidInput("worker spec", [Problem("", "is an empty list", "name a revision")])
    return tuple(WorkerSpec.from_json(json.dumps(one)) for one in each)


def _elements(node: Node, key: str) -> list[Node]:
    return node.child(key).elements() if node.has(key) else []


def _of(node: Node, kind: type) -> Mapping[str, Any]:
    if node.value is None:
        return {}
    node.mapping([one.name for one in dataclasses.fields(kind)])
    return node.value if isinstance(node.value, Mapping) else {}
