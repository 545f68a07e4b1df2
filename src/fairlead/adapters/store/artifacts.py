"""Artifacts in an object store: files by their SHA-256, and one manifest for each name and version.

`blobs/sha256/<hex>` holds a file's bytes; `artifacts/<name>/<version>.json` is the manifest, written last:
until it is there, nothing was published.

Files may belong to several artifacts, so those of one that is removed are swept: whatever no manifest names
goes. A sweep says so in `artifacts/sweep.json`, under a number of its own; who publishes meanwhile looks again
once it is over, because the files it had found in place may be gone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Literal

from fairlead.domain.errors import FairleadError, Kind, StoreConflict
from fairlead.domain.ids import ArtifactRef
from fairlead.domain.manifest import Manifest, ManifestFile, manifest_from_bytes, manifest_to_bytes
from fairlead.domain.ports import ObjectMeta, ObjectStore
from fairlead.domain.versions import natural_key
from fairlead.kits.clock import Clock, SystemClock

_MANIFEST = re.compile(r"artifacts/(.+)/([1-9][0-9]*)\.json")

_CHUNK_BYTES = 4 << 20

_SWEEP = "artifacts/sweep.json"
_SWEEP_SECONDS = 300.0  # one that takes longer gives up …
_ABANDONED_SECONDS = 600.0  # … long before anybody takes it for dead
_PATIENCE_SECONDS = 60.0  # of somebody who publishes
_LOOK_SECONDS = 0.02

# What publishing came to; "repaired": the same artifact was there, with damaged files.
Outcome = Literal["new", "unchanged", "repaired"]


class StoredArtifacts:
    """The artifacts of one store."""

    def __init__(self, store: ObjectStore, clock: Clock | None = None) -> None:
        self._store = store
        self._clock = clock or SystemClock()

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
        number = self._calm()
        outcome = self._publish(manifest, directory)
        while (now := self._calm()) != number:
            number = now
            again = self._publish(manifest, directory)
            outcome = again if again == "new" else outcome
        return outcome

    def withdraw(self, ref: ArtifactRef) -> bytes:
        """Take an artifact's manifest away, so that nobody finds it; returns it for `restore`."""
        try:
            data, _ = self._store.get(_manifest_key(ref))
        except FairleadError as error:
            if error.kind is not Kind.NOT_FOUND:
                raise
            raise FairleadError(self._not_there(ref), kind=Kind.NOT_FOUND) from None
        self._store.delete(_manifest_key(ref))
        return data

    def restore(self, ref: ArtifactRef, data: bytes) -> None:
        """Put a withdrawn manifest back, unless somebody has published it again."""
        with contextlib.suppress(StoreConflict):
            self._store.put(_manifest_key(ref), data, if_absent=True)

    def unnamed(self, without: Collection[ArtifactRef] = ()) -> list[ObjectMeta]:
        """The files that no artifact names, or would if these were gone.

        Raises FairleadError if a manifest is damaged: whose files those are nobody knows.
        """
        refs = [ref for ref in self.refs() if ref not in without]
        named = {_blob_key(file.sha256) for ref in refs for file in self.manifest(ref).files}
        return [meta for meta in self._store.list("blobs/") if meta.key not in named]

    def sweep(self) -> int:
        """Remove the files that no artifact names; returns how many bytes that were.

        Raises FairleadError(CONFLICT) if another sweep is under way.
        """
        with self.sweeping() as until:
            freed = 0
            for meta in self.unnamed():
                if self._clock.now() > until:
                    message = f"removing files took more than {_SWEEP_SECONDS:g} s: try again for the others"
                    raise FairleadError(message, kind=Kind.DEADLINE)
                self._store.delete(meta.key)
                freed += meta.size
            return freed

    @contextlib.contextmanager
    def sweeping(self) -> Iterator[float]:
        """While files go: others who would remove some are refused, who publishes waits. Until when it may last."""
        sweep, etag = self._last_sweep()
        if self._is_active(sweep):
            message = "another removal of artifacts is under way: try again when it is done"
            raise FairleadError(message, kind=Kind.CONFLICT)
        now = self._clock.now()
        mine = {"schema": 1, "number": sweep["number"] + 1, "active": True, "at": now}
        data = json.dumps(mine).encode()
        try:
            etag = self._store.put(_SWEEP, data, if_absent=not etag, if_match=etag or None)
        except StoreConflict:
            message = "another removal of artifacts has just begun: try again when it is done"
            raise FairleadError(message, kind=Kind.CONFLICT) from None
        try:
            yield now + _SWEEP_SECONDS
        finally:
            over = json.dumps({**mine, "active": False}).encode()
            with contextlib.suppress(StoreConflict):
                self._store.put(_SWEEP, over, if_match=etag)

    def _calm(self) -> int:
        """Wait until no sweep is under way; the number of the last one."""
        until = self._clock.monotonic() + _PATIENCE_SECONDS
        while True:
            sweep, _ = self._last_sweep()
            if not self._is_active(sweep):
                return int(sweep["number"])
            if self._clock.monotonic() > until:
                message = "a removal of artifacts is under way, and does not end: try again later"
                raise FairleadError(message, kind=Kind.CONFLICT)
            self._clock.pause(_LOOK_SECONDS)

    def _is_active(self, sweep: dict[str, Any]) -> bool:
        return bool(sweep["active"]) and self._clock.now() - sweep["at"] < _ABANDONED_SECONDS

    def _last_sweep(self) -> tuple[dict[str, Any], str]:
        """What the last sweep said of itself, and its ETag; empty if there was none."""
        nothing = {"number": 0, "active": False, "at": 0.0}
        try:
            data, etag = self._store.get(_SWEEP)
        except FairleadError as error:
            if error.kind is not Kind.NOT_FOUND:
                raise
            return nothing, ""
        try:
            found = json.loads(data)
            said = {
                "number": int(found["number"]),
                "active": bool(found["active"]),
                "at": float(found["at"]),
            }
        except (ValueError, KeyError, TypeError, RecursionError):
            return nothing, etag
        return said, etag

    def _publish(self, manifest: Manifest, directory: Path) -> Outcome:
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
