"""The observed state: what a node's agent has and serves, and what its gateway routes.

The agent is the only writer of `NodeStatus`, the gateway of `GatewayStatus`; both lie in local files,
so each side works with the other one, the control and the store away.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

from fairlead.domain.catalog import Catalog, Revision
from fairlead.domain.ids import EndpointId, LineId, RevisionId
from fairlead.domain.manifest import check_schema
from fairlead.domain.reading import Kept, Node, read_each, read_json
from fairlead.domain.release import TrafficShare
from fairlead.domain.scale_units import ScaleUnit, unserved

SCHEMA = 1


class State(StrEnum):
    """How far a replica of a revision is."""

    PULLING = "pulling"  # its artifact is on the way to this node
    STARTING = "starting"  # its worker loads and warms up
    PROVING = "proving"  # golden examples go through the transport
    READY = "ready"
    DRAINING = "draining"  # no longer wanted: finishes what it has
    FAILED = "failed"  # see `reason`; tried again after a pause


_STATES = tuple(str(state) for state in State)


@dataclass(frozen=True, slots=True)
class Replica:
    """One worker of one revision. `worker` is unique over the node's life; `socket` is its unix socket.

    `endpoint` is the one it serves; empty if it serves every endpoint of the revision. `held_since`: when runs began
    that do not end, though nobody waits for them, and that leave no place for others; 0 if there are none.
    """

    worker: str
    revision: RevisionId
    digest: str
    state: State
    reason: str = ""
    socket: str = ""
    pid: int = 0
    since: float = 0.0
    endpoint: str = ""
    held_since: float = 0.0

    @property
    def unit(self) -> ScaleUnit:
        """What it is a replica of."""
        return ScaleUnit(self.revision, self.endpoint)

    def held(self, now: float) -> str:
        """What there is to say of runs that hold it; empty if none does."""
        if not self.held_since or self.state is not State.READY:
            return ""
        return f"a run has gone on for {now - self.held_since:.0f} s; nobody else is answered"


@dataclass(frozen=True, slots=True)
class Scale:
    """How many replicas a scale unit should have now, and why so many if that is not plain."""

    unit: ScaleUnit
    wished: int
    why: str = ""


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """What an agent says of its node. `written_at` (epoch seconds) is its heartbeat.

    `cold` are the endpoints that on purpose have no ready replica: one comes up when somebody asks. `scales`
    tells of the units whose number of replicas may change.
    """

    node: str
    written_at: float
    pid: int
    generation: int
    replicas: tuple[Replica, ...] = ()
    problem: str = ""
    cold: tuple[EndpointId, ...] = ()
    scales: tuple[Scale, ...] = ()

    def only(self, services: Collection[str]) -> NodeStatus:
        """What it says of these services."""
        return replace(
            self,
            replicas=tuple(one for one in self.replicas if one.revision.service in services),
            cold=tuple(one for one in self.cold if one.service in services),
            scales=tuple(one for one in self.scales if one.unit.revision.service in services),
        )

    def ready(self) -> dict[RevisionId, tuple[Replica, ...]]:
        """The ready replicas of each revision that has any, in a stable order."""
        found: dict[RevisionId, list[Replica]] = {}
        for replica in sorted(self.replicas, key=lambda replica: replica.worker):
            if replica.state is State.READY:
                found.setdefault(replica.revision, []).append(replica)
        return {revision: tuple(replicas) for revision, replicas in found.items()}

    def ready_for(self, catalog: Catalog) -> dict[RevisionId, tuple[Replica, ...]]:
        """The same, without replicas of another artifact: of a line that was deleted and made anew."""
        named = {
            revision.id: revision.digest
            for service in catalog.services.values()
            for line in service.lines.values()
            for revision in line.revisions.values()
        }
        found = {
            revision: tuple(one for one in replicas if named.get(revision, "") in ("", one.digest))
            for revision, replicas in self.ready().items()
        }
        return {revision: replicas for revision, replicas in found.items() if replicas}

    def unserved(self, revision: Revision) -> tuple[EndpointId, ...]:
        """The endpoints of a revision that are neither ready nor cold; none of one that is up."""
        ready = {
            replica.endpoint
            for replica in self.replicas
            if replica.state is State.READY and replica.revision == revision.id
        }
        return unserved(revision, ready, self.cold)

    def stands(self, revision: RevisionId) -> bool:
        """Is all of it ready or cold, as far as this status knows of it?"""
        known = any(one.revision_id == revision for one in self.cold) or any(
            one.revision == revision and one.state is State.READY for one in self.replicas
        )
        return known and revision not in self.reasons()

    def up(self, catalog: Catalog) -> frozenset[RevisionId]:
        """Every revision of which each endpoint is ready, or cold."""
        ready = {
            revision: {one.endpoint for one in replicas}
            for revision, replicas in self.ready_for(catalog).items()
        }
        cold = frozenset(self.cold)
        there = ready.keys() | {endpoint.revision_id for endpoint in cold}
        return frozenset(
            revision.id
            for one in there
            if (revision := catalog.revision(one)) is not None
            and not unserved(revision, ready.get(one, ()), cold)
        )

    def reasons(self) -> dict[RevisionId, str]:
        """Why each revision that lacks a ready replica, of one of its endpoints at least, lacks it.

        What is cold lacks none, also while it comes up.
        """
        fine = {replica.unit for replica in self.replicas if replica.state is State.READY}
        fine |= {
            ScaleUnit(one.revision_id, name) for one in self.cold for name in ("", one.endpoint)
        }
        return {
            replica.revision: f"{replica.state}: {replica.reason}"
            if replica.reason
            else str(replica.state)
            for replica in self.replicas
            if replica.unit not in fine and replica.state is not State.DRAINING
        }


@dataclass(frozen=True, slots=True)
class OpenSwitch:
    """An endpoint whose kill switch is open: `workers`, of `of` that it has, get no requests after too many failures.

    `since` and `until` are epoch seconds: when the first of them was switched off, and is tried again.
    """

    endpoint: EndpointId
    workers: tuple[str, ...]
    of: int
    since: float
    until: float

    @property
    def whole(self) -> bool:
        """Is nobody left to answer?"""
        return len(self.workers) >= self.of

    @property
    def what(self) -> str:
        """In words, for a status."""
        whom = "" if self.whole else f": {len(self.workers)} of {self.of} workers"
        return f"{self.endpoint} is switched off after too many failures{whom}"


@dataclass(frozen=True, slots=True)
class GatewayStatus:
    """What a gateway routes. A worker not in `workers` gets no request from it any more.

    `effective` is each line's traffic as it really flows: the catalog's, once every revision in it is ready.
    `pins` likewise.
    """

    written_at: float
    pid: int
    generation: int
    url: str
    workers: tuple[str, ...] = ()
    effective: Mapping[LineId, tuple[TrafficShare, ...]] = field(default_factory=dict)
    pins: Mapping[str, str] = field(default_factory=dict)
    problem: str = ""
    coming: tuple[str, ...] = ()  # those of `workers` that a move under way leads to
    keys: str = ""  # which state of the key file is in force
    switches: tuple[OpenSwitch, ...] = ()  # the kill switches that are open


def node_status_to_bytes(status: NodeStatus, kept: dict[Replica, str] | None = None) -> bytes:
    """The node's status as its file holds it.

    `kept` belongs to whoever writes a status again and again: the texts of the last one, because a node says the
    same of most of its thousand replicas twice a second. What is not said any more is not kept either.
    """
    kept = {} if kept is None else kept
    texts = [kept.get(one) or _replica_to_json(one) for one in status.replicas]
    kept.clear()
    kept.update(zip(status.replicas, texts, strict=True))
    said = {
        "schema": SCHEMA,
        "node": status.node,
        "written_at": status.written_at,
        "pid": status.pid,
        "generation": status.generation,
        "problem": status.problem,
    }
    lists = {
        "replicas": texts,
        "cold": (json.dumps(_endpoint_to_json(one)) for one in status.cold),
        "scales": (json.dumps(asdict(one), ensure_ascii=False) for one in status.scales),
    }
    rest = "".join(f', "{key}": [{", ".join(each)}]' for key, each in lists.items())
    return f"{json.dumps(said, ensure_ascii=False)[:-1]}{rest}}}".encode()


KeptReplicas = Kept[Replica]
KeptTraffic = Kept[tuple[LineId, tuple[TrafficShare, ...]]]


def node_status_from_bytes(
    data: bytes, source: str = "status", kept: KeptReplicas | None = None
) -> NodeStatus:
    """Read a node's status; raises InvalidInput, or FairleadError if a newer version wrote it.

    `kept` belongs to whoever reads a status again and again, and is what was read last.
    """
    document = read_json(data, source, "whoever writes it writes it again")
    check_schema(document, SCHEMA, source)
    node = Node(document)
    node.mapping(None, ["node", "written_at", "pid", "generation", "replicas"])
    status = NodeStatus(
        node=node.child("node").text(),
        written_at=node.child("written_at").number(),
        pid=node.child("pid").integer(0),
        generation=node.child("generation").integer(0),
        replicas=read_each(node.child("replicas"), ("worker",), _replica, kept),
        problem=str(node.child("problem").value or ""),
        cold=tuple(_endpoint(child) for child in node.child("cold").elements())
        if node.has("cold")
        else (),
        scales=tuple(_scale(child) for child in node.child("scales").elements())
        if node.has("scales")
        else (),
    )
    node.done(source)
    return status


def gateway_status_to_bytes(status: GatewayStatus) -> bytes:
    """The gateway's status as its file holds it."""
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "written_at": status.written_at,
        "pid": status.pid,
        "generation": status.generation,
        "url": status.url,
        "workers": list(status.workers),
        "coming": list(status.coming),
        "effective": [
            {
                "service": line.service,
                "line": line.line,
                "traffic": [{"tag": one.tag, "percent": one.percent} for one in shares],
            }
            for line, shares in status.effective.items()
        ],
        "pins": dict(status.pins),
        "problem": status.problem,
        "keys": status.keys,
        "switches": [asdict(switch) for switch in status.switches],
    }
    return json.dumps(document, ensure_ascii=False).encode()


def gateway_status_from_bytes(
    data: bytes, source: str = "gateway status", kept: KeptTraffic | None = None
) -> GatewayStatus:
    """Read a gateway's status; raises InvalidInput, or FairleadError if a newer version wrote it. `kept` as above."""
    document = read_json(data, source, "whoever writes it writes it again")
    check_schema(document, SCHEMA, source)
    node = Node(document)
    node.mapping(None, ["written_at", "pid", "generation", "url", "workers", "effective", "pins"])
    status = GatewayStatus(
        written_at=node.child("written_at").number(),
        pid=node.child("pid").integer(0),
        generation=node.child("generation").integer(0),
        url=node.child("url").text(),
        workers=tuple(child.text() for child in node.child("workers").elements()),
        coming=tuple(child.text() for child in node.child("coming").elements())
        if node.has("coming")
        else (),
        effective=dict(read_each(node.child("effective"), ("service", "line"), _effective, kept)),
        pins={service: child.text() for service, child in node.child("pins").items()},
        problem=str(node.child("problem").value or ""),
        keys=str(node.child("keys").value or ""),
        switches=tuple(_switch(child) for child in node.child("switches").elements())
        if node.has("switches")
        else (),
    )
    node.done(source)
    return status


def _replica_to_json(replica: Replica) -> str:
    return json.dumps(asdict(replica), ensure_ascii=False)


def _endpoint_to_json(one: EndpointId) -> dict[str, str]:
    """By hand, because a node may have a thousand cold ones and tells of them twice a second."""
    return {
        "service": one.service,
        "line": one.line,
        "revision": one.revision,
        "endpoint": one.endpoint,
    }


def _revision(node: Node) -> RevisionId:
    return RevisionId(*(node.child(key).text() for key in ("service", "line", "revision")))


def _endpoint(node: Node) -> EndpointId:
    return EndpointId(
        *(node.child(key).text() for key in ("service", "line", "revision", "endpoint"))
    )


def _scale(node: Node) -> Scale:
    unit = node.child("unit")
    return Scale(
        ScaleUnit(_revision(unit.child("revision")), str(unit.child("endpoint").value or "")),
        node.child("wished").integer(0),
        str(node.child("why").value or ""),
    )


def _replica(node: Node) -> Replica:
    return Replica(
        worker=node.child("worker").text(),
        revision=_revision(node.child("revision")),
        digest=node.child("digest").text(),
        state=State(node.child("state").one_of(_STATES)),
        reason=str(node.child("reason").value or ""),
        socket=str(node.child("socket").value or ""),
        pid=node.child("pid").integer(0),
        since=node.child("since").number(),
        endpoint=str(node.child("endpoint").value or ""),
        held_since=node.child("held_since").number() if node.has("held_since") else 0.0,
    )


def _switch(node: Node) -> OpenSwitch:
    return OpenSwitch(
        _endpoint(node.child("endpoint")),
        tuple(child.text() for child in node.child("workers").elements()),
        node.child("of").integer(0),
        node.child("since").number(),
        node.child("until").number(),
    )


def _effective(node: Node) -> tuple[LineId, tuple[TrafficShare, ...]]:
    shares = tuple(
        TrafficShare(child.child("tag").text(), child.child("percent").integer(0, 100))
        for child in node.child("traffic").elements()
    )
    return LineId(node.child("service").text(), node.child("line").text()), shares
