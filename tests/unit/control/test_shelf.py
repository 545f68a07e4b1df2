"""Artifacts that are removed while others publish and release: nothing that is used ever lacks a file."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from fairlead.adapters.memory.store import MemoryObjectStore
from fairlead.adapters.store.artifacts import StoredArtifacts
from fairlead.adapters.store.catalogs import StoredCatalogs
from fairlead.adapters.store.directory import DirectoryObjectStore
from fairlead.control import releases, shelf
from fairlead.control.publish import read_folder
from fairlead.control.releases import SourcedRelease
from fairlead.domain.errors import FairleadError, Kind, Refused
from fairlead.domain.ids import ArtifactRef
from fairlead.domain.manifest import Manifest
from fairlead.domain.ports import ObjectStore
from fairlead.domain.release import release_from_document
from fairlead.kits.clock import FakeClock, SystemClock

SHARED = "weights.bin"


def folder(directory: Path, name: str, version: int) -> tuple[Path, Manifest]:
    """An artifact with a file of its own, and one that all of them share."""
    path = directory / f"{name}-{version}"
    path.mkdir(parents=True, exist_ok=True)
    (path / "model.onnx").write_text(f"{name} {version}")
    (path / SHARED).write_bytes(b"the same" * 1000)
    (path / "golden.json").write_text("{}")
    return path, read_folder(path, {"name": name, "version": version, "engine": "onnx"})


def sourced(artifact: str, version: str = "1") -> SourcedRelease:
    document = {"service": "s", "model": "v1", "version": version, "artifact": artifact}
    return SourcedRelease("r.yaml", release_from_document(document, "r.yaml"))


class Place:
    def __init__(self, store: ObjectStore, directory: Path) -> None:
        self.store, self.directory, self.clock = store, directory, SystemClock()
        self.artifacts = StoredArtifacts(store)
        self.catalogs = StoredCatalogs(store, self.clock)

    def publish(self, name: str, version: int) -> ArtifactRef:
        path, manifest = folder(self.directory, name, version)
        self.artifacts.publish(manifest, path)
        return manifest.ref

    def apply(self, artifact: str, version: str = "1") -> None:
        releases.apply(self.catalogs, self.artifacts, self.clock, [sourced(artifact, version)])

    def remove(self, *refs: ArtifactRef) -> shelf.Removed:
        return shelf.remove(self.catalogs, self.artifacts, self.clock, refs)

    def blobs(self) -> set[str]:
        return {meta.key for meta in self.store.list("blobs/")}

    def whole(self, ref: ArtifactRef) -> bool:
        manifest = self.artifacts.manifest(ref)
        return all(f"blobs/sha256/{file.sha256}" in self.blobs() for file in manifest.files)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(MemoryObjectStore(), tmp_path)


def test_only_what_no_other_artifact_shares_goes(place: Place) -> None:
    one, two = place.publish("a", 1), place.publish("a", 2)
    before = place.blobs()
    removed = place.remove(one)
    assert (removed.refs, removed.freed, removed.problem) == ((one,), len("a 1"), "")
    assert len(before - place.blobs()) == 1
    assert place.artifacts.refs() == [two]
    assert place.whole(two)
    place.remove(two)
    assert place.blobs() == set()
    assert "remove artifact a/1" in place.store.get("audit/00000001.json")[0].decode()


def test_one_that_a_revision_names_is_refused_and_nothing_goes(place: Place) -> None:
    one, two = place.publish("a", 1), place.publish("a", 2)
    place.apply("a/1")
    with pytest.raises(Refused, match=r"a/1 is used by s/v1\.1: `fairlead delete s/v1.1` first"):
        place.remove(two, one)
    with pytest.raises(FairleadError, match="no artifact a/9"):
        place.remove(two, ArtifactRef("a", 9))
    assert place.whole(one)
    assert place.whole(two)


def test_a_release_that_comes_in_between_keeps_its_artifact(place: Place) -> None:
    """It read the manifest before that was withdrawn, and commits before the removal does."""
    ref = place.publish("a", 1)
    manifest = place.artifacts.manifest(ref)

    class Between(StoredArtifacts):
        def withdraw(self, ref: ArtifactRef) -> bytes:
            data = super().withdraw(ref)
            known = _Known(manifest)
            releases.apply(place.catalogs, known, place.clock, [sourced("a/1")])
            return data

    with pytest.raises(Refused, match=r"is used by s/v1\.1"):
        shelf.remove(place.catalogs, Between(place.store), place.clock, [ref])
    assert place.whole(ref)


class _Known:
    """Artifacts as somebody saw them a moment ago."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest

    def manifest(self, ref: ArtifactRef) -> Manifest:
        assert ref == self._manifest.ref
        return self._manifest

    def refs(self) -> list[ArtifactRef]:
        return [self._manifest.ref]

    def read(self, sha256: str, start: int, length: int) -> bytes:
        raise NotImplementedError


def test_a_release_that_comes_too_late_finds_nothing(place: Place) -> None:
    """It read the manifest before that was withdrawn, but its catalog is not the newest any more."""
    place.publish("a", 1)
    seen: list[int] = []

    class Slow(StoredArtifacts):
        def manifest(self, ref: ArtifactRef) -> Manifest:
            found = super().manifest(ref)
            if not seen:
                seen.append(1)
                place.remove(ref)
            return found

    with pytest.raises(FairleadError, match="the store has no artifact a/1"):
        releases.apply(place.catalogs, Slow(place.store), place.clock, [sourced("a/1")])
    assert seen
    assert place.catalogs.read().services == {}


def test_who_publishes_during_a_sweep_puts_back_what_it_took(place: Place) -> None:
    """The shared file is found in place, and swept before the new manifest names it."""
    ref = place.publish("a", 1)
    path, manifest = folder(place.directory, "b", 1)
    done: list[int] = []

    class Unlucky(StoredArtifacts):
        def _upload(self, manifest: Manifest, directory: Path) -> int:
            count = super()._upload(manifest, directory)
            if not done:
                done.append(1)
                place.remove(ref)
            return count

    Unlucky(place.store).publish(manifest, path)
    assert done
    assert place.whole(manifest.ref)


def test_who_publishes_waits_for_a_sweep_to_end(place: Place) -> None:
    place.publish("a", 1)
    path, manifest = folder(place.directory, "b", 1)
    with place.artifacts.sweeping():
        thread = threading.Thread(target=place.artifacts.publish, args=(manifest, path))
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        with pytest.raises(FairleadError, match="another removal of artifacts is under way"):
            place.artifacts.sweep()
    thread.join(5)
    assert not thread.is_alive()
    assert place.whole(manifest.ref)


def test_a_sweep_whose_process_died_holds_up_nobody_for_ever(place: Place) -> None:
    clock = FakeClock()
    artifacts = StoredArtifacts(place.store, clock)
    dead = artifacts.sweeping()
    dead.__enter__()
    path, manifest = folder(place.directory, "b", 1)
    with pytest.raises(FairleadError, match="does not end: try again later"):
        artifacts.publish(manifest, path)
    clock.advance(700)
    assert artifacts.publish(manifest, path) == "new"
    assert artifacts.sweep() == 0
    assert place.whole(manifest.ref)


def test_a_damaged_manifest_keeps_all_files_and_that_is_told(place: Place) -> None:
    one, two = place.publish("a", 1), place.publish("a", 2)
    place.store.put("artifacts/a/2.json", b"damaged")
    before = place.blobs()
    removed = place.remove(one)
    assert "artifacts/a/2.json" in removed.problem
    assert place.blobs() == before
    assert place.artifacts.refs() == [two]
    assert place.remove(two).problem == ""  # what is damaged can be removed
    assert place.blobs() == set()


@pytest.mark.parametrize(
    ("keep", "gone"), [(0, ["a/1", "a/3", "b/1"]), (1, ["a/1"]), (2, ["a/1"]), (3, [])]
)
def test_pruning_keeps_the_newest_and_all_that_is_used(
    place: Place, keep: int, gone: list[str]
) -> None:
    for version in (1, 2, 3):
        place.publish("a", version)
    place.publish("b", 1)
    place.apply("a/2")
    if keep == 1:
        gone = ["a/1"]
    removed = shelf.prune(place.catalogs, place.artifacts, place.clock, keep)
    assert [*map(str, removed.refs)] == gone
    assert place.whole(ArtifactRef("a", 2))
    assert shelf.prune(place.catalogs, place.artifacts, place.clock, keep).refs == ()


def test_what_an_interrupted_upload_left_is_pruned(place: Place) -> None:
    ref = place.publish("a", 1)
    place.store.put("blobs/sha256/" + "f" * 64, b"nobody's")
    assert shelf.prune(place.catalogs, place.artifacts, place.clock, 3).freed == len("nobody's")
    assert place.whole(ref)


ROUNDS = 25


def _publisher(root: Path, number: int) -> None:
    place = Place(DirectoryObjectStore(root / "store"), root / f"p{number}")
    for version in range(1, ROUNDS + 1):
        place.publish(f"n{number}", version)
        if version % 5 == 0:
            try:
                place.apply(f"n{number}/{version}", f"{number}x{version}")
            except FairleadError as error:
                if error.kind not in (Kind.NOT_FOUND, Kind.INVALID):
                    raise


def _pruner(root: Path, _: int) -> None:
    place = Place(DirectoryObjectStore(root / "store"), root)
    for _ in range(ROUNDS):
        try:
            shelf.prune(place.catalogs, place.artifacts, place.clock, 1)
        except FairleadError as error:
            if error.kind is not Kind.CONFLICT:
                raise


@pytest.mark.timeout(60)
def test_processes_that_publish_release_and_prune_at_once_break_nothing(tmp_path: Path) -> None:
    place = Place(DirectoryObjectStore(tmp_path / "store", create=True), tmp_path)
    context = multiprocessing.get_context("spawn")
    work: list[tuple[Callable[[Path, int], None], int]] = [
        (_publisher, 1),
        (_publisher, 2),
        (_pruner, 1),
        (_pruner, 2),
    ]
    processes = [context.Process(target=job, args=(tmp_path, number)) for job, number in work]
    for process in processes:
        process.start()
    for process in processes:
        process.join(50)
    assert [process.exitcode for process in processes] == [0, 0, 0, 0]
    for ref in place.artifacts.refs():
        assert place.whole(ref), ref
    for ref in shelf.users(place.catalogs.read()):
        assert place.whole(ref), ref
    assert {ref.name for ref in place.artifacts.refs()} == {"n1", "n2"}
