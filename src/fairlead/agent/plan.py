"""What to do next, decided over a snapshot: pure, stateless and idempotent.

The same snapshot always gives the same steps; a step that was lost (the agent died, the process did) is
simply planned again. Nothing here waits, reads or writes.

A replica's way: Start -> (starting) -> Prove -> (ready) -> Drain -> (draining) -> Stop -> Kill -> Forget, or
Retire -> Forget where others of its process go on, or Resume if it is wanted again before it was asked to leave.
An artifact's: Pull -> CleanUp. How many replicas there should be is decided in `scales`, what memory there is for
them in `budget`, who starts together with whom in `pools`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from fairlead.agent import budget, pools, scales
from fairlead.agent.scales import Wish, Wishes
from fairlead.agent.settings import AgentSettings
from fairlead.agent.steps import (
    COMING,
    NO_FAILURE,
    WORKING,
    CleanUp,
    Drain,
    Forget,
    GiveUp,
    Kill,
    Prove,
    Pull,
    Resume,
    Retire,
    Snapshot,
    Step,
    Stop,
)
from fairlead.domain.catalog import Line, Revision, digests_of
from fairlead.domain.ids import LineId, RevisionId
from fairlead.domain.scale_units import ScaleUnit, units
from fairlead.domain.status import Replica, State


@dataclass(frozen=True, slots=True)
class Plan:
    """What should be, and the steps towards it. `cold` are the units that may be without a replica."""

    wished: Mapping[ScaleUnit, Wish]
    cold: frozenset[ScaleUnit]
    steps: tuple[Step, ...]


def decide(seen: Snapshot, settings: AgentSettings) -> Plan:
    """Everything that follows from what is seen."""
    needed = wanted(seen, settings)
    wished = wishes(seen, needed, settings)
    cold = scales.cold(seen, wished)
    return Plan(wished, cold, tuple(_steps(seen, needed, wished, settings)))


def wishes(
    seen: Snapshot, needed: Mapping[RevisionId, Revision], settings: AgentSettings
) -> Mapping[ScaleUnit, Wish]:
    """How many replicas each unit should have, as far as there is memory for them."""
    return budget.afford(seen, scales.wishes(seen, needed, settings), settings)


def _steps(
    seen: Snapshot,
    needed: Mapping[RevisionId, Revision],
    wished: Wishes,
    settings: AgentSettings,
) -> Iterable[Step]:
    """Everything that can be done now, what frees something first."""
    resumed = _resumed(seen, wished)
    return [
        *(Forget(replica.worker) for replica in seen.replicas if replica.worker in seen.ended),
        *(Resume(worker) for worker in resumed),
        *_endings(seen, resumed, settings),
        *_retirements(seen, needed),
        *_surplus(seen, needed, wished),
        *_proofs(seen),
        *(pools.starts(seen, wished, settings) if not resumed else ()),
        *_pulls(seen, needed, settings),
        *_clean_ups(seen, needed, settings),
    ]


def wanted(seen: Snapshot, settings: AgentSettings) -> dict[RevisionId, Revision]:
    """Every revision that should run: the live ones, and those they have not replaced yet.

    A gateway moves a line's traffic only when its new revisions are ready; until it says that it has, what
    it routes is needed, however long ago it said so. Without a gateway to ask, the old ones stay until all live ones are ready.
    """
    routed = seen.gateway
    needed = dict(seen.catalog.live())
    working = seen.working
    ready: dict[LineId, list[str]] = {}
    for replica in seen.replicas:
        if replica.state is State.READY:
            ready.setdefault(replica.revision.line_id, []).append(replica.revision.revision)
    for service in seen.catalog.services.values():
        for line in service.lines.values():
            if routed is not None:
                tags: Iterable[str] = [share.tag for share in routed.effective.get(line.id, ())]
            elif _replaced(seen, line, working, settings):
                tags = ()
            else:
                tags = ready.get(line.id, ())
            needed.update(
                {
                    line.revisions[tag].id: line.revisions[tag]
                    for tag in tags
                    if tag in line.revisions
                }
            )
    return needed


def _replaced(
    seen: Snapshot,
    line: Line,
    working: Mapping[ScaleUnit, Sequence[Replica]],
    settings: AgentSettings,
) -> bool:
    """Have all live revisions of the line been ready for a moment, as far as they are not cold?"""
    since = seen.catalog_since
    for unit in (unit for revision in line.live() for unit in units(revision)):
        ready = [one.since for one in working.get(unit, ()) if one.state is State.READY]
        if ready:
            since = max(since, min(ready))
        elif not seen.demand(unit).cold:
            return False
    return seen.now - since >= settings.retire_pause_seconds


def _resumed(seen: Snapshot, wished: Wishes) -> list[str]:
    """Those that drain, were not asked to leave yet, and are wanted again: they are ready at once."""
    spare: dict[ScaleUnit, list[Replica]] = {}
    for replica in seen.replicas:
        if (
            replica.state is State.DRAINING
            and replica.unit in wished
            and replica.worker not in seen.asked
            and replica.worker not in seen.ended
            and not seen.is_former(replica)
        ):
            spare.setdefault(replica.unit, []).append(replica)
    if not spare:
        return []
    working = seen.working
    found: list[str] = []
    for unit, replicas in spare.items():
        missing = max(0, wished[unit].replicas - len(working.get(unit, ())))
        replicas.sort(key=lambda one: -one.since)
        found += [one.worker for one in replicas[:missing]]
    return found


def _endings(seen: Snapshot, resumed: Collection[str], settings: AgentSettings) -> Iterable[Step]:
    """Replicas that drain or have failed leave; a process that only has such ones ends."""
    for process, replicas in seen.processes().items():
        leaving = [
            one for one in replicas if one.worker not in resumed and _leaves(seen, one, settings)
        ]
        fresh = [one for one in leaving if one.worker not in seen.asked]
        late = [one for one in leaving if _is_late(seen, one, settings)]
        if leaving and len(leaving) == len(replicas):
            if fresh:
                yield Stop(process)
            elif len(late) == len(replicas):
                yield Kill(process)
        else:
            yield from (Retire(one.worker) for one in fresh)
            yield from (GiveUp(one.worker) for one in late)


def _leaves(seen: Snapshot, replica: Replica, settings: AgentSettings) -> bool:
    if replica.state is State.DRAINING:
        return replica.worker in seen.asked or _left_alone(seen, replica, settings)
    return replica.state is State.FAILED


def _is_late(seen: Snapshot, replica: Replica, settings: AgentSettings) -> bool:
    """Was it asked long enough ago?"""
    if replica.worker not in seen.asked:
        return False
    patience = settings.stop_grace_seconds
    if replica.state is State.DRAINING:
        patience += seen.patience.get(replica.worker, settings.drain_seconds)
    return seen.now - seen.asked[replica.worker] >= patience


def _left_alone(seen: Snapshot, replica: Replica, settings: AgentSettings) -> bool:
    """Is it certain that a draining worker gets no request any more?"""
    routed = seen.gateway
    if routed is None:
        return seen.now - replica.since >= settings.retire_pause_seconds
    if replica.worker in routed.workers:
        return False
    # Retired because nobody routed to it: then there is nothing to wait for. Drained as a surplus of a
    # revision that is routed: the gateway must have had the time to read that it drains.
    tags = {share.tag for share in routed.effective.get(replica.revision.line_id, ())}
    if replica.revision.revision not in tags:
        return True
    return seen.gateway_at - replica.since >= settings.retire_pause_seconds


def _retirements(seen: Snapshot, needed: Mapping[RevisionId, Revision]) -> Iterable[Step]:
    """Replicas of revisions that are not needed any more, as soon as nobody is led to them."""
    routed = seen.gateway
    for replica in seen.replicas:
        if (
            replica.worker in seen.ended
            or replica.state not in WORKING
            or (replica.revision in needed and not seen.is_former(replica))
        ):
            continue
        # A gateway that has not read this catalog yet may be about to route to it by an older one.
        if routed is None or (
            routed.generation >= seen.catalog.generation and replica.worker not in routed.workers
        ):
            yield Drain(replica.worker)


def _surplus(
    seen: Snapshot, needed: Mapping[RevisionId, Revision], wished: Wishes
) -> Iterable[Step]:
    """More ready replicas of a unit than it should have: those in larger processes stay, then the eldest.

    While a process still comes up nobody leaves for its sake: its neighbours move to it in one go.
    """
    company: dict[str, int] = {}
    coming: set[str] = set()
    for replica in seen.replicas:
        if replica.state in WORKING and replica.worker not in seen.ended:
            home = seen.home(replica.worker)
            company[home] = company.get(home, 0) + 1
            if replica.state in COMING:
                coming.add(home)
    there = seen.working
    for unit, working in there.items():
        if unit.revision not in needed:
            continue
        ready = [one for one in working if one.state is State.READY]
        wish = _keep(unit, wished, there, needed[unit.revision])
        if len(ready) <= wish:
            continue
        ready.sort(key=lambda one: (-company[seen.home(one.worker)], one.since))
        if not any(seen.home(one.worker) in coming for one in ready[:wish]):
            yield from (Drain(one.worker) for one in ready[wish:])


def _keep(
    unit: ScaleUnit,
    wished: Wishes,
    there: Mapping[ScaleUnit, Sequence[Replica]],
    revision: Revision,
) -> int:
    """How many ready replicas of a unit stay.

    An agent that scaled otherwise may have left replicas of all endpoints of a revision where each has its own
    now: they stay until the others are ready.
    """
    if unit in wished:
        return wished[unit].replicas
    successors = [wished[one].replicas == 0 or _has_ready(there, one) for one in units(revision)]
    return 0 if all(successors) else len(there[unit])


def _has_ready(there: Mapping[ScaleUnit, Sequence[Replica]], unit: ScaleUnit) -> bool:
    return any(one.state is State.READY for one in there.get(unit, ()))


def _proofs(seen: Snapshot) -> Iterable[Step]:
    return (
        Prove(replica.worker)
        for replica in seen.replicas
        if replica.state is State.PROVING
        and replica.worker not in seen.proving
        and replica.worker not in seen.ended
    )


def _pulls(
    seen: Snapshot, needed: Mapping[RevisionId, Revision], settings: AgentSettings
) -> Iterable[Step]:
    room = settings.pulls_at_once + settings.pulls_ahead - len(seen.pulling)
    missing: dict[str, Pull] = {}
    for revision in needed.values():
        digest = revision.digest
        if digest in seen.artifacts or digest in seen.pulling:
            continue
        if seen.pull_failures.get(digest, NO_FAILURE).retry_at <= seen.now:
            missing.setdefault(digest, Pull(revision.artifact, digest))
    return list(missing.values())[: max(0, room)]


def _clean_ups(
    seen: Snapshot, needed: Mapping[RevisionId, Revision], settings: AgentSettings
) -> Iterable[Step]:
    used = {revision.digest for revision in needed.values()}
    used |= {replica.digest for replica in seen.replicas} | seen.pulling
    idle = {digest: at for digest, at in seen.artifacts.items() if digest not in used}
    known = digests_of(seen.catalog) if idle else frozenset()
    return (
        CleanUp(digest)
        for digest, last_used in idle.items()
        if seen.now - last_used
        >= (settings.clean_up_seconds if digest in known else settings.forgotten_seconds)
    )
