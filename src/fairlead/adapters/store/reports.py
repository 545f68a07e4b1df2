"""A node's status in an object store: `nodes/<id>.json`, written by that node's agent alone."""

from __future__ import annotations

from fairlead.domain.ports import ObjectStore
from fairlead.domain.status import NodeStatus, node_status_to_bytes


class StoredReports:
    """Where agents report to."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def write(self, status: NodeStatus) -> None:
        self._store.put(f"nodes/{status.node}.json", node_status_to_bytes(status))
