"""Artifacts in an object store: files by their SHA-256, and one manifest for each name and version.

`blobs/sha256/<hex>` holds a file's bytes; `artifacts/<name>/<version>.json` is the manifest, written last:
until it is there, nothing was published.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Literal

from fairlead.domain.errors import FairleadError, Kind, StoreConflict
from fairlead.domain.ids import ArtifactRef
from fairlead.domain.manifest import Manifest, ManifestFile, manifest_from_bytes, manifest_to_bytes
from fairlead.domain.ports import ObjectStore
from fairlead.domain.versions import natural_key

_MANIFEST = re.compile(r"artifacts/(.+)/([1-9][0-9]*)\.json")

_CHUNK_BYTES = 4 << 20

# What publishing came to; "repaired": the same artifact was there, with damaged files.
Outcome = Literal["new", "unchanged", "repaired"]


class StoredArtifacts:
    """The artifacts of one store."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def manifest(self, ref: ArtifactRef) -> Manifest:
        key = _manifest_key(ref)
        try:
            data, _ = self._store.get(key)
        except FairleadError as error:
            if error.kind is not Kind.NOT_FOUND:
                raise
            raise FairleadError(self._not_there(ref), kind=Kind.NOT_FOUND) from None
        manifest = manifest_from_bytes(data, key)
        if manifest.ref != ref:
            raise FairleadError(
                f"{key} is the manifest of {manifest.ref}: the store is damaged", kind=Kind.CONFLICT
            )
        return manifest

    def refs(self) -> list[ArtifactRef]:
        found = [_MANIFEST.fullmatch(meta.key) for meta in self._store.list("artifacts/")]
        refs = [ArtifactRef(match[1], int(match[2])) for match in found if match]
        return sorted(refs, key=lambda ref: (natural_key(ref.name), ref.version))

    def read(self, sha256: str, start: int, length: int) -> bytes:
        return self._store.get_range(_blob_key(sha256), start, length)

    def publish(self, manifest: Manifest, directory: Path) -> Outcome:
        """Upload the files, then the manifest. Where the same artifact is there, only what is damaged.

        Raises FairleadError(CONFLICT) if other bytes hold that name and version.
        """
        try:
            there = self.manifest(manifest.ref)
        except FairleadError as error:
            if error.kind is not Kind.NOT_FOUND:
                raise
        else:
            self._check_same(manifest, there)
            return "repaired" if self._upload(manifest, directory) else "unchanged"
        self._upload(manifest, directory)
        data = manifest_to_bytes(manifest)
        try:
            self._store.put(_manifest_key(manifest.ref), data, if_absent=True)
        except StoreConflict:
            self._check_same(manifest, self.manifest(manifest.ref))
            return "unchanged"
        return "new"

    def _upload(self, manifest: Manifest, directory: Path) -> int:
        """Put every file the store lacks or holds wrongly; returns how many."""
        wrong = [file for file in manifest.files if not self._holds(file)]
        for file in wrong:
            self._store.put_file(_blob_key(file.sha256), directory / file.path)
        return len(wrong)

    def _holds(self, file: ManifestFile) -> bool:
        key = _blob_key(file.sha256)
        if self._store.size(key) != file.size:
            return False
        digest = hashlib.sha256()
        for start in range(0, file.size, _CHUNK_BYTES):
            digest.update(self._store.get_range(key, start, _CHUNK_BYTES))
        return digest.hexdigest() == file.sha256

    def _check_same(self, manifest: Manifest, there: Manifest) -> None:
        if there.digest == manifest.digest:
            return
        message = (
            f"{manifest.ref} is published already with other content ({there.digest[:19]}…, this is "
            f"{manifest.digest[:19]}…): artifacts never change, publish it as version {self._next(manifest.ref)}"
        )
        raise FairleadError(message, kind=Kind.CONFLICT)

    def _next(self, ref: ArtifactRef) -> int:
        return max(other.version for other in self.refs() if other.name == ref.name) + 1

    def _not_there(self, ref: ArtifactRef) -> str:
        versions = [str(other.version) for other in self.refs() if other.name == ref.name]
        have = (
            f"versions of {ref.name}: {', '.join(versions)}"
            if versions
            else f"nothing named {ref.name} is published"
        )
        return f"the store has no artifact {ref} ({have}); `fairlead publish DIR` puts it there"


def _manifest_key(ref: ArtifactRef) -> str:
    return f"artifacts/{ref.name}/{ref.version}.json"


def _blob_key(sha256: str) -> str:
    return f"blobs/sha256/{sha256}"
