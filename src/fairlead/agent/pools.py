"""Who shares a process with whom: pure, as everything that is planned.

A process costs some forty megabytes and a share of the processor's caches; a small tensor graph costs little
beside its neighbours and takes nothing from them. So small ones that come up together share a process. A
change never touches a process that runs: a new revision gets a fresh one. When all is calm again, compaction
starts one fresh process for what lies in the smallest ones, and the old replicas drain once it is proved.

What has died in company comes back in company once, because most likely a neighbour was at fault; after a
second time each stays alone until it has been quiet for long (`restless`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from fairlead.agent.settings import AgentSettings
from fairlead.agent.steps import COMING, NO_FAILURE, Snapshot, Start
from fairlead.domain.catalog import Revision
from fairlead.domain.ids import RevisionId
from fairlead.domain.status import Replica, State

Needed = Mapping[RevisionId, Revision]
_FEWEST = 2  # processes that are worth replacing by one


def replicas_of(revision: Revision, settings: AgentSettings) -> int:
    """How many replicas a revision gets. Scale to zero is not there yet, so each live one has one."""
    most = max((endpoint.min_scale for endpoint in revision.endpoints), default=1)
    return min(settings.max_replicas, max(1, most))


def processes_for(revisions: Collection[RevisionId], settings: AgentSettings) -> int:
    """How many processes these are spread over: one for every second core, as Envoy has the others.

    No more than there are lines: the two sides of a split are answered in the same turns.
    """
    full = -(-len(revisions) // settings.pool_size)
    lines = len({one.line_id for one in revisions})
    return max(full, min(lines, max(1, settings.cores // 2)))


def starts(seen: Snapshot, needed: Needed, settings: AgentSettings) -> Iterable[Start]:
    """One replica for every revision before a second for any; no more processes at once than there are cores."""
    working = seen.working()
    coming = {
        seen.home(one.worker)
        for one in seen.replicas
        if one.state in COMING and one.worker not in seen.ended
    }
    alone: list[tuple[int, RevisionId, Start]] = []
    together: list[Revision] = []
    for revision in needed.values():
        if revision.digest not in seen.artifacts:
            continue
        if seen.failures.get(revision.id, NO_FAILURE).retry_at > seen.now:
            continue
        have, wish = len(working.get(revision.id, ())), replicas_of(revision, settings)
        if have < wish and _may_share(seen, revision, settings):
            together.append(revision)
        else:
            alone += [(nth, revision.id, Start((revision,))) for nth in range(have, wish)]
    together.sort(key=lambda one: one.id)
    if _gathering(seen, needed, settings):
        del together[len(together) // settings.pool_size * settings.pool_size :]  # full ones may go
    if together:
        groups = _split(together, settings)
        alone += [(0, group[0].id, Start(group)) for group in groups]
    alone.sort(key=lambda one: one[:2])
    wanted = [step for _, _, step in alone]
    if not wanted and not coming:
        wanted = _compaction(seen, needed, settings)
    return wanted[: max(0, settings.cores - len(coming))]


def _may_share(seen: Snapshot, revision: Revision, settings: AgentSettings) -> bool:
    return (
        revision.digest in seen.light
        and revision.id not in seen.restless
        and replicas_of(revision, settings) == 1
        and settings.pool_size > 1
    )


def _split(revisions: Sequence[Revision], settings: AgentSettings) -> list[tuple[Revision, ...]]:
    """As evenly as it goes with the revisions of a line together, unless that would take more processes."""
    number = processes_for([one.id for one in revisions], settings)
    size = -(-len(revisions) // number)
    groups: list[list[Revision]] = [[]]
    for revision in revisions:
        group = groups[-1]
        goes_on = bool(group) and group[-1].id.line_id == revision.id.line_id
        if len(group) >= settings.pool_size or (len(group) >= size and not goes_on):
            groups.append([])
        groups[-1].append(revision)
    return [tuple(group) for group in groups]


def _gathering(seen: Snapshot, needed: Needed, settings: AgentSettings) -> bool:
    """Are more small ones on their way that a moment's patience lets come up in the same process?"""
    if seen.now - max(seen.catalog_since, seen.pulled_at) >= settings.gather_seconds:
        return False
    if seen.now - seen.catalog_since >= settings.most_gather_seconds:
        return False
    return any(
        one.digest not in seen.artifacts
        and seen.pull_failures.get(one.digest, NO_FAILURE).retry_at <= seen.now
        for one in needed.values()
    )


def compactable(seen: Snapshot, needed: Needed, settings: AgentSettings) -> list[list[Replica]]:
    """The processes that fewer could take the place of, the smallest first; none while anything moves.

    Whether a rollout leads any of their lines is not asked here.
    """
    if not _calm(seen, settings):
        return []
    movable = []
    for replicas in seen.processes().values():
        revisions = [needed.get(one.revision) for one in replicas]
        if all(one is not None and _may_share(seen, one, settings) for one in revisions):
            movable.append(replicas)
    movable.sort(key=lambda replicas: (len(replicas), replicas[0].worker))
    return movable if len(movable) > _fewest(movable, settings) else []


def _fewest(processes: Iterable[list[Replica]], settings: AgentSettings) -> int:
    return processes_for([one.revision for replicas in processes for one in replicas], settings)


def _calm(seen: Snapshot, settings: AgentSettings) -> bool:
    routed = seen.gateway
    if routed is not None and (routed.generation < seen.catalog.generation or routed.coming):
        return False
    if seen.pulling or seen.ended or seen.asked:
        return False
    if any(one.state is not State.READY for one in seen.replicas):
        return False
    if seen.now - seen.compaction_failed_at < settings.quiet_seconds:
        return False
    last = max([seen.catalog_since, *(one.since for one in seen.replicas)])
    return seen.now - last >= settings.compact_seconds


def _compaction(seen: Snapshot, needed: Needed, settings: AgentSettings) -> list[Start]:
    """One fresh process for what lies in the smallest ones.

    With every step there are fewer processes, or, where the smallest two are too much for one, fewer that
    are not full: it comes to an end.
    """
    if seen.led is None:
        return []
    led = seen.led
    movable = [
        replicas
        for replicas in compactable(seen, needed, settings)
        if not any(one.revision.line_id in led for one in replicas)
    ]
    target = _fewest(movable, settings)
    if len(movable) <= target:
        return []
    room = -(-sum(map(len, movable)) // target)
    taken: list[Replica] = []
    for before, replicas in enumerate(movable[: len(movable) - target + 1]):
        if before >= _FEWEST and len(taken) + len(replicas) > room:
            break
        taken += replicas[: room - len(taken)]
    revisions = sorted((needed[one.revision] for one in taken), key=lambda one: one.id)
    return [Start(tuple(revisions), compaction=True)]
