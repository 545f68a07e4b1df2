"""Removing artifacts from the store: never one that a revision names, whoever releases at the same time.

The manifest goes first, then the catalog is committed as it is. Whoever creates a revision reads the manifest
for the very catalog it changes: so either it finds no manifest, or the commit here finds its revision and the
manifest comes back.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from fairlead.control import catalogs as changing
from fairlead.domain.catalog import Catalog
from fairlead.domain.errors import FairleadError, Kind, Refused
from fairlead.domain.ids import ArtifactRef, RevisionId
from fairlead.domain.ports import Catalogs, ObjectMeta
from fairlead.kits.clock import Clock

_TRIES = 5
_SHOWN = 3  # revisions that a refusal names


class Shelf(Protocol):
    """Where artifacts lie, with what removing them takes."""

    def refs(self) -> list[ArtifactRef]:
        """Everything published, in order of name and version."""
        ...

    def withdraw(self, ref: ArtifactRef) -> bytes:
        """Take the manifest away; raises FairleadError(NOT_FOUND) if there is none."""
        ...

    def restore(self, ref: ArtifactRef, data: bytes) -> None:
        """Put it back."""
        ...

    def unnamed(self, without: Collection[ArtifactRef] = ()) -> list[ObjectMeta]:
        """The files that no artifact names, or would if these were gone."""
        ...

    def sweep(self) -> int:
        """Remove the files that no artifact names; returns how many bytes that were."""
        ...


@dataclass(frozen=True, slots=True)
class Removed:
    """What went. `problem` says why files stay; the next removal takes them along."""

    refs: tuple[ArtifactRef, ...]
    freed: int
    problem: str = ""


def users(catalog: Catalog) -> Mapping[ArtifactRef, list[RevisionId]]:
    """The revisions that name each artifact, with traffic or without."""
    found: dict[ArtifactRef, list[RevisionId]] = {}
    for service in catalog.services.values():
        for line in service.lines.values():
            for revision in line.revisions.values():
                found.setdefault(revision.artifact, []).append(revision.id)
    return found


def old(
    refs: Collection[ArtifactRef], used: Collection[ArtifactRef], keep: int
) -> list[ArtifactRef]:
    """Those that no revision names, but for the newest `keep` versions of each name."""
    newest: dict[str, list[int]] = {}
    for ref in refs:
        newest.setdefault(ref.name, []).append(ref.version)
    kept = {
        name: set(sorted(versions)[-keep:] if keep else ()) for name, versions in newest.items()
    }
    return [ref for ref in refs if ref not in used and ref.version not in kept[ref.name]]


def remove(
    catalogs: Catalogs, shelf: Shelf, clock: Clock, refs: Collection[ArtifactRef]
) -> Removed:
    """Remove these artifacts and whatever files no artifact names any more.

    Raises Refused(CONFLICT) that names the revisions if one is used, FairleadError(NOT_FOUND) if one is not there;
    nothing is removed then.
    """
    _check(catalogs.read(), refs)
    taken: dict[ArtifactRef, bytes] = {}

    def what(catalog: Catalog) -> Catalog:
        _check(catalog, refs)
        return catalog

    try:
        for ref in refs:
            taken[ref] = shelf.withdraw(ref)
        if refs:
            message = f"remove artifact {', '.join(map(str, refs))}"
            changing.change(catalogs, clock, what, message, always=True)
    except BaseException:
        for ref, data in taken.items():
            shelf.restore(ref, data)
        raise
    try:
        return Removed(tuple(refs), shelf.sweep())
    except FairleadError as error:
        return Removed(tuple(refs), 0, error.message)


def prune(catalogs: Catalogs, shelf: Shelf, clock: Clock, keep: int) -> Removed:
    """Remove what `old` says of the newest catalog; looks again if somebody else was at it."""
    for attempt in range(_TRIES):
        try:
            return remove(catalogs, shelf, clock, old(shelf.refs(), users(catalogs.read()), keep))
        except FairleadError as error:
            if attempt == _TRIES - 1 or error.kind not in (Kind.CONFLICT, Kind.NOT_FOUND):
                raise
    raise AssertionError  # the last try returns or raises


def _check(catalog: Catalog, refs: Collection[ArtifactRef]) -> None:
    used = users(catalog)
    for ref in refs:
        names = sorted(used.get(ref, ()))
        if names:
            shown = ", ".join(map(str, names[:_SHOWN]))
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            message = f"{ref} is used by {shown}{more}: `fairlead delete {names[0]}` first"
            raise Refused(Kind.CONFLICT, message)
