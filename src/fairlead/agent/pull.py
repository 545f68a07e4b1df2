"""Bringing an artifact to this node: resumed, verified, and then there as a whole or not at all.

Everything is written under `downloads/<digest>`; what a crash left there is hashed and gone on with. When every
file has the size and the SHA-256 the manifest gives, and all of it is on the disk, one rename puts the
directory into `artifacts`. What fails the check is removed, so that the next try starts clean.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fairlead.domain.errors import FairleadError, Kind
from fairlead.domain.ids import ArtifactRef
from fairlead.domain.layout import Home
from fairlead.domain.manifest import (
    MANIFEST,
    Manifest,
    ManifestFile,
    manifest_from_bytes,
    manifest_to_bytes,
    path_problem,
)
from fairlead.domain.ports import Artifacts
from fairlead.kits.files import sync_directory, write_atomic
from fairlead.kits.sizes import mebibytes

CHUNK_BYTES = 4 * 1024 * 1024
_TRASH = "trash-"
_SPARE_BYTES = 16 * 1024 * 1024  # what must stay free on the disk

Progress = Callable[[int, int], None]  # bytes that are here, bytes in all


@dataclass(frozen=True, slots=True)
class _Download:
    """One pull under way."""

    manifest: Manifest
    artifacts: Artifacts
    directory: Path
    progress: Progress

    def damaged(self, file: str, expected: str, found: str) -> FairleadError:
        return FairleadError(
            f"artifact {self.manifest.ref}: {file}: expected {expected}, found {found}; "
            "it is not served: publish it again, or repair the store",
            kind=Kind.CONFLICT,
        )


async def pull(
    ref: ArtifactRef, digest: str, artifacts: Artifacts, home: Home[Path], progress: Progress
) -> None:
    """Bring the artifact with this digest to `home.artifact(digest)`; returns when it is there for good.

    Raises FairleadError with the artifact, the file, what was expected and what was found.
    """
    manifest = await asyncio.to_thread(artifacts.manifest, ref)
    _check_manifest(manifest, ref, digest)
    download = _Download(manifest, artifacts, home.downloads / home.artifact(digest).name, progress)
    try:
        await asyncio.to_thread(_prepare, download)
        here = 0
        for file in manifest.files:
            await _fetch(download, file, here)
            here += file.size
        await asyncio.to_thread(_put_into_place, download, home)
    except OSError as error:
        message = (
            f"artifact {ref}: {error.strerror or error}: {error.filename or download.directory}"
        )
        raise FairleadError(message) from None


def present(home: Home[Path]) -> list[str]:
    """The digests of the artifacts that are whole on this node; whatever else lies there is removed.

    What cannot be removed does not count either: pulling it anew will fail on it, and say why.
    """
    found = []
    for directory in sorted(home.artifacts.iterdir()) if home.artifacts.is_dir() else []:
        digest = directory.name.replace("-", ":", 1)
        if _whole(directory, digest):
            found.append(digest)
            continue
        with contextlib.suppress(OSError):
            trash = _discard(directory, home)
            if trash is not None:
                delete(trash)
    return found


@dataclass(frozen=True, slots=True)
class Weight:
    """How large an artifact is, and whether it is a tensor graph."""

    size: int = 0  # bytes
    graph: bool = False

    def light(self, most_bytes: int) -> bool:
        """May it share a process? A small tensor graph may: it takes nothing from its neighbours.

        Code may not, however small: what it imports, and what it does to the process, concerns all in it.
        """
        return self.graph and self.size <= most_bytes


def weigh(home: Home[Path], digest: str) -> Weight:
    """How heavy an artifact on the disk is; of one that cannot be read nothing is known."""
    try:
        manifest = _manifest_in(home.artifact(digest))
    except (OSError, FairleadError):
        return Weight()
    return Weight(sum(file.size for file in manifest.files), manifest.engine == "onnx")


def verify(home: Home[Path], digest: str) -> str | None:
    """Read all of an artifact again and say what is wrong with it; None if it is as it was pulled."""
    directory = home.artifact(digest)
    if not _whole(directory, digest):
        return f"{directory} is not the artifact {digest} any more"
    for file in _manifest_in(directory).files:
        try:
            actual = _sha256(directory / file.path).hexdigest()
        except OSError as error:
            return f"{directory / file.path} cannot be read: {error.strerror}"
        if actual != file.sha256:
            return f"{directory / file.path}: expected sha256 {file.sha256}, found {actual}"
    return None


def discard(home: Home[Path], digest: str) -> Path | None:
    """Take an artifact out of its place in one step; returns what is left to be deleted."""
    home.measured(digest).unlink(missing_ok=True)
    return _discard(home.artifact(digest), home)


def delete(path: Path) -> None:
    """Delete what was discarded, or downloaded in vain; what resists stays for the next time.

    Somebody else may be at it too.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def clear_downloads(home: Home[Path], keep: set[str]) -> None:
    """Remove downloads of artifacts that nobody waits for, by digest, and what was being removed."""
    names = {home.artifact(digest).name for digest in keep}
    for entry in list(home.downloads.iterdir()) if home.downloads.is_dir() else []:
        if entry.name not in names:
            delete(entry)


def _check_manifest(manifest: Manifest, ref: ArtifactRef, digest: str) -> None:
    if manifest.digest != digest or manifest.ref != ref:
        raise FairleadError(
            f"artifact {ref}: {MANIFEST}: expected digest {digest}, found {manifest.digest} "
            f"({manifest.ref}); the store holds another artifact under that name",
            kind=Kind.CONFLICT,
        )
    # The store's reader has looked at the paths; a path that leaves the directory is worth a second look.
    for file in manifest.files:
        problem = path_problem(file.path)
        if file.path == MANIFEST:
            problem = "is the manifest's own name"
        if problem is not None:
            raise FairleadError(
                f"artifact {ref}: the manifest names the file {file.path!r}, which {problem}; "
                "expected a path inside the artifact",
                kind=Kind.INVALID,
            )


def _prepare(download: _Download) -> None:
    """Make room, and keep of an earlier try only what can be gone on with."""
    directory = download.directory
    directory.mkdir(parents=True, exist_ok=True)
    sizes = {file.path: file.size for file in download.manifest.files}
    here = 0
    for path in sorted(directory.rglob("*"), reverse=True):
        name = path.relative_to(directory).as_posix()
        if path.is_dir() and not path.is_symlink():
            if not any(other.startswith(f"{name}/") for other in sizes):
                shutil.rmtree(path)
        elif path.is_symlink() or name not in sizes or path.stat().st_size > sizes[name]:
            path.unlink()
        else:
            here += path.stat().st_size
    missing = download.manifest.size - here
    free = shutil.disk_usage(directory).free
    if missing + _SPARE_BYTES > free:
        raise FairleadError(
            f"artifact {download.manifest.ref} needs {mebibytes(missing)} more, {mebibytes(_SPARE_BYTES)} have to "
            f"stay free, and {directory} has {mebibytes(free)} free: make room there"
        )


async def _fetch(download: _Download, file: ManifestFile, before: int) -> None:
    """Bring one file; a leftover that turns out wrong at the end is fetched once more from the start."""
    path = download.directory / file.path
    resumed = await asyncio.to_thread(_size, path) > 0
    try:
        await _fetch_once(download, file, before)
    except FairleadError as error:
        if not resumed or error.kind is not Kind.CONFLICT:
            raise
        await _fetch_once(download, file, before)


async def _fetch_once(download: _Download, file: ManifestFile, before: int) -> None:
    path = download.directory / file.path
    hasher = await asyncio.to_thread(_open, path)
    here = await asyncio.to_thread(_size, path)
    download.progress(before + here, download.manifest.size)
    while here < file.size:
        got = await asyncio.to_thread(_append_chunk, download, file, here, hasher)
        if got == 0:
            path.unlink()
            raise download.damaged(file.path, f"{file.size} bytes", f"{here}, then the end")
        here += got
        download.progress(before + here, download.manifest.size)
    actual = hasher.hexdigest()
    if actual != file.sha256:
        path.unlink()
        raise download.damaged(file.path, f"sha256 {file.sha256}", actual)
    await asyncio.to_thread(_sync, path)


def _open(path: Path) -> hashlib._Hash:
    """Make sure the file is there, and hash what it already holds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return _sha256(path)


def _append_chunk(
    download: _Download, file: ManifestFile, start: int, hasher: hashlib._Hash
) -> int:
    length = min(CHUNK_BYTES, file.size - start)
    try:
        data = download.artifacts.read(file.sha256, start, length)
    except FairleadError as error:
        raise FairleadError(
            f"artifact {download.manifest.ref}: {file.path}: {error.message}", kind=error.kind
        ) from None
    data = data[:length]
    with (download.directory / file.path).open("r+b") as target:
        target.seek(start)
        target.write(data)
    hasher.update(data)
    return len(data)


def _put_into_place(download: _Download, home: Home[Path]) -> None:
    manifest = download.manifest
    write_atomic(download.directory / MANIFEST, manifest_to_bytes(manifest))
    for directory in [path for path in download.directory.rglob("*") if path.is_dir()]:
        sync_directory(directory)
    sync_directory(download.directory)
    if not _whole(download.directory, manifest.digest):
        raise download.damaged(MANIFEST, "all files in full", "some of them changed meanwhile")
    target = home.artifact(manifest.digest)
    target.parent.mkdir(parents=True, exist_ok=True)
    trash = _discard(target, home)
    download.directory.rename(target)
    sync_directory(target.parent)
    sync_directory(home.downloads)
    if trash is not None:
        delete(trash)


def _whole(directory: Path, digest: str) -> bool:
    """Are the manifest with that digest and every file of it here, each with its size?"""
    try:
        manifest = _manifest_in(directory)
        return manifest.digest == digest and all(
            (directory / file.path).stat().st_size == file.size for file in manifest.files
        )
    except (OSError, FairleadError):
        return False


def _manifest_in(directory: Path) -> Manifest:
    path = directory / MANIFEST
    return manifest_from_bytes(path.read_bytes(), str(path))


def _discard(path: Path, home: Home[Path]) -> Path | None:
    """Rename first: a crash in the middle of deleting must not leave half an artifact in its place."""
    home.downloads.mkdir(parents=True, exist_ok=True)
    trash = home.downloads / f"{_TRASH}{secrets.token_hex(4)}"
    try:
        path.rename(trash)
    except FileNotFoundError:
        return None
    return trash


def _sha256(path: Path) -> hashlib._Hash:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
