"""Releases: what applying a file would change (`plan`), and doing it (`apply`). Dry run is the same path.

A revision never changes: a file for one that exists may only move the line's traffic. A file whose
content is what was last applied changes nothing, so what an operator moved by command stands; `plan`
shows the difference as drift.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from fairlead.control import catalogs as changing
from fairlead.domain.batchable import misfits
from fairlead.domain.batching import contradictions
from fairlead.domain.catalog import (
    KEPT_REVISIONS,
    Catalog,
    Revision,
    ordered_traffic,
    with_revision,
    with_traffic,
    without_oldest,
)
from fairlead.domain.errors import FairleadError, InvalidInput, Kind, Problem, Refused
from fairlead.domain.ids import LineId, RevisionId
from fairlead.domain.manifest import Manifest
from fairlead.domain.ports import Artifacts, Catalogs
from fairlead.domain.release import EndpointSpec, Release, TrafficShare, endpoint_to_json
from fairlead.domain.versions import natural_key
from fairlead.kits.clock import Clock
from fairlead.kits.sizes import mebibytes

_KEEPS = f"a line keeps its newest {KEPT_REVISIONS} without traffic"


@dataclass(frozen=True, slots=True)
class SourcedRelease:
    """A release and the file it came from."""

    source: str
    release: Release


@dataclass(frozen=True, slots=True)
class Plan:
    """What applying would do: lines for people, and the catalog as it would be."""

    changes: tuple[str, ...]
    drift: tuple[str, ...]
    catalog: Catalog


def in_order(releases: list[SourcedRelease]) -> list[SourcedRelease]:
    """Older revisions first, so that a traffic tag finds its revision."""

    def key(one: SourcedRelease) -> tuple[object, ...]:
        release = one.release
        return release.service or "", natural_key(release.line), natural_key(release.version)

    return sorted(releases, key=key)


def plan(
    catalog: Catalog,
    releases: list[SourcedRelease],
    manifests: Mapping[str, Manifest],
    now: float,
    in_use: Collection[RevisionId] | None = None,
) -> Plan:
    """Decide over values. `manifests` holds what the store has, by artifact name; `in_use` what nodes run.

    Unless that is known, every revision is kept.

    Raises InvalidInput or Refused with the file and key path of the first release that cannot be applied.
    """
    changes: list[str] = []
    drift: list[str] = []
    moved: dict[LineId, None] = {}
    for sourced in in_order(releases):
        catalog, made, found = _plan_one(catalog, sourced, manifests, now)
        changes += made
        drift += found
        if made and in_use is not None:  # files that change nothing take nothing away either
            moved.setdefault(sourced.release.revision_id.line_id)
    for line_id in moved:
        catalog, old = without_oldest(catalog, line_id, in_use or ())
        changes += [f"- revision {line_id}.{tag} is kept no longer: {_KEEPS}" for tag in old]
    return Plan(tuple(changes), tuple(drift), catalog)


def apply(
    catalogs: Catalogs,
    artifacts: Artifacts,
    clock: Clock,
    releases: list[SourcedRelease],
    in_use: Collection[RevisionId] | None = None,
) -> tuple[Plan, Catalog]:
    """Plan over the newest catalog and commit it. Returns the plan and the catalog that now stands."""
    made: list[Plan] = []

    def what(catalog: Catalog) -> Catalog:
        # Read anew with each catalog: whoever removes an artifact commits after it is gone.
        manifests = manifests_of(artifacts, releases)
        made.append(plan(catalog, releases, manifests, clock.now(), in_use))
        return made[-1].catalog

    names = ", ".join(
        str(one.release.revision_id) for one in in_order(releases) if one.release.service
    )
    catalog = changing.change(catalogs, clock, what, f"apply {names}")
    return made[-1], catalog


def manifests_of(artifacts: Artifacts, releases: list[SourcedRelease]) -> dict[str, Manifest]:
    """The manifests the releases name. Raises InvalidInput naming the file if one is not published."""
    found: dict[str, Manifest] = {}
    for sourced in releases:
        ref = sourced.release.artifact
        if ref is None or str(ref) in found:
            continue
        try:
            found[str(ref)] = artifacts.manifest(ref)
        except FairleadError as error:
            if error.kind is not Kind.NOT_FOUND:
                raise
            raise InvalidInput(sourced.source, [Problem("artifact", error.message, "")]) from None
    return found


def _plan_one(
    catalog: Catalog, sourced: SourcedRelease, manifests: Mapping[str, Manifest], now: float
) -> tuple[Catalog, list[str], list[str]]:
    release = sourced.release
    _check_local(sourced)
    revision_id = release.revision_id
    manifest = manifests[str(release.artifact)]
    _check_batching(sourced, manifest)
    wanted = Revision(
        id=revision_id,
        artifact=manifest.ref,
        digest=manifest.digest,
        endpoints=release.endpoints,
        applied=release.digest(),
        created_at=now,
        applied_at=now,
        legacy_key=release.legacy_api_key,
    )
    current = _revision(catalog, revision_id)
    if (
        current is not None
        and current.applied == wanted.applied
        and current.digest == wanted.digest
    ):
        return catalog, [], _drift(catalog, release)
    if current is None and _let_go(catalog, revision_id):
        return catalog, [], [_not_kept(revision_id)]
    if current is not None:
        _check_unchanged(sourced, current, wanted)
        wanted = replace(current, applied=wanted.applied, applied_at=now)
    _check_paths(catalog, sourced)
    changes = []
    if current is None:
        if revision_id.service not in catalog.services:
            changes.append(
                f"+ service {revision_id.service}, pinned to its first line {revision_id.line}"
            )
        size = mebibytes(manifest.size)
        changes.append(
            f"+ revision {revision_id} from artifact {manifest.ref} ({size}, {manifest.digest[:19]}…)"
        )
    before = _traffic(catalog, revision_id.line_id)
    catalog = with_revision(catalog, wanted)
    try:
        catalog = with_traffic(catalog, revision_id.line_id, release.traffic)
    except Refused as error:
        problem = Problem(
            "traffic",
            error.message,
            "apply the file that creates that revision first, or with this one",
        )
        raise InvalidInput(sourced.source, [problem]) from None
    after = _traffic(catalog, revision_id.line_id)
    if before != after:
        changes.append(
            f"~ traffic {revision_id.line_id}: {split_text(before)} -> {split_text(after)}"
        )
        gone = {share.tag for share in before} - {share.tag for share in after}
        changes += [
            f"- revision {revision_id.line_id}.{tag} serves no more once the new ones are ready"
            for tag in sorted(gone, key=natural_key)
        ]
    return catalog, changes, []


def _let_go(catalog: Catalog, revision_id: RevisionId) -> bool:
    service = catalog.services.get(revision_id.service)
    line = service.lines.get(revision_id.line) if service else None
    return line is not None and revision_id.revision in line.let_go


def _not_kept(revision_id: RevisionId) -> str:
    return (
        f"! {revision_id} is kept no longer: {_KEEPS}; to have it back, give the file a new version"
    )


def split_text(traffic: tuple[TrafficShare, ...]) -> str:
    """`1=90 2=10`: what `fairlead traffic` takes."""
    return " ".join(f"{share.tag}={share.percent}" for share in traffic) or "none"


def _check_local(sourced: SourcedRelease) -> None:
    release = sourced.release
    problems = []
    if release.service is None:
        problems.append(
            Problem(
                "service", "is missing", "say which service this line belongs to: service: speech"
            )
        )
    if release.artifact is None:
        problems.append(
            Problem(
                "artifact", "is missing", "this target runs artifacts: artifact: <name>/<version>"
            )
        )
    if problems:
        raise InvalidInput(sourced.source, problems)


def _check_unchanged(sourced: SourcedRelease, current: Revision, wanted: Revision) -> None:
    changed = []
    if (current.artifact, current.digest) != (wanted.artifact, wanted.digest):
        changed.append(f"artifact (-{current.artifact} +{wanted.artifact})")
    if endpoints_json(current.endpoints) != endpoints_json(wanted.endpoints):
        changed.append("endpoints")
    if current.legacy_key != wanted.legacy_key:
        changed.append("provideApiKeyAuthForLegacyContainerSupport")
    if changed:
        problem = Problem(
            "version",
            f"{current.id} exists already and revisions never change, but this file changes its {', '.join(changed)}",
            "give the new revision a version of its own",
        )
        raise InvalidInput(sourced.source, [problem])


def endpoints_json(endpoints: tuple[EndpointSpec, ...]) -> dict[str, object]:
    """Endpoints as comparable content."""
    return {endpoint.name: endpoint_to_json(endpoint) for endpoint in endpoints}


def _check_paths(catalog: Catalog, sourced: SourcedRelease) -> None:
    """A (path, line) pair belongs to one service."""
    release = sourced.release
    problems = []
    for endpoint in release.endpoints:
        for path in endpoint.paths:
            where = f"endpoints.{endpoint.name}.paths"
            problems += [
                Problem(
                    where,
                    f"{path} of line {release.line} belongs to service {other}",
                    "choose another path or line",
                )
                for other in _owners(catalog, release, path)
            ]
    if problems:
        raise InvalidInput(sourced.source, problems)


def _owners(catalog: Catalog, release: Release, path: str) -> list[str]:
    return [
        name
        for name, service in catalog.services.items()
        if name != release.service and release.line in service.lines
        for revision in service.lines[release.line].revisions.values()
        for endpoint in revision.endpoints
        if path in endpoint.paths
    ][:1]


def _revision(catalog: Catalog, revision_id: RevisionId) -> Revision | None:
    service = catalog.services.get(revision_id.service)
    line = service.lines.get(revision_id.line) if service else None
    return line.revisions.get(revision_id.revision) if line else None


def _traffic(catalog: Catalog, line_id: LineId) -> tuple[TrafficShare, ...]:
    service = catalog.services.get(line_id.service)
    line = service.lines.get(line_id.line) if service else None
    return line.traffic if line else ()


def _check_batching(sourced: SourcedRelease, manifest: Manifest) -> None:
    """What the release says over the model's own file must not contradict it, and must fit the model's signature."""
    for one in sourced.release.endpoints:
        if not (one.batching or one.timeout_seconds):
            continue  # it says nothing of it
        said = one.batching.over(manifest.batching)
        where = f"endpoints.{one.name}.batching"
        problems = contradictions(said, where, timeout_seconds=one.timeout_seconds)
        problems += misfits(said, manifest.signature, where)
        if problems:
            raise InvalidInput(sourced.source, problems)


def _drift(catalog: Catalog, release: Release) -> list[str]:
    """What a command moved away from the file: only the newest revision's file speaks for its line."""
    line = catalog.line(release.revision_id.line_id)
    newest = max(line.revisions, key=natural_key)
    wanted = ordered_traffic(release.traffic)
    if release.version != newest or line.traffic == wanted:
        return []
    told = f"! drift {line.id}: the file says {split_text(wanted)}, the catalog {split_text(line.traffic)}"
    mend = f"fairlead traffic {line.id.service} {line.id.line} {split_text(wanted)}"
    return [f"{told}; to follow the file: {mend}"]
