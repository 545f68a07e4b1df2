"""From files to a proved model: what is never loaded, and what is known of what is."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from fairlead.domain.errors import FairleadError, Kind
from fairlead.domain.manifest import manifest_to_bytes
from fairlead.domain.signature import DataType, TensorSignature, TensorSpec
from fairlead.kits.clock import SystemClock
from fairlead.server.loading import Damaged, load_artifact
from support.models import (
    Artifact,
    echo_artifact,
    example,
    make_artifact,
    scaled,
    scaled_artifact,
)

SLOW = """
import time
class Model:
    def predict(self, request: int) -> int:
        time.sleep(0.002)
        return request + 1
"""
ASYNC = """
import asyncio
class Model:
    async def predict(self, request: int) -> int:
        await asyncio.sleep(0)
        return request + 1
"""
LATE = """
import threading
class Model:
    def load(self, directory):
        self.thread = threading.get_ident()
    def predict(self, request: int) -> int:
        if threading.get_ident() != self.thread:
            raise RuntimeError("wrong thread")
        return request + 1
"""
ONE_MORE = [example(1, 2)]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def extend(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


@pytest.mark.parametrize("name", ["model.onnx", "golden.json", "manifest.json"])
@pytest.mark.parametrize("harm", [flip, truncate, extend, Path.unlink])
async def test_a_damaged_file_is_never_loaded(
    tmp_path: Path, name: str, harm: Callable[[Path], None]
) -> None:
    made = scaled_artifact(tmp_path)
    harm(tmp_path / name)
    if name == "manifest.json" and harm is extend:
        return  # white space is not part of what the manifest says
    with pytest.raises(Damaged, match=name.replace(".", r"\.")):
        await load_artifact(made.directory, made.digest, 1, SystemClock())


async def test_a_file_nobody_named_is_damage_too(tmp_path: Path) -> None:
    made = echo_artifact(tmp_path)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "model.cpython-311.pyc").write_bytes(b"evil")
    with pytest.raises(Damaged, match="not in the manifest"):
        await load_artifact(made.directory, made.digest, 1, SystemClock())


async def test_another_artifacts_digest_is_refused(tmp_path: Path) -> None:
    one, two = scaled_artifact(tmp_path / "1", 2.0), scaled_artifact(tmp_path / "2", 3.0)
    with pytest.raises(Damaged, match="has the digest"):
        await load_artifact(one.directory, two.digest, 1, SystemClock())


def remade(made: Artifact, **changes: object) -> Artifact:
    manifest = dataclasses.replace(made.manifest, **changes)  # type: ignore[arg-type] # whatever a test wants
    (made.directory / "manifest.json").write_bytes(manifest_to_bytes(manifest))
    return Artifact(made.directory, manifest)


async def test_a_model_that_fails_its_golden_examples_is_not_served(tmp_path: Path) -> None:
    made = make_artifact(
        tmp_path, {"model.onnx": scaled(2.0)}, [example({"x": [[1, 2, 3]]}, {"y": [[1, 2, 3]]})]
    )
    with pytest.raises(FairleadError, match=r"golden example 1: y\[0\]\[0\]") as caught:
        await load_artifact(made.directory, made.digest, 1, SystemClock())
    assert caught.value.kind is Kind.MODEL


async def test_tensors_other_than_the_manifests_are_not_served(tmp_path: Path) -> None:
    made = scaled_artifact(tmp_path)
    spec = TensorSpec("x", DataType.FP32, (-1, 4))
    made = remade(made, signature=TensorSignature((spec,), ()))
    with pytest.raises(FairleadError, match="tensors are not the ones in its manifest"):
        await load_artifact(made.directory, made.digest, 1, SystemClock())


async def test_a_quick_model_runs_on_the_event_loop_and_a_slow_one_in_a_thread(
    tmp_path: Path,
) -> None:
    quick = scaled_artifact(tmp_path / "quick")
    loaded = await load_artifact(quick.directory, quick.digest, 1, SystemClock())
    assert 0 < loaded.profile.run_microseconds < 10_000
    assert loaded.profile.inline == (loaded.profile.run_microseconds < 50)
    loaded.close()
    slow = make_artifact(tmp_path / "slow", {"model.py": SLOW}, ONE_MORE)
    loaded = await load_artifact(slow.directory, slow.digest, 1, SystemClock())
    assert loaded.profile.run_microseconds >= 2000
    assert not loaded.profile.inline
    loaded.close()


async def test_a_models_own_code_never_runs_on_the_event_loop_however_quick_its_examples_are(
    tmp_path: Path,
) -> None:
    code = "class Model:\n    def predict(self, request: int) -> int:\n        return request + 1\n"
    made = make_artifact(tmp_path, {"model.py": code}, ONE_MORE)
    loaded = await load_artifact(made.directory, made.digest, 1, SystemClock())
    assert 0 < loaded.profile.run_microseconds < 10_000
    assert not loaded.profile.inline
    assert not loaded.on_loop
    loaded.close()


async def test_an_async_model_is_proved_on_the_event_loop(tmp_path: Path) -> None:
    made = make_artifact(tmp_path, {"model.py": ASYNC}, ONE_MORE)
    loaded = await load_artifact(made.directory, made.digest, 1, SystemClock())
    assert not loaded.profile.inline
    assert loaded.model.concurrent
    assert loaded.on_loop
    loaded.close()


async def test_a_model_that_wants_its_own_thread_stays_in_it(tmp_path: Path) -> None:
    made = make_artifact(tmp_path, {"model.py": LATE}, ONE_MORE)
    loaded = await load_artifact(made.directory, made.digest, 1, SystemClock())
    assert not loaded.profile.inline
    answer = await asyncio.wrap_future(
        loaded.threads.submit(lambda: loaded.model.infer(loaded.sample))
    )
    assert not isinstance(answer, asyncio.Future)
    loaded.close()
