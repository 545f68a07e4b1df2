"""The seams. Each is one small interface; its fake ships in `fairlead.adapters.memory`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import Protocol

from fairlead.domain.catalog import Catalog
from fairlead.domain.ids import ArtifactRef
from fairlead.domain.manifest import Manifest


@dataclass(frozen=True, slots=True)
class ObjectMeta:
    """What a listing says of an object: its key and size in bytes."""

    key: str
    size: int


@dataclass(frozen=True, slots=True)
class OldSecret:
    """A key's secret that has been replaced and works on until a time (seconds since 1970)."""

    secret: str
    until: float


class ObjectStore(Protocol):
    """Objects under keys, with conditional writes: what a directory, S3 and GCS all can do.

    Keys are relative posix paths. Every method blocks; call from a thread where that matters.
    Raises FairleadError(NOT_FOUND) for a missing key, StoreConflict for a failed condition.
    """

    def get(self, key: str) -> tuple[bytes, str]:
        """The object's bytes and its ETag."""
        ...

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Up to `length` bytes from `start`; fewer at the end of the object."""
        ...

    def size(self, key: str) -> int | None:
        """Size in bytes, or None if there is no such object."""
        ...

    def put(
        self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None
    ) -> str:
        """Write the whole object atomically and durably; returns its ETag."""
        ...

    def put_file(self, key: str, path: PurePath) -> None:
        """Upload a local file as one object, atomically."""
        ...

    def list(self, prefix: str) -> Iterator[ObjectMeta]:
        """Every object whose key starts with `prefix`, in key order."""
        ...

    def delete(self, key: str) -> None:
        """Remove the object; a missing one is fine."""
        ...


class Artifacts(Protocol):
    """Artifacts in a store."""

    def manifest(self, ref: ArtifactRef) -> Manifest:
        """Raises FairleadError(NOT_FOUND) if nothing is published under that name and version."""
        ...

    def refs(self) -> list[ArtifactRef]:
        """Everything published, in order of name and version."""
        ...

    def read(self, sha256: str, start: int, length: int) -> bytes:
        """Part of one file, by the SHA-256 the manifest gives."""
        ...


class Catalogs(Protocol):
    """The catalog in a store: immutable generations, and a head moved by compare-and-swap."""

    def read(self) -> Catalog:
        """The newest generation (an empty catalog, generation 0, in a new store)."""
        ...

    def commit(self, catalog: Catalog, message: str) -> Catalog:
        """Make `catalog` the successor of the generation it was derived from.

        `catalog.generation` is the generation it was read at; the returned one is one higher.
        `message` goes into the audit entry. Raises StoreConflict if the head has moved.
        """
        ...
