"""Every revision of a home, and how far it is on each node: read once, from what the processes say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fairlead.adapters.store.reports import StoredReports
from fairlead.domain.catalog import Line, Revision
from fairlead.domain.removal import Target
from fairlead.domain.status import GatewayStatus, NodeStatus, State
from fairlead.wiring.homes import Control
from fairlead.wiring.observe import gateway_status, node_status

COLD = "cold"  # no worker on purpose: one comes up when somebody asks
_SILENT_SECONDS = 20.0  # a node reports to the store every few seconds


@dataclass(frozen=True, slots=True)
class Standing:
    """One revision on one node. `state` is the best of its replicas'; empty: it has none there.

    `cold` names the endpoints that have no worker on purpose; without any replica and all of them cold, the state
    is COLD.
    """

    node: str
    state: str
    workers: int
    reason: str
    cold: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One revision. `percent` flows now, `wanted` is the catalog's; both None for one without a share."""

    revision: Revision
    percent: int | None
    wanted: int | None
    nodes: tuple[Standing, ...]
    pinned: bool
    last_applied: bool


@dataclass(frozen=True, slots=True)
class Listing:
    """The revisions in order, and the names of those that each line has let go."""

    rows: tuple[Row, ...]
    let_go: Mapping[str, tuple[str, ...]]


def revisions(control: Control, target: Target | None) -> Listing:
    """The revisions of a service or line; of everything without a target.

    Raises Refused(NOT_FOUND) if there is no such thing.
    """
    catalog = control.catalogs.read()
    targets = [target] if target else [Target(name) for name in sorted(catalog.services)]
    lines = [line for one in targets for line in one.lines(catalog)]
    nodes, gateway = _nodes(control), gateway_status(control)
    rows = [
        _row(line, revision, nodes, gateway, pin=catalog.services[line.id.service].pin.line)
        for line in lines
        for revision in line.in_order()
        if target is None or target.revision in ("", revision.id.revision)
    ]
    let_go = {str(line.id): line.let_go for line in lines if line.let_go}
    return Listing(tuple(rows), let_go)


def _row(
    line: Line,
    revision: Revision,
    nodes: Mapping[str, NodeStatus],
    gateway: GatewayStatus | None,
    *,
    pin: str,
) -> Row:
    tag = revision.id.revision
    wanted = {share.tag: share.percent for share in line.traffic}
    flowing = gateway.effective.get(line.id, ()) if gateway is not None else line.traffic
    return Row(
        revision,
        {share.tag: share.percent for share in flowing}.get(tag),
        wanted.get(tag),
        tuple(_standing(name, node, revision) for name, node in nodes.items()),
        pinned=line.id.line == pin,
        last_applied=line.last_applied() is revision,
    )


def _standing(name: str, node: NodeStatus, revision: Revision) -> Standing:
    here = [one for one in node.replicas if one.revision == revision.id]
    ready = [one for one in here if one.state is State.READY]
    best = next(iter(ready or here), None)
    names = [one.name for one in revision.endpoints]
    cold = tuple(one for one in names if revision.id.endpoint(one) in node.cold)
    if best is None:
        return Standing(name, COLD if len(cold) == len(names) else "", 0, "", cold)
    return Standing(name, str(best.state), len(ready), best.reason, cold)


def _nodes(control: Control) -> dict[str, NodeStatus]:
    """What each node that is heard of says; our own by its file, which is younger than its report."""
    now = control.clock.now()
    found = {
        one.node: one
        for one in StoredReports(control.store).read()
        if abs(now - one.written_at) < _SILENT_SECONDS
    }
    here = node_status(control)
    if here is not None:
        found[here.node] = here
    return found
