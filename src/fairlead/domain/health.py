"""Is everything there that should be?"""

from __future__ import annotations

from fairlead.domain.catalog import Catalog
from fairlead.domain.scale_units import ScaleUnit
from fairlead.domain.status import NodeStatus, State


def health_problems(catalog: Catalog, node: NodeStatus) -> list[str]:
    """Everything that should serve and does not. A service killed by hand, or one that is cold, is no problem."""
    up, reasons = node.up(catalog), node.reasons()
    return [
        f"{revision_id} is not ready ({reasons.get(revision_id, 'not started')})"
        for revision_id in sorted(catalog.live())
        if revision_id not in up and catalog.services[revision_id.service].kill is None
    ]


def held_units(node: NodeStatus) -> dict[ScaleUnit, str]:
    """What answers nobody though it is ready, and why: runs that do not end hold each of its replicas."""
    ready = [one for one in node.replicas if one.state is State.READY]
    free = {one.unit for one in ready if not one.held(node.written_at)}
    return {one.unit: one.held(node.written_at) for one in ready if one.unit not in free}


def held_problems(catalog: Catalog, node: NodeStatus) -> list[str]:
    """What is live and ready and answers nobody all the same: runs that do not end hold it."""
    live = catalog.live()
    return [
        f"{unit}: {why}"
        for unit, why in sorted(held_units(node).items())
        if unit.revision in live and catalog.services[unit.revision.service].kill is None
    ]
