"""The catalog as its file: `catalog/<generation>.json` in the store, and each node's copy of the last one it saw."""

from __future__ import annotations

import json
from typing import Any

from fairlead.domain.catalog import Catalog, Kill, Line, Pin, Revision, Service
from fairlead.domain.ids import DIGEST, ArtifactRef, LineId, RevisionId
from fairlead.domain.keys import key_from_json, key_to_json
from fairlead.domain.manifest import check_schema
from fairlead.domain.reading import Node, read_json
from fairlead.domain.release import TrafficShare, endpoint_to_json, read_endpoint

# 2: what keys may ask, by line and verb; 3: batching of an endpoint, what a line has let go
# 4: when applied, delay and timeout of an endpoint; 5: the legacy key of a revision
SCHEMA = 5

# The services of a catalog by name, each with what was written of it.
KeptServices = dict[str, tuple[object, Service]]


def catalog_to_bytes(catalog: Catalog) -> bytes:
    """The catalog as the store keeps it."""
    document = {
        "schema": SCHEMA,
        "generation": catalog.generation,
        "services": {name: _service_to_json(service) for name, service in catalog.services.items()},
        "keys": {name: key_to_json(key) for name, key in catalog.keys.items()},
    }
    return _written(document, 2).encode()


def _written(value: Any, depth: int) -> str:  # noqa: ANN401 - any JSON value
    """With the objects down to this depth a line each member: `json` itself is ten times slower once it may indent."""
    if not depth or not value or not isinstance(value, dict):
        return json.dumps(value, sort_keys=True, ensure_ascii=False)
    members = [
        f"{json.dumps(name)}: {_written(one, depth - 1)}" for name, one in sorted(value.items())
    ]
    return "{\n" + ",\n".join(members) + "\n}"


def catalog_from_bytes(
    data: bytes, source: str = "catalog", kept: KeptServices | None = None
) -> Catalog:
    """Read a catalog; raises InvalidInput if it is damaged, FairleadError if a newer version wrote it.

    `kept` belongs to whoever reads one catalog after another, and is what was read last: of a thousand services
    one moves at a time.
    """
    document = read_json(data, source, "restore it from a backup")
    check_schema(document, SCHEMA, source, oldest=1)
    node = Node(document)
    node.mapping(["schema", "generation", "services", "keys"], ["services", "keys"])
    catalog = Catalog(
        generation=node.child("generation").integer(0),
        services={
            name: _service_of(name, child, kept) for name, child in node.child("services").items()
        },
        keys={name: key_from_json(name, child) for name, child in node.child("keys").items()},
    )
    node.done(source)
    if kept is not None:
        written = document["services"]
        kept.clear()
        kept.update({name: (written[name], one) for name, one in catalog.services.items()})
    return catalog


def _service_of(name: str, node: Node, kept: KeptServices | None) -> Service:
    """The very one that was read last time, if the same is written of it."""
    known = kept.get(name) if kept else None
    if known is not None and known[0] == node.value:
        return known[1]
    return _service_from_json(name, node)


def _service_to_json(service: Service) -> dict[str, Any]:
    return {
        "pin": {"line": service.pin.line, "byHand": service.pin.by_hand},
        "kill": {"message": service.kill.message, "at": service.kill.at} if service.kill else None,
        "lines": {
            name: {
                "traffic": [{"tag": share.tag, "percent": share.percent} for share in line.traffic],
                "revisions": {
                    tag: _revision_to_json(revision) for tag, revision in line.revisions.items()
                },
                "letGo": list(line.let_go),
            }
            for name, line in service.lines.items()
        },
    }


def _revision_to_json(revision: Revision) -> dict[str, Any]:
    return {
        "artifact": str(revision.artifact),
        "digest": revision.digest,
        "endpoints": {endpoint.name: endpoint_to_json(endpoint) for endpoint in revision.endpoints},
        "applied": revision.applied,
        "createdAt": revision.created_at,
        "appliedAt": revision.applied_at,
        **({"legacyKey": True} if revision.legacy_key else {}),
    }


def _service_from_json(name: str, node: Node) -> Service:
    node.mapping(["pin", "kill", "lines"], ["pin", "lines"])
    kill = node.child("kill")
    return Service(
        name,
        {
            line: _line_from_json(LineId(name, line), child)
            for line, child in node.child("lines").items()
        },
        Pin(
            node.child("pin").child("line").text(),
            by_hand=node.child("pin").child("byHand").value is True,
        ),
        Kill(kill.child("message").text(), kill.child("at").number()) if node.has("kill") else None,
    )


def _line_from_json(line_id: LineId, node: Node) -> Line:
    node.mapping(["traffic", "revisions", "letGo"], ["traffic", "revisions"])
    return Line(
        line_id,
        {
            tag: _revision_from_json(line_id, tag, child)
            for tag, child in node.child("revisions").items()
        },
        tuple(
            TrafficShare(child.child("tag").text(), child.child("percent").integer(0, 100))
            for child in node.child("traffic").elements()
        ),
        tuple(child.text() for child in node.child("letGo").elements())
        if node.has("letGo")
        else (),
    )


def _revision_from_json(line_id: LineId, tag: str, node: Node) -> Revision:
    node.mapping(
        ["artifact", "digest", "endpoints", "applied", "createdAt", "appliedAt", "legacyKey"],
        ["artifact", "digest", "endpoints"],
    )
    try:
        artifact = ArtifactRef.parse(node.child("artifact").text())
    except ValueError as error:
        node.child("artifact").wrong("is no artifact's name", str(error))
        artifact = ArtifactRef("", 0)
    return Revision(
        RevisionId(line_id.service, line_id.line, tag),
        artifact,
        node.child("digest").text(DIGEST, "write sha256: and 64 hex digits"),
        tuple(read_endpoint(name, child) for name, child in node.child("endpoints").items()),
        node.child("applied").text(),
        node.child("createdAt").number(),
        node.child("appliedAt").number() if node.has("appliedAt") else 0.0,
        node.has("legacyKey") and node.child("legacyKey").value is True,
    )
