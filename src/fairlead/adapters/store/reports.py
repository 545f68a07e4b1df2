"""A node's status in an object store: `nodes/<id>.json`, written by that node's agent alone."""

from __future__ import annotations

from fairlead.domain.ports import ObjectStore
from fairlead.domain.status import (
    NodeStatus,
    Replica,
    node_status_from_bytes,
    node_status_to_bytes,
)

_PREFIX = "nodes/"


class StoredReports:
    """Where agents report to."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._texts: dict[Replica, str] = {}  # of the last status

    def write(self, status: NodeStatus) -> None:
        data = node_status_to_bytes(status, self._texts)
        self._store.put(f"{_PREFIX}{status.node}.json", data)

    def read(self) -> list[NodeStatus]:
        """What every node said last, however long ago. Raises FairleadError if the store is away or one is damaged."""
        keys = [found.key for found in self._store.list(_PREFIX)]
        return [node_status_from_bytes(self._store.get(key)[0], key) for key in keys]
