"""The routing table by path, so that neither building routes nor refusing one walks through every service."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from fairlead.domain.paths import CustomPath, ModelPath, PathMatch, parse_path
from fairlead.domain.table import RoutingTable, ServiceRoute


@dataclass(frozen=True, slots=True)
class TableIndex:
    """A table, and which services own which custom path."""

    table: RoutingTable
    owners: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def for_path(self, path: str) -> RoutingTable:
        """The part of the table that decides this path: the resolver answers the same by it as by the whole."""
        return replace(self.table, services=self.services(parse_path(path, self.table.api_version)))

    def services(self, match: PathMatch) -> dict[str, ServiceRoute]:
        """The services that decide such a path."""
        names: tuple[str, ...] = ()
        if isinstance(match, ModelPath):
            names = (match.service,)
        elif isinstance(match, CustomPath):
            names = self.owners.get(match.path, ())
        return {name: self.table.services[name] for name in names if name in self.table.services}


def index(table: RoutingTable) -> TableIndex:
    """Find every custom path's owners."""
    owners: dict[str, list[str]] = {}
    for name in sorted(table.services):
        for path in custom_paths(table.services[name], table.api_version):
            owners.setdefault(path, []).append(name)
    return TableIndex(table, {path: tuple(names) for path, names in owners.items()})


def custom_paths(service: ServiceRoute, api_version: str) -> list[str]:
    """A service's own paths, without those that mean something else whoever claims them."""
    return sorted(
        path for path in service.paths() if isinstance(parse_path(path, api_version), CustomPath)
    )


def model_paths(service: ServiceRoute, api_version: str) -> list[str]:
    """Every path that names the service and may lead to a worker."""
    root = f"/{api_version}/model" if api_version else "/model"
    inference = f"/v2/models/{service.name}"
    versions = sorted(
        {
            revision.artifact_version
            for line in service.lines.values()
            for revision in line.revisions.values()
        }
    )
    bases = [inference, *(f"{inference}/versions/{version}" for version in versions)]
    return [
        f"{root}/{service.name}/predict",
        f"{root}/{service.name}/bio",
        *(f"{base}{action}" for base in bases for action in ("", "/ready", "/infer")),
    ]


def model_prefixes(service: ServiceRoute, api_version: str) -> list[str]:
    """What every model path of the service starts with."""
    root = f"/{api_version}/model" if api_version else "/model"
    return [f"{root}/{service.name}/", f"/v2/models/{service.name}"]
