"""Who shares a process with whom: pure, as everything that is planned.

A process costs some forty megabytes and a share of the processor's caches; a small tensor graph costs little
beside its neighbours and takes nothing from them. So small ones that come up together share a process. A
change never touches a process that runs: a new revision gets a fresh one. When all is calm again, compaction
starts one fresh process for what lies in the smallest ones, and the old replicas drain once it is proved.

What has died in company comes back in company once, because most likely a neighbour was at fault; after a
second time each stays alone until it has been quiet for long (`restless`).

One that goes cold leaves its process, and comes back together with those that are asked for at the same time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from fairlead.agent.scales import Wish, Wishes
from fairlead.agent.settings import AgentSettings
from fairlead.agent.steps import COMING, NO_FAILURE, Snapshot, Start
from fairlead.domain.catalog import Revision
from fairlead.domain.ids import RevisionId
from fairlead.domain.scale_units import WHOLE, ScaleUnit
from fairlead.domain.status import Replica, State

_FEWEST = 2  # processes that are worth replacing by one


def processes_for(revisions: Collection[RevisionId], settings: AgentSettings) -> int:
    """How many processes these are spread over: one for every second core, as Envoy has the others.

    No more than there are lines: the two sides of a split are answered in the same turns.
    """
    return spread(len(revisions), len({one.line_id for one in revisions}), settings)


def spread(replicas: int, lines: int, settings: AgentSettings) -> int:
    """How many processes so many replicas of so many lines are spread over."""
    full = -(-replicas // settings.pool_size)
    return max(full, min(lines, max(1, settings.cores // 2)))


@dataclass(frozen=True, slots=True, order=True)
class _Turn:
    """When a process is started, among others: for those who wait first, then one for each before a second for any."""

    waited: int  # 0: somebody waits for it
    nth: int
    first: ScaleUnit
    step: Start = field(compare=False)


def starts(seen: Snapshot, wished: Wishes, settings: AgentSettings) -> Iterable[Start]:
    """One replica for every unit before a second for any; no more processes at once than there are cores.

    But for those whom somebody waits for: they do not wait behind a large model that takes a minute to load.
    """
    coming = {
        seen.home(one.worker)
        for one in seen.replicas
        if one.state in COMING and one.worker not in seen.ended
    }
    turns = _turns(seen, wished, settings)
    turns.sort()
    room = settings.cores - len(coming)
    awaited = [one.step for one in turns if not one.waited][: max(0, room + settings.cores)]
    others = [one.step for one in turns if one.waited]
    if not turns and not coming:
        others = _compaction(seen, wished, settings)
    return [*awaited, *others[: max(0, room - len(awaited))]]


def _turns(seen: Snapshot, wished: Wishes, settings: AgentSettings) -> list[_Turn]:
    """Every process that is missing."""
    working = seen.working
    turns: list[_Turn] = []
    together: list[Revision] = []
    for unit, wish in wished.items():
        revision = wish.revision
        if revision.digest not in seen.artifacts:
            continue
        if seen.failures.get(unit, NO_FAILURE).retry_at > seen.now:
            continue
        have = len(working.get(unit, ()))
        missing = max(0, wish.replicas - have)
        if wish.may_start is not None:
            missing = min(missing, wish.may_start)
        if missing and may_share(seen, unit, wish, settings):
            together.append(revision)
        else:
            step = Start((revision,), endpoint=unit.endpoint)
            waited = _waited(seen, unit)
            turns += [_Turn(waited, nth, unit, step) for nth in range(have, have + missing)]
    together.sort(key=lambda one: (_waited(seen, ScaleUnit(one.id)), one.id))
    if _gathering(seen, wished, settings):
        del together[_kept(seen, together, settings) :]
    groups = _split(together, settings) if together else []
    return turns + [
        _Turn(_waited(seen, unit := ScaleUnit(group[0].id)), 0, unit, Start(group))
        for group in groups
    ]


def _waited(seen: Snapshot, unit: ScaleUnit) -> int:
    return 0 if seen.demand(unit).waited_until > seen.now else 1


def _kept(seen: Snapshot, together: Sequence[Revision], settings: AgentSettings) -> int:
    """How many go although more are on their way: those whom somebody waits for, and full processes."""
    full = len(together) // settings.pool_size * settings.pool_size
    waited = sum(not _waited(seen, ScaleUnit(one.id)) for one in together)
    return max(full, waited)


def may_share(seen: Snapshot, unit: ScaleUnit, wish: Wish, settings: AgentSettings) -> bool:
    """May a replica of this unit live in one process with others?"""
    return (
        wish.revision.digest in seen.light
        and wish.revision.id not in seen.restless
        and wish.replicas == 1
        and unit.endpoint == WHOLE
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


def _gathering(seen: Snapshot, wished: Wishes, settings: AgentSettings) -> bool:
    """Are more small ones on their way that a moment's patience lets come up in the same process?"""
    if seen.now - max(seen.catalog_since, seen.pulled_at) >= settings.gather_seconds:
        return False
    if seen.now - seen.catalog_since >= settings.most_gather_seconds:
        return False
    return any(
        (digest := wish.revision.digest) not in seen.artifacts
        and seen.pull_failures.get(digest, NO_FAILURE).retry_at <= seen.now
        for wish in wished.values()
    )


def compactable(seen: Snapshot, wished: Wishes, settings: AgentSettings) -> list[list[Replica]]:
    """The processes that fewer could take the place of, the smallest first; none while anything moves.

    Whether a rollout leads any of their lines is not asked here.
    """
    if not _calm(seen, settings):
        return []
    movable = []
    for replicas in seen.processes().values():
        there = [(one.unit, wished.get(one.unit)) for one in replicas]
        if all(wish is not None and may_share(seen, unit, wish, settings) for unit, wish in there):
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


def _compaction(seen: Snapshot, wished: Wishes, settings: AgentSettings) -> list[Start]:
    """One fresh process for what lies in the smallest ones.

    With every step there are fewer processes, or, where the smallest two are too much for one, fewer that
    are not full: it comes to an end.
    """
    if seen.led is None:
        return []
    led = seen.led
    movable = [
        replicas
        for replicas in compactable(seen, wished, settings)
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
    revisions = sorted((wished[one.unit].revision for one in taken), key=lambda one: one.id)
    return [Start(tuple(revisions), compaction=True)]
