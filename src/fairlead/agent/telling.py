"""What the node's status says of the table."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from fairlead.agent.plan import Plan
from fairlead.agent.scales import least_of
from fairlead.agent.settings import AgentSettings
from fairlead.agent.table import Table
from fairlead.domain.catalog import Catalog
from fairlead.domain.errors import FairleadError
from fairlead.domain.ids import EndpointId
from fairlead.domain.layout import Home
from fairlead.domain.scale_units import WHOLE, ScaleUnit, endpoint_ids, served
from fairlead.domain.status import NodeStatus, Scale, State, node_status_from_bytes
from fairlead.kits.clock import Clock

_log = logging.getLogger(__name__)

NO_PLAN = Plan({}, frozenset(), ())


def node_status(
    table: Table, plan: Plan, settings: AgentSettings, clock: Clock, pid: int
) -> NodeStatus:
    """Every replica there is, every one that is missing and why, what is cold, and how many there should be."""
    catalog = table.catalog or Catalog()
    replicas = [worker.replica for worker in table.workers.values()]
    have = {one.unit for one in replicas if one.state is not State.DRAINING}
    replicas += [
        table.not_running(unit, wish.revision)
        for unit, wish in plan.wished.items()
        if unit not in have and unit not in plan.cold
    ]
    return NodeStatus(
        node=settings.node,
        written_at=clock.now(),
        pid=pid,
        generation=catalog.generation,
        replicas=tuple(replicas),
        problem="; ".join(table.problems.values()),
        cold=tuple(_cold(plan)),
        scales=tuple(_scales(plan)),
    )


def _cold(plan: Plan) -> Iterable[EndpointId]:
    for unit, wish in plan.wished.items():
        if unit in plan.cold:
            yield from endpoint_ids(wish.revision, unit)


def _scales(plan: Plan) -> Iterable[Scale]:
    """Of the units whose number may change, or of which there is something to say."""
    for unit, wish in plan.wished.items():
        least = least_of(wish.revision, unit)
        most = max((one.max_scale for one in served(wish.revision, unit)), default=least)
        if wish.why or least != most or least > 1 or unit.endpoint:
            yield Scale(unit, wish.replicas, wish.why)


def left_cold(home: Home[Path]) -> list[ScaleUnit]:
    """What was cold when the agent before this one wrote its last status: it had been proved, and nobody asks for it."""
    try:
        status = node_status_from_bytes(home.node_status.read_bytes(), str(home.node_status))
    except (OSError, FairleadError) as error:
        _log.debug("nobody knows what was cold: %s", error)
        return []
    cold = {(one.revision_id, name) for one in status.cold for name in (WHOLE, one.endpoint)}
    units = (one.unit for one in status.scales)
    return [unit for unit in units if (unit.revision, unit.endpoint) in cold]
