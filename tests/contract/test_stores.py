"""What every object store promises, checked on each one we have; and the catalog and artifacts on top."""

from __future__ import annotations

import multiprocessing
import resource
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fairlead.adapters.memory.store import MemoryObjectStore
from fairlead.adapters.store.artifacts import StoredArtifacts
from fairlead.adapters.store.catalogs import KEPT_GENERATIONS, StoredCatalogs
from fairlead.adapters.store.directory import DirectoryObjectStore
from fairlead.control import catalogs as changing
from fairlead.control.publish import read_folder
from fairlead.domain.catalog import Catalog, with_key
from fairlead.domain.errors import FairleadError, Kind, StoreConflict
from fairlead.domain.ids import ArtifactRef
from fairlead.domain.keys import EVERYTHING, KeyRecord
from fairlead.domain.ports import ObjectStore
from fairlead.kits.clock import FakeClock, SystemClock, iso

WRITERS = 20


@pytest.fixture(params=["directory", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    return (
        DirectoryObjectStore(tmp_path / "store", create=True)
        if request.param == "directory"
        else MemoryObjectStore()
    )


class TestObjects:
    def test_what_was_put_is_got_with_the_same_etag(self, store: ObjectStore) -> None:
        etag = store.put("a/b", b"one")
        assert store.get("a/b") == (b"one", etag)
        assert store.put("a/b", b"two") != etag
        assert store.get("a/b")[0] == b"two"

    def test_a_missing_object_is_not_found(self, store: ObjectStore) -> None:
        for read in (lambda: store.get("a"), lambda: store.get_range("a", 0, 1)):
            with pytest.raises(FairleadError) as caught:
                read()
            assert caught.value.kind is Kind.NOT_FOUND
        assert store.size("a") is None
        store.delete("a")

    def test_a_range_ends_with_the_object(self, store: ObjectStore) -> None:
        store.put("a", b"0123456789")
        assert store.get_range("a", 3, 4) == b"3456"
        assert store.get_range("a", 8, 4) == b"89"
        assert store.get_range("a", 10, 4) == b""
        assert store.size("a") == 10

    def test_if_absent_never_overwrites(self, store: ObjectStore) -> None:
        store.put("a", b"one", if_absent=True)
        with pytest.raises(StoreConflict):
            store.put("a", b"two", if_absent=True)
        assert store.get("a")[0] == b"one"

    def test_if_match_writes_only_over_what_was_read(self, store: ObjectStore) -> None:
        etag = store.put("a", b"one")
        newer = store.put("a", b"two", if_match=etag)
        for old in (etag, "nothing"):
            with pytest.raises(StoreConflict):
                store.put("a", b"three", if_match=old)
        with pytest.raises(StoreConflict):
            store.put("b", b"three", if_match=newer)
        assert store.get("a")[0] == b"two"

    def test_a_listing_is_in_order_and_holds_only_its_prefix(
        self, store: ObjectStore, tmp_path: Path
    ) -> None:
        (tmp_path / "file").write_bytes(b"12345")
        store.put_file("a/2", tmp_path / "file")
        store.put("a/10", b"1")
        store.put("b/1", b"1")
        assert [(one.key, one.size) for one in store.list("a/")] == [("a/10", 1), ("a/2", 5)]
        assert [one.key for one in store.list("a/2")] == ["a/2"]
        assert list(store.list("none/")) == []

    def test_a_file_that_the_disk_refuses_is_named_and_leaves_nothing(self, tmp_path: Path) -> None:
        store = DirectoryObjectStore(tmp_path / "store", create=True)
        (tmp_path / "file").write_bytes(b"x" * 8192)
        kept = resource.getrlimit(resource.RLIMIT_FSIZE)
        ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, kept[1]))
        try:
            with pytest.raises(OSError, match="File too large") as caught:
                store.put_file("blobs/1", tmp_path / "file")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, kept)
            signal.signal(signal.SIGXFSZ, ignored)
        assert caught.value.filename == str(tmp_path / "store" / "blobs" / "1")
        assert list((tmp_path / "store" / "blobs").iterdir()) == []

    def test_what_is_deleted_while_it_is_listed_is_not_there_or_was(
        self, store: ObjectStore
    ) -> None:
        for number in range(3):
            store.put(f"a/{number}", b"1")
        listing = store.list("a/")
        assert next(listing).key == "a/0"
        store.delete("a/1")
        assert [one.key for one in listing][-1] == "a/2"


def test_a_directory_that_is_gone_is_no_empty_store(tmp_path: Path) -> None:
    store = DirectoryObjectStore(tmp_path / "store")
    for call in (
        lambda: store.get("a"),
        lambda: store.put("a", b""),
        lambda: store.size("a"),
        lambda: list(store.list("")),
        lambda: StoredCatalogs(store, FakeClock()).read(),
    ):
        with pytest.raises(FairleadError) as caught:
            call()
        assert caught.value.kind is Kind.UNAVAILABLE
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["../a", "/a", "a/../../b", "a//b", "", "a\\b", "a/."])
def test_a_key_never_leaves_the_directory(key: str, tmp_path: Path) -> None:
    with pytest.raises(FairleadError):
        DirectoryObjectStore(tmp_path / "store", create=True).put(key, b"x")
    assert [path.name for path in tmp_path.iterdir()] in ([], ["store"])


def _add_key(root: Path, name: str, start: Callable[[], object]) -> None:
    catalogs = StoredCatalogs(DirectoryObjectStore(root), SystemClock())
    start()
    for turn in range(3):
        key = KeyRecord(f"{name}-{turn}", (EVERYTHING,), 0.0, "")
        changing.change(
            catalogs,
            SystemClock(),
            lambda catalog, key=key: with_key(catalog, key),
            f"add {key.client}",
        )


class TestCatalogs:
    def test_a_new_store_has_an_empty_catalog(self, store: ObjectStore) -> None:
        assert StoredCatalogs(store, FakeClock()).read() == Catalog()

    def test_a_commit_is_read_back_by_everybody(self, store: ObjectStore) -> None:
        catalogs = StoredCatalogs(store, FakeClock())
        written = catalogs.commit(
            with_key(Catalog(), KeyRecord("a", (EVERYTHING,), 1.0, "f")), "add a"
        )
        assert written.generation == 1
        assert StoredCatalogs(store, FakeClock()).read() == written
        (audit,) = store.list("audit/")
        assert b"add a" in store.get(audit.key)[0]

    def test_a_commit_over_an_old_generation_is_refused_and_leaves_nothing(
        self, store: ObjectStore
    ) -> None:
        catalogs = StoredCatalogs(store, FakeClock())
        catalogs.commit(Catalog(), "first")
        before = [one.key for one in store.list("")]
        with pytest.raises(StoreConflict):
            catalogs.commit(Catalog(), "late")
        assert [one.key for one in store.list("")] == before

    def test_the_catalog_of_any_time_is_found(self, store: ObjectStore) -> None:
        clock = FakeClock()
        catalogs = StoredCatalogs(store, clock)
        assert catalogs.at(iso(clock.now())) is None
        written = [Catalog()]
        for number in range(9):
            clock.advance(10)
            key = KeyRecord(f"k{number}", (EVERYTHING,), 1.0, "f")
            written.append(catalogs.commit(with_key(written[-1], key), "add"))
        start = clock.now() - 90
        for number in range(1, 10):
            for passed in (0, 9.9):
                assert catalogs.at(iso(start + 10 * number + passed)) == written[number]
        assert catalogs.at(iso(start + 9.9)) is None
        store.put("catalog/00000005-other.json", b"of a writer that died")
        assert catalogs.at(iso(start + 50)) is None

    def test_old_generations_go_and_the_audit_stays_whole(self, store: ObjectStore) -> None:
        catalogs = StoredCatalogs(store, FakeClock())
        catalog = Catalog()
        for number in range(2 * KEPT_GENERATIONS):
            key = KeyRecord("alice", (EVERYTHING,), float(number), "")
            catalog = catalogs.commit(with_key(catalog, key), f"change {number}")
        kept = [meta.key for meta in store.list("catalog/0")]
        assert KEPT_GENERATIONS < len(kept) <= KEPT_GENERATIONS + 16
        assert kept[-1].startswith(f"catalog/{2 * KEPT_GENERATIONS:08d}-")
        assert len(list(store.list("audit/"))) == 2 * KEPT_GENERATIONS
        assert StoredCatalogs(store, FakeClock()).read() == catalog

    def test_a_store_of_a_newer_version_is_refused_in_words(self, store: ObjectStore) -> None:
        catalogs = StoredCatalogs(store, FakeClock())
        catalogs.commit(Catalog(), "first")
        store.put("catalog/head", b'{"schema": 99, "something": "else"}')
        with pytest.raises(FairleadError, match="written by a newer Fairlead"):
            StoredCatalogs(store, FakeClock()).read()

    def test_a_head_that_vanished_is_no_empty_catalog(self, store: ObjectStore) -> None:
        catalogs = StoredCatalogs(store, FakeClock())
        catalogs.commit(Catalog(), "first")
        catalogs.read()
        store.delete("catalog/head")
        # Who has read it before, and who has just come and would make another one.
        for reader in (catalogs, StoredCatalogs(store, FakeClock())):
            with pytest.raises(FairleadError, match="was there and is gone") as caught:
                reader.read()
            assert caught.value.kind is Kind.UNAVAILABLE
            with pytest.raises(FairleadError, match="was there and is gone"):
                reader.commit(Catalog(), "another one")
        store.delete("audit/00000001.json")
        assert StoredCatalogs(store, FakeClock()).read() == Catalog()

    def test_a_first_commit_while_somebody_reads_is_no_lost_catalog(
        self, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The reader asks for the head before, and for the audit after."""
        size, late = store.size, StoredCatalogs(store, FakeClock())
        first: list[Catalog] = []

        def meanwhile(key: str) -> int | None:
            if not first:
                first.append(Catalog())
                first[0] = StoredCatalogs(store, FakeClock()).commit(Catalog(), "first")
            return size(key)

        monkeypatch.setattr(store, "size", meanwhile)
        assert late.read() == first[0]
        assert late.commit(late.read(), "second").generation == 2

    @pytest.mark.parametrize("head", [b"", b'{"sch', b"[]", b"null", b'{"schema": 1}', b'"text"'])
    def test_a_damaged_head_is_an_error_in_words(self, store: ObjectStore, head: bytes) -> None:
        StoredCatalogs(store, FakeClock()).commit(Catalog(), "first")
        store.put("catalog/head", head)
        with pytest.raises(FairleadError, match="catalog/head"):
            StoredCatalogs(store, FakeClock()).read()

    @pytest.mark.timeout(60)
    @pytest.mark.slow
    def test_twenty_writers_at_once_lose_nothing(self, tmp_path: Path) -> None:
        context = multiprocessing.get_context("spawn")
        barrier = context.Barrier(WRITERS)
        root = tmp_path / "store"
        root.mkdir()
        writers = [
            context.Process(target=_add_key, args=(root, f"writer-{number}", barrier.wait))
            for number in range(WRITERS)
        ]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join(50)
            assert writer.exitcode == 0
        catalog = StoredCatalogs(DirectoryObjectStore(root), SystemClock()).read()
        assert set(catalog.keys) == {
            f"writer-{number}-{turn}" for number in range(WRITERS) for turn in range(3)
        }
        assert catalog.generation == WRITERS * 3
        assert len(list(DirectoryObjectStore(root).list("audit/"))) == WRITERS * 3
        # Losers clean up: exactly the generations that were ever the head are there.
        assert len(list(DirectoryObjectStore(root).list("catalog/"))) == WRITERS * 3 + 1


def folder_of(path: Path, weights: bytes = b"weights") -> Path:
    path.mkdir(parents=True)
    (path / "model.onnx").write_bytes(weights)
    (path / "golden.json").write_text('{"examples": [{"request": {}, "response": {}}]}')
    return path


DESCRIPTION = {"name": "digits", "version": 1, "engine": "onnx"}


class TestArtifacts:
    def test_an_artifact_is_published_once(self, store: ObjectStore, tmp_path: Path) -> None:
        artifacts = StoredArtifacts(store)
        folder = folder_of(tmp_path / "one")
        manifest = read_folder(folder, DESCRIPTION)
        assert artifacts.publish(manifest, folder) == "new"
        assert artifacts.publish(manifest, folder) == "unchanged"
        assert artifacts.manifest(manifest.ref) == manifest
        assert artifacts.refs() == [ArtifactRef("digits", 1)]
        (weights,) = [file for file in manifest.files if file.path == "model.onnx"]
        assert artifacts.read(weights.sha256, 0, 100) == b"weights"

    def test_other_bytes_under_a_version_are_refused_and_the_first_stay(
        self, store: ObjectStore, tmp_path: Path
    ) -> None:
        artifacts = StoredArtifacts(store)
        first, second = folder_of(tmp_path / "one"), folder_of(tmp_path / "two", b"other")
        artifacts.publish(read_folder(first, DESCRIPTION), first)
        with pytest.raises(FairleadError, match=r"published already with other content.*version 2"):
            artifacts.publish(read_folder(second, DESCRIPTION), second)
        assert artifacts.manifest(ArtifactRef("digits", 1)) == read_folder(first, DESCRIPTION)

    def test_until_the_manifest_is_there_nothing_is_published(
        self, store: ObjectStore, tmp_path: Path
    ) -> None:
        folder = folder_of(tmp_path / "one")
        manifest = read_folder(folder, DESCRIPTION)
        broken = replace(
            manifest,
            files=(*manifest.files, replace(manifest.files[0], path="gone", sha256="0" * 64)),
        )
        with pytest.raises(FileNotFoundError):
            StoredArtifacts(store).publish(broken, folder)
        assert StoredArtifacts(store).refs() == []
        assert StoredArtifacts(store).publish(manifest, folder) == "new"

    @pytest.mark.parametrize("damage", [b"weightS", b"weight", b""])
    def test_publishing_again_repairs_a_damaged_store(
        self, store: ObjectStore, tmp_path: Path, damage: bytes
    ) -> None:
        artifacts = StoredArtifacts(store)
        folder = folder_of(tmp_path / "one")
        manifest = read_folder(folder, DESCRIPTION)
        artifacts.publish(manifest, folder)
        (weights,) = [file for file in manifest.files if file.path == "model.onnx"]
        store.put(f"blobs/sha256/{weights.sha256}", damage)
        assert artifacts.publish(manifest, folder) == "repaired"
        assert artifacts.read(weights.sha256, 0, 100) == b"weights"

    def test_a_missing_artifact_is_told_with_the_versions_there_are(
        self, store: ObjectStore, tmp_path: Path
    ) -> None:
        folder = folder_of(tmp_path / "one")
        StoredArtifacts(store).publish(read_folder(folder, DESCRIPTION), folder)
        with pytest.raises(FairleadError, match=r"no artifact digits/2 \(versions of digits: 1\)"):
            StoredArtifacts(store).manifest(ArtifactRef("digits", 2))
