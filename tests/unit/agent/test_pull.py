"""An artifact is here as a whole, or not at all."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from fairlead.agent import pull as pulling
from fairlead.domain.errors import FairleadError, Kind
from fairlead.domain.ids import ArtifactRef
from fairlead.domain.layout import Home
from fairlead.domain.manifest import Manifest, ManifestFile, manifest_from_bytes, manifest_to_bytes
from fairlead.domain.signature import DocumentSignature
from support.effort import effort

FILES = {
    "model.py": b"model " * 500,
    "golden.json": b'{"examples": [{"request": 1, "response": 2}]}',
    "data/words.txt": b"w" * 1_000,
    "data/deep/empty": b"",
}
REF = ArtifactRef("digits", 1)


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def manifest_of(files: dict[str, bytes]) -> Manifest:
    return Manifest(
        REF,
        "python",
        "model.py",
        tuple(ManifestFile(path, len(data), sha(data)) for path, data in files.items()),
        DocumentSignature(),
        "golden.json",
    )


class Shelf:
    """The Artifacts port over a dictionary, in pieces of at most `piece` bytes; `reads` says what was asked."""

    def __init__(self, files: dict[str, bytes], piece: int = 1 << 30) -> None:
        self.blobs = {sha(data): data for data in files.values()}
        self.served = manifest_of(files)
        self.piece = piece
        self.reads: list[tuple[str, int]] = []
        self.fail_after: int | None = None

    def manifest(self, ref: ArtifactRef) -> Manifest:
        assert ref == REF
        return self.served

    def refs(self) -> list[ArtifactRef]:
        return [REF]

    def read(self, sha256: str, start: int, length: int) -> bytes:
        if self.fail_after is not None and len(self.reads) >= self.fail_after:
            raise FairleadError("the store does not answer", kind=Kind.UNAVAILABLE)
        self.reads.append((sha256, start))
        if sha256 not in self.blobs:
            raise FairleadError(f"the store has no {sha256}", kind=Kind.NOT_FOUND)
        return self.blobs[sha256][start : start + min(length, self.piece)]


@pytest.fixture
def home() -> Iterator[Home[Path]]:
    with tempfile.TemporaryDirectory(prefix="fl-") as directory:
        yield Home(Path(directory) / "home", Path(directory) / "s")


async def pull(shelf: Shelf, home: Home[Path], digest: str | None = None) -> list[tuple[int, int]]:
    progress: list[tuple[int, int]] = []
    await pulling.pull(
        REF,
        digest or shelf.served.digest,
        shelf,
        home,
        lambda here, total: progress.append((here, total)),
    )
    return progress


def contents(home: Home[Path], digest: str) -> dict[str, bytes]:
    directory = home.artifact(digest)
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def assert_not_here(home: Home[Path]) -> None:
    assert pulling.present(home) == []
    assert not home.artifacts.exists() or list(home.artifacts.iterdir()) == []


class TestPulling:
    async def test_everything_is_there_and_the_manifest_beside_it(self, home: Home[Path]) -> None:
        shelf = Shelf(FILES)
        progress = await pull(shelf, home)
        digest = shelf.served.digest
        assert contents(home, digest) == {**FILES, "manifest.json": manifest_to_bytes(shelf.served)}
        assert pulling.present(home) == [digest]
        assert pulling.verify(home, digest) is None
        assert list(home.downloads.iterdir()) == []
        assert progress[0] == (0, shelf.served.size)
        assert progress[-1] == (shelf.served.size, shelf.served.size)

    async def test_an_interrupted_pull_goes_on_where_it_was(self, home: Home[Path]) -> None:
        shelf = Shelf(FILES, piece=256)
        shelf.fail_after = 6
        with pytest.raises(
            FairleadError, match=r"artifact digits/1: model\.py: the store does not answer"
        ):
            await pull(shelf, home)
        assert_not_here(home)
        shelf.fail_after = None
        shelf.reads.clear()
        await pull(shelf, home)
        assert shelf.reads[0] == (sha(FILES["model.py"]), 6 * 256)
        assert pulling.verify(home, shelf.served.digest) is None

    async def test_what_is_left_of_an_older_try_may_be_anything(self, home: Home[Path]) -> None:
        shelf = Shelf(FILES)
        directory = home.downloads / home.artifact(shelf.served.digest).name
        (directory / "model.py").mkdir(parents=True)
        (directory / "data").mkdir()
        (directory / "data" / "words.txt").write_bytes(b"w" * 2_000)
        (directory / "golden.json").write_bytes(b"damaged")
        (directory / "stranger").mkdir()
        (directory / "stranger" / "file").write_bytes(b"x")
        (directory / "link").symlink_to("/")
        await pull(shelf, home)
        assert contents(home, shelf.served.digest).keys() == {*FILES, "manifest.json"}
        assert pulling.verify(home, shelf.served.digest) is None

    async def test_a_link_in_the_download_is_not_followed(
        self, home: Home[Path], tmp_path: Path
    ) -> None:
        shelf = Shelf(FILES)
        outside = tmp_path / "outside"
        outside.write_bytes(b"mine")
        directory = home.downloads / home.artifact(shelf.served.digest).name
        directory.mkdir(parents=True)
        (directory / "model.py").symlink_to(outside)
        await pull(shelf, home)
        assert outside.read_bytes() == b"mine"

    async def test_half_an_artifact_in_its_place_is_replaced(self, home: Home[Path]) -> None:
        shelf = Shelf(FILES)
        place = home.artifact(shelf.served.digest)
        place.mkdir(parents=True)
        (place / "model.py").write_bytes(b"half")
        assert_not_here(home)
        await pull(shelf, home)
        assert pulling.present(home) == [shelf.served.digest]


class TestDamage:
    @pytest.mark.parametrize("path", [path for path, data in FILES.items() if data])
    @pytest.mark.parametrize("where", ["start", "middle", "end"])
    async def test_a_flipped_bit_is_named_and_nothing_stays(
        self, home: Home[Path], path: str, where: str
    ) -> None:
        shelf = Shelf(FILES, piece=700)
        good = FILES[path]
        at = {"start": 0, "middle": len(good) // 2, "end": len(good) - 1}[where]
        bad = good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
        shelf.blobs[sha(good)] = bad
        with pytest.raises(FairleadError) as caught:
            await pull(shelf, home)
        assert str(caught.value) == (
            f"artifact digits/1: {path}: expected sha256 {sha(good)}, found {sha(bad)}; "
            "it is not served: publish it again, or repair the store"
        )
        assert_not_here(home)
        assert not (home.downloads / home.artifact(shelf.served.digest).name / path).exists()
        shelf.blobs[sha(good)] = good
        await pull(shelf, home)
        assert pulling.verify(home, shelf.served.digest) is None

    @given(keep=st.integers(0, len(FILES["model.py"]) - 1), piece=st.integers(100, 4_000))
    @effort(20)
    async def test_a_truncated_file_is_named_wherever_it_ends(self, keep: int, piece: int) -> None:
        shelf = Shelf(FILES, piece)
        shelf.blobs[sha(FILES["model.py"])] = FILES["model.py"][:keep]
        with tempfile.TemporaryDirectory(prefix="fl-") as directory:
            place = Home(Path(directory) / "home", Path(directory) / "s")
            with pytest.raises(
                FairleadError, match=f"model.py: expected 3000 bytes, found {keep}, then the end"
            ):
                await pull(shelf, place)
            assert_not_here(place)

    async def test_a_missing_file_is_named(self, home: Home[Path]) -> None:
        shelf = Shelf(FILES)
        del shelf.blobs[sha(FILES["data/words.txt"])]
        with pytest.raises(
            FairleadError, match=r"artifact digits/1: data/words\.txt: the store has no"
        ):
            await pull(shelf, home)
        assert_not_here(home)

    async def test_another_artifact_under_the_same_name_is_refused(self, home: Home[Path]) -> None:
        shelf = Shelf(FILES)
        asked = "sha256:" + "0" * 64
        with pytest.raises(FairleadError) as caught:
            await pull(shelf, home, asked)
        assert f"expected digest {asked}, found {shelf.served.digest}" in str(caught.value)
        assert_not_here(home)

    @pytest.mark.parametrize(
        "path", ["../model.py", "/etc/passwd", "data/../../x", "manifest.json"]
    )
    async def test_a_path_that_leads_elsewhere_is_refused(
        self, home: Home[Path], path: str
    ) -> None:
        shelf = Shelf(FILES)
        shelf.served = replace(
            shelf.served, files=(*shelf.served.files, ManifestFile(path, 1, sha(b"x")))
        )
        with pytest.raises(FairleadError, match="the manifest names the file") as caught:
            await pull(shelf, home)
        assert repr(path) in str(caught.value)
        assert shelf.reads == []
        assert_not_here(home)

    def test_a_manifest_with_such_a_path_is_not_even_read(self) -> None:
        document = json.loads(manifest_to_bytes(manifest_of(FILES)))
        document["files"][0]["path"] = "../model.py"
        with pytest.raises(FairleadError, match=r"'\.' or '\.\.' part"):
            manifest_from_bytes(json.dumps(document).encode())

    async def test_damage_after_the_pull_is_found_when_it_is_looked_for(
        self, home: Home[Path]
    ) -> None:
        shelf = Shelf(FILES)
        await pull(shelf, home)
        digest = shelf.served.digest
        file = home.artifact(digest) / "data" / "words.txt"
        file.write_bytes(b"v" + FILES["data/words.txt"][1:])
        assert f"{file}: expected sha256" in str(pulling.verify(home, digest))
        file.write_bytes(b"short")
        assert pulling.verify(home, digest) is not None
        assert_not_here(home)


class TestRemoving:
    async def test_a_removed_artifact_leaves_nothing(self, home: Home[Path]) -> None:
        shelf = Shelf(FILES)
        await pull(shelf, home)
        trash = pulling.discard(home, shelf.served.digest)
        assert trash is not None
        assert_not_here(home)
        pulling.delete(trash)
        pulling.delete(trash)
        assert pulling.discard(home, shelf.served.digest) is None
        assert list(home.downloads.iterdir()) == []

    def test_downloads_nobody_waits_for_are_removed(self, home: Home[Path]) -> None:
        kept, orphan = "sha256:" + "a" * 64, "sha256:" + "b" * 64
        for digest in (kept, orphan):
            (home.downloads / home.artifact(digest).name).mkdir(parents=True)
        (home.downloads / "trash-1").mkdir()
        (home.downloads / "file").touch()
        pulling.clear_downloads(home, {kept})
        assert [path.name for path in home.downloads.iterdir()] == [home.artifact(kept).name]


# Runs a pull in a forked child that kills itself at its n-th event of the file system, for every n.
KILLER = """
import asyncio, os, sys
from pathlib import Path
sys.path[:0] = {tests!r}
import test_pull as here
from fairlead.domain.layout import Home

EVENTS = ("open", "os.", "shutil.", "tempfile.", "pathlib.")
armed = None

def audit(event, args):
    global armed
    if armed is not None and event.startswith(EVENTS):
        armed -= 1
        if armed < 0:
            armed = None
            os.kill(os.getpid(), 9)

sys.addaudithook(audit)
asyncio.run(here.pull(here.Shelf(here.FILES, 700), Home(Path({root!r}) / "warm", Path({root!r}) / "s")))
for number in range(10_000):
    home = Home(Path({root!r}) / str(number), Path({root!r}) / "s")
    child = os.fork()
    if child == 0:
        armed = number
        asyncio.run(here.pull(here.Shelf(here.FILES, 700), home))
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if os.waitstatus_to_exitcode(status) == 0:
        print(number)
        break
"""


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory in memory where there is one: flushing hundreds of files to a disk takes long."""
    place = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=place if place.is_dir() else None) as directory:
        yield Path(directory)


@pytest.mark.timeout(60)
async def test_killed_at_any_moment_nothing_half_is_there_and_the_next_pull_completes(
    memory: Path,
) -> None:
    script = KILLER.format(
        tests=[str(Path(__file__).parent), str(Path(__file__).parents[2])], root=str(memory)
    )
    done = subprocess.run(  # noqa: ASYNC221 - nothing else runs in this loop; our own script
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stderr
    events = int(done.stdout)
    assert events > 30, "the pull was really interrupted"
    shelf = Shelf(FILES, 700)
    whole = 0
    for number in range(events):
        home = Home(memory / str(number), memory / "s")
        for digest in pulling.present(home):
            assert pulling.verify(home, digest) is None
            whole += 1
        await pull(shelf, home)
        assert pulling.verify(home, shelf.served.digest) is None
        assert contents(home, shelf.served.digest).keys() == {*FILES, "manifest.json"}
    assert 0 < whole < events // 2, "most moments are before the rename, some after it"


async def test_too_little_room_is_said_before_anything_is_fetched(home: Home[Path]) -> None:
    shelf = Shelf(FILES)
    huge = ManifestFile("huge", 10**18, sha(b"x"))
    shelf.served = replace(shelf.served, files=(*shelf.served.files, huge))
    with pytest.raises(
        FairleadError,
        match=r"artifact digits/1 needs 9\d+\.\d MiB more, 16\.0 MiB have to stay free, and .* has",
    ):
        await pull(shelf, home)
    assert shelf.reads == []
