"""Checks of artifacts: what the catalog names is there, whole, and what was published."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from fairlead.domain.catalog import Catalog
from fairlead.domain.errors import FairleadError
from fairlead.domain.findings import Finding
from fairlead.domain.layout import Home
from fairlead.domain.manifest import MANIFEST, Manifest, ManifestFile, manifest_from_bytes
from fairlead.domain.ports import Artifacts, ObjectStore

_CHUNK = 1 << 20
_WHY = "a worker that starts anew cannot load it"


def in_store(
    catalog: Catalog, artifacts: Artifacts, store: ObjectStore, *, deep: bool
) -> list[Finding]:
    """Every artifact a revision names: its manifest, its digest, its files; `deep` reads every byte."""
    found: list[Finding] = []
    seen: set[str] = set()
    for service in catalog.services.values():
        for line in service.lines.values():
            for revision in line.revisions.values():
                if revision.digest in seen:
                    continue
                seen.add(revision.digest)
                try:
                    manifest = artifacts.manifest(revision.artifact)
                except FairleadError as error:
                    mend = f"publish it again: fairlead publish DIR (with {revision.artifact} in its model.yaml)"
                    wrong = f"{revision.id} needs {revision.artifact}: {error.message}"
                    found.append(Finding("artifacts", wrong, _WHY, mend))
                    continue
                found += _one(manifest, revision.digest, store, deep=deep)
    return found


def on_node(home: Home[Path], *, deep: bool) -> list[Finding]:
    """The verified copies of this node: whole, and nothing else beside them."""
    if not home.artifacts.is_dir():
        return []
    found = []
    for directory in sorted(home.artifacts.iterdir()):
        if directory.name.startswith((".", "trash-")) or not directory.is_dir():
            continue
        wrong = _wrong_copy(directory, deep=deep)
        if wrong is not None:
            mend = f"run: rm -r {directory}; the agent pulls it again"
            found.append(Finding("artifacts", wrong, _WHY, mend))
    return found


def _one(manifest: Manifest, digest: str, store: ObjectStore, *, deep: bool) -> list[Finding]:
    ref = manifest.ref
    mend = f"publish it again, which repairs it: fairlead publish DIR (the folder of {ref})"
    if manifest.digest != digest:
        wrong = f"{ref} in the store is {manifest.digest[:19]}…, the catalog means {digest[:19]}…"
        return [
            Finding("artifacts", wrong, "it would serve something else, so it is refused", mend)
        ]
    for file in manifest.files:
        wrong_file = _wrong_blob(file, store, deep=deep)
        if wrong_file is not None:
            return [Finding("artifacts", f"{ref}: {file.path} {wrong_file}", _WHY, mend)]
    return []


def _wrong_blob(file: ManifestFile, store: ObjectStore, *, deep: bool) -> str | None:
    key = f"blobs/sha256/{file.sha256}"
    size = store.size(key)
    if size is None:
        return "is not in the store"
    if size != file.size:
        return f"has {size} bytes in the store, not {file.size}"
    if deep and _digest(lambda at: store.get_range(key, at, _CHUNK)) != file.sha256:
        return "has other bytes in the store than were published"
    return None


def _wrong_copy(directory: Path, *, deep: bool) -> str | None:
    try:
        manifest = manifest_from_bytes((directory / MANIFEST).read_bytes())
        if manifest.digest.replace(":", "-") != directory.name:
            return f"{directory} holds another artifact ({manifest.digest[:19]}…)"
        for file in manifest.files:
            path = directory / file.path
            if path.stat().st_size != file.size or (deep and _file_digest(path) != file.sha256):
                return f"{path} is not what was published"
    except (OSError, FairleadError) as error:
        said = getattr(error, "strerror", None) or str(error)
        return f"{directory} cannot be read: {said}"
    return None


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return _digest(lambda _: file.read(_CHUNK))


def _digest(read: Callable[[int], bytes]) -> str:
    digest, at = hashlib.sha256(), 0
    while chunk := read(at):
        digest.update(chunk)
        at += len(chunk)
    return digest.hexdigest()
