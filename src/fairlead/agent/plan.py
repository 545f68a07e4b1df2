"""What to do next, decided over a snapshot: pure, stateless and idempotent.

The same snapshot always gives the same steps; a step that was lost (the agent died, the process did) is
simply planned again. Nothing here waits, reads or writes.

A replica's way: Start -> (starting) -> Prove -> (ready) -> Drain -> (draining) -> Stop -> Kill -> Forget, or
Retire -> Forget where others of its process go on. An artifact's: Pull -> CleanUp. Who starts together with
whom is decided in `pools`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fairlead.agent import pools
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
    Retire,
    Snapshot,
    Step,
    Stop,
)
from fairlead.domain.catalog import Line, Revision
from fairlead.domain.ids import LineId, RevisionId
from fairlead.domain.removal import digests_of
from fairlead.domain.status import Replica, State


def next_steps(
    seen: Snapshot,
    settings: AgentSettings,
    needed: Mapping[RevisionId, Revision] | None = None,
) -> list[Step]:
    """Everything that can be done now, what frees something first; `needed` is what `wanted` says."""
    if needed is None:
        needed = wanted(seen, settings)
    return [
        *(Forget(replica.worker) for replica in seen.replicas if replica.worker in seen.ended),
        *_endings(seen, settings),
        *_retirements(seen, needed, settings),
        *_proofs(seen),
        *pools.starts(seen, needed, settings),
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
    working = seen.working()
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
    working: Mapping[RevisionId, list[Replica]],
    settings: AgentSettings,
) -> bool:
    """Have all live revisions of the line been ready for a moment?"""
    since = seen.catalog_since
    for revision in line.live():
        ready = [one.since for one in working.get(revision.id, ()) if one.state is State.READY]
        if not ready:
            return False
        since = max(since, min(ready))
    return seen.now - since >= settings.retire_pause_seconds


def _endings(seen: Snapshot, settings: AgentSettings) -> Iterable[Step]:
    """Replicas that drain or have failed leave; a process that only has such ones ends."""
    for process, replicas in seen.processes().items():
        leaving = [one for one in replicas if _leaves(seen, one, settings)]
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
    patience += settings.drain_seconds if replica.state is State.DRAINING else 0.0
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


def _retirements(
    seen: Snapshot, needed: Mapping[RevisionId, Revision], settings: AgentSettings
) -> Iterable[Step]:
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
    yield from _surplus(seen, needed, settings)


def _surplus(
    seen: Snapshot, needed: Mapping[RevisionId, Revision], settings: AgentSettings
) -> Iterable[Step]:
    """More ready replicas of a revision than it should have: those in larger processes stay, then the eldest.

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
    for identity, working in seen.working().items():
        revision = needed.get(identity)
        if revision is None:
            continue
        ready = [one for one in working if one.state is State.READY]
        wish = pools.replicas_of(revision, settings)
        if len(ready) <= wish:
            continue
        ready.sort(key=lambda one: (-company[seen.home(one.worker)], one.since))
        if not any(seen.home(one.worker) in coming for one in ready[:wish]):
            yield from (Drain(one.worker) for one in ready[wish:])


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
