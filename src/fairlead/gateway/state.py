"""What the gateway knows: read from outside by `Inputs`, shown to the front desk as a `View`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fairlead.domain.catalog import Catalog
from fairlead.domain.catalog_file import catalog_from_bytes, catalog_to_bytes
from fairlead.domain.errors import FairleadError
from fairlead.domain.ids import EndpointId
from fairlead.domain.layout import Home
from fairlead.domain.status import (
    GatewayStatus,
    KeptReplicas,
    NodeStatus,
    OpenSwitch,
    gateway_status_from_bytes,
    node_status_from_bytes,
)
from fairlead.domain.table import LineRoute, RevisionRoute, RoutingTable, ServiceRoute
from fairlead.domain.uses import Uses
from fairlead.gateway.behind import Behind
from fairlead.gateway.index import TableIndex
from fairlead.gateway.keys import Credentials, read_credentials, warn_if_readable
from fairlead.kits import files
from fairlead.kits.clock import Clock

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class View:
    """What is in force now, for the front desk; only the follower changes it.

    `index` and `previous` are the last two tables: a request that Envoy sent here by the one before is
    refused by it too. `problems` maps a part (store, cache, status, keys, routes, clusters, certificate, envoy, disk) to what is wrong with it.
    """

    index: TableIndex
    previous: TableIndex
    catalog: Catalog = field(default_factory=Catalog)
    node: NodeStatus | None = None
    behind: Behind = field(default_factory=Behind)
    problems: dict[str, str] = field(default_factory=dict)
    envoy_up: bool = False
    envoy_restarts: int = 0
    rejected_updates: int = 0
    keys_mark: str = ""  # the state of the key file that is in force
    uses: Uses = field(default_factory=Uses)
    switches: tuple[OpenSwitch, ...] = ()  # the kill switches that are open
    trips: dict[EndpointId, int] = field(default_factory=dict)  # how often each has opened

    def note(self, part: str, problem: str) -> None:
        """Remember a problem, or with an empty text that it is gone; a new one is logged once."""
        if self.problems.get(part, "") == problem:
            return
        if problem:
            self.problems[part] = problem
            _log.warning("%s", problem, extra={"event": "gateway", "part": part})
        else:
            del self.problems[part]
            _log.info("%s: all right again", part, extra={"event": "gateway", "part": part})


class Inputs:
    """The files the gateway follows. What cannot be read keeps its last value, and is a problem."""

    def __init__(self, home: Home[Path], view: View, clock: Clock) -> None:
        self._home = home
        self._view = view
        self._clock = clock
        self._marks: dict[str, str] = {}
        self._keys = Credentials()
        self._replicas: KeptReplicas = {}
        self.credentials: Mapping[str, str] = {}  # clients by every secret that works now
        self.keys_mark = ""  # which state of the key file `credentials` are

    def look(self) -> None:
        """Read what has changed."""
        self.look_at_status()
        if self._changed("keys", self._home.keys):
            warn_if_readable(self._home.keys)
            self._read("keys", self._read_keys)
            self.keys_mark = self._marks["keys"]
        self.credentials = self._keys.at(self._clock.now())

    def look_at_status(self) -> None:
        """Read the node's status, if it has changed."""
        if self._changed("status", self._home.node_status):
            self._read("status", self._read_status)

    def _changed(self, part: str, path: Path) -> bool:
        mark = files.mark(path)
        if part in self._marks and self._marks[part] == mark:
            return False
        self._marks[part] = mark
        return True

    def _read(self, part: str, read: Callable[[], None]) -> None:
        try:
            read()
        except FairleadError as error:
            self._view.note(part, f"{part} cannot be read, the last one stays: {error}")
        except (ValueError, KeyError, OSError) as error:
            self._view.note(
                part, f"{part} cannot be read, the last one stays: {type(error).__name__}"
            )
        else:
            self._view.note(part, "")

    def _read_status(self) -> None:
        try:
            data = self._home.node_status.read_bytes()
        except FileNotFoundError:
            return
        source = str(self._home.node_status)
        self._view.node = node_status_from_bytes(data, source, self._replicas)

    def _read_keys(self) -> None:
        self._keys = read_credentials(self._home.keys)


class CatalogCache:
    """The last catalog seen, for when the store is away."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.written: Catalog | None = None  # what lies there, as far as this process wrote it

    def read(self) -> Catalog | None:
        try:
            return catalog_from_bytes(self._path.read_bytes(), str(self._path))
        except (OSError, FairleadError):
            return None

    def write(self, catalog: Catalog) -> None:
        """Raises OSError if the disk does not take it; what lay there stays."""
        files.write_atomic(self._path, catalog_to_bytes(catalog))
        self.written = catalog


def read_gateway_status(path: Path) -> GatewayStatus | None:
    """What the gateway before this one wrote last; None if there was none or it cannot be read."""
    try:
        return gateway_status_from_bytes(path.read_bytes(), str(path))
    except (OSError, ValueError, FairleadError):
        return None


def table_before(catalog: Catalog, status: GatewayStatus | None, api_version: str) -> RoutingTable:
    """The table the gateway before this one routed by, as far as its status tells."""
    if status is None:
        return RoutingTable(api_version=api_version)
    services: dict[str, ServiceRoute] = {}
    for line_id, flowing in status.effective.items():
        service = catalog.services.get(line_id.service)
        line = service.lines.get(line_id.line) if service else None
        if service is None or line is None:
            continue
        shares = tuple(one for one in flowing if one.percent or one.tag in line.revisions)
        if any(one.tag not in line.revisions for one in shares):
            continue
        routed = {share.tag for share in shares if share.percent}
        revisions = {
            tag: RevisionRoute(
                one.id, one.artifact.version, one.digest, one.endpoints, routable=True
            )
            for tag, one in line.revisions.items()
            if tag in routed
        }
        before = services.get(line_id.service)
        lines = {
            **(before.lines if before else {}),
            line_id.line: LineRoute(line_id, revisions, shares),
        }
        pin = status.pins.get(line_id.service, service.pin.line)
        services[line_id.service] = ServiceRoute(line_id.service, lines, pin)
    return RoutingTable(services, catalog.keys, api_version, status.generation)
