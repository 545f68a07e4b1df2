"""A model that is compiled for some sizes is run with those only: proved, published, measured and asked alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from fairlead.adapters.memory.store import MemoryObjectStore
from fairlead.adapters.store.artifacts import StoredArtifacts
from fairlead.api.inference import InferRequest, InferResponse
from fairlead.control.publish import publish
from fairlead.domain.batching import Batching
from fairlead.domain.errors import FairleadError, InvalidInput, Kind
from fairlead.domain.golden import Example, Golden
from fairlead.engines.onnx import OnnxModel
from fairlead.engines.sharing import filled, infer_of, misfits, sharing_of
from fairlead.engines.together import mixes
from fairlead.kits.clock import SystemClock
from fairlead.server.loading import load_artifact
from fairlead.server.measuring import Measuring
from fairlead.server.threads import Threads
from support.models import FLOAT, Artifact, make_artifact, onnx_bytes, rebatched, scaled

SIZED = Batching(allowed_batch_sizes=(4, 8))
ROW = [1.0, 2.0]


def in_fours(mean: bool = False) -> bytes:
    """`x` [n, 2] to itself, if the rows are fours; to itself less the mean of each four, if `mean`."""
    shapes = [
        helper.make_node("Constant", [], [name], value_ints=shape)
        for name, shape in (("apart", [-1, 4, 2]), ("back", [-1, 2]))
    ]
    nodes = [*shapes, helper.make_node("Reshape", ["x", "apart"], ["fours"])]
    four = "fours"
    if mean:
        nodes.append(helper.make_node("ReduceMean", ["fours"], ["m"], axes=[1]))
        nodes.append(helper.make_node("Sub", ["fours", "m"], ["less"]))
        four = "less"
    nodes.append(helper.make_node("Reshape", [four, "back"], ["y"]))
    return onnx_bytes([("x", FLOAT, ["n", 2])], [("y", FLOAT, ["n", 2])], nodes)


def model_of(directory: Path, data: bytes) -> OnnxModel:
    (directory / "model.onnx").write_bytes(data)
    return OnnxModel(directory / "model.onnx")


def golden(*rows: int) -> Golden:
    return Golden(tuple(Example({"x": [ROW] * n}, {"y": [ROW] * n}) for n in rows), {})


def artifact(directory: Path) -> Artifact:
    examples = [{"request": {"x": [ROW]}, "response": {"y": [ROW]}}]
    return rebatched(make_artifact(directory, {"model.onnx": in_fours()}, examples), SIZED)


def test_one_request_is_filled_up_too_and_more_than_the_largest_size_is_refused(
    tmp_path: Path,
) -> None:
    model = model_of(tmp_path, in_fours())
    infer = infer_of(model, SIZED)

    def ask(rows: int) -> InferRequest:
        return InferRequest({"x": np.array([ROW] * rows, np.float32)})

    for rows in (1, 4, 5):
        answer = infer(ask(rows))
        assert isinstance(answer, InferResponse)
        assert answer.tensors["y"].tolist() == [ROW] * rows
    assert len(filled(model, SIZED, ask(5)).tensors["x"]) == 8
    with pytest.raises(FairleadError, match="it has 9 rows") as caught:
        infer(ask(9))
    assert caught.value.kind is Kind.INVALID
    assert infer_of(model, Batching()) == model.infer
    assert filled(model, Batching(), asked := ask(1)) is asked


@pytest.mark.parametrize("rows", [(1,), (4,), (4, 8), (3, 1)])
def test_the_proof_runs_allowed_sizes_only(tmp_path: Path, rows: Sequence[int]) -> None:
    model = model_of(tmp_path, in_fours())
    assert mixes(model, golden(*rows), sharing_of(model, SIZED), SIZED.most) is None


@pytest.mark.parametrize("sizes", [(4,), (4, 8)])
@pytest.mark.parametrize("mean", [False, True])
def test_rows_of_a_request_that_fills_a_run_are_proved_one_by_one_too(
    tmp_path: Path, sizes: tuple[int, ...], mean: bool
) -> None:
    model = model_of(tmp_path, in_fours(mean))
    four = [[1.0, 2.0], [3.0, 5.0], [5.0, 8.0], [7.0, 11.0]]
    answer = np.array(four) - np.mean(four, axis=0) * mean
    said = Batching(allowed_batch_sizes=sizes)
    proof = Golden((Example({"x": four}, {"y": answer.tolist()}),), {})
    mixed = mixes(model, proof, sharing_of(model, said), said.most)
    # Fours that are full do not notice each other, whatever happens within them: those who share one do.
    assert (mixed is not None) == mean


def test_where_no_two_requests_fit_nothing_is_shared(tmp_path: Path) -> None:
    model = model_of(tmp_path, scaled(1.0, 2))
    said = Batching(allowed_batch_sizes=(1,))
    mixed = mixes(model, golden(1), sharing_of(model, said), 1)
    assert mixed is not None
    assert "no two requests made of golden examples fit into 1 rows" in mixed


async def test_a_model_of_some_sizes_is_published_loaded_and_measured(tmp_path: Path) -> None:
    made = artifact(tmp_path / "a")
    loaded = await load_artifact(made.directory, made.digest, 0, SystemClock())
    assert loaded.profile.run_microseconds > 0
    pool = Threads("test", 1)
    measuring = Measuring(golden(1), SIZED, lambda _: loaded.model, SystemClock())
    served, measured = await measuring.of(loaded.model, pool, 1)
    pool.close()
    assert served is loaded.model
    assert list(measured.sizes) == [1, 2, 4, 8]
    loaded.close()
    (made.directory / "manifest.json").unlink()
    said: dict[str, Any] = {"enabled": True, "allowedBatchSizes": [4, 8]}
    description = {"name": "fours", "version": 1, "engine": "onnx", "batching": said}
    artifacts = StoredArtifacts(MemoryObjectStore())
    published = await publish(made.directory, description, artifacts, lambda _: None)
    assert published.outcome == "new"
    nine = {"examples": [{"request": {"x": [ROW] * 9}, "response": {"y": [ROW] * 9}}]}
    (made.directory / "golden.json").write_text(json.dumps(nine))
    with pytest.raises(FairleadError, match="golden example 1: it has 9 rows"):
        await publish(made.directory, description, artifacts, lambda _: None)


async def test_sizes_of_a_model_that_has_no_rows_are_refused(tmp_path: Path) -> None:
    fixed = model_of(
        tmp_path,
        onnx_bytes(
            [("x", FLOAT, [4, 2])],
            [("y", FLOAT, [4, 2])],
            [helper.make_node("Identity", ["x"], ["y"])],
        ),
    )
    assert "the first dimension of input 'x' is always 4" in str(misfits(SIZED, fixed)[0])
    (tmp_path / "m").mkdir()
    code = "class Model:\n    def predict(self, x: int) -> int: return x\n"
    (tmp_path / "m" / "model.py").write_text(code)
    (tmp_path / "m" / "golden.json").write_text('{"examples": [{"request": 1, "response": 1}]}')
    said = {"allowedBatchSizes": [4]}
    description = {"name": "m", "version": 1, "engine": "python", "batching": said}
    artifacts = StoredArtifacts(MemoryObjectStore())
    with pytest.raises(InvalidInput, match=r"allowedBatchSizes: counts rows of tensors; .*leave"):
        await publish(tmp_path / "m", description, artifacts, lambda _: None)
