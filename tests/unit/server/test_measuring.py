"""Whether a model is batched: proved by its golden examples, measured, kept, and said."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from onnx import helper

from fairlead.api.inference import InferRequest, InferResponse, Model
from fairlead.api.worker import ServedEndpoint
from fairlead.domain.batching import Batching
from fairlead.domain.errors import FairleadError, Kind
from fairlead.domain.golden import Example, Golden
from fairlead.domain.measured import (
    Conditions,
    Measured,
    measured_from_bytes,
    measured_to_bytes,
)
from fairlead.domain.signature import (
    DataType,
    DocumentSignature,
    Signature,
    TensorSignature,
    TensorSpec,
)
from fairlead.engines.onnx import OnnxModel
from fairlead.kits.clock import FakeClock, SystemClock
from fairlead.server.endpoint import Endpoint
from fairlead.server.endpoints import endpoints_of
from fairlead.server.loading import load_artifact
from fairlead.server.measuring import Measuring, Shrinks, cores
from fairlead.server.threads import Threads
from support.models import (
    FLOAT,
    Artifact,
    example,
    heavy_artifact,
    make_artifact,
    onnx_bytes,
    rebatched,
    scaled_artifact,
)

HERE = Conditions(2, 0, "onnx 1")
GAINED = Measured("", 100.0, {1: 90.0, 2: 180.0, 4: 395.0, 8: 400.0}, 2)


def mixing(directory: Path) -> Artifact:
    """Each row less the mean of all rows: alone, always nothing."""
    mean = helper.make_node("ReduceMean", ["x"], ["m"], axes=[0])
    model = onnx_bytes(
        [("x", FLOAT, ["n", 2])],
        [("y", FLOAT, ["n", 2])],
        [mean, helper.make_node("Sub", ["x", "m"], ["y"])],
    )
    return make_artifact(
        directory, {"model.onnx": model}, [example({"x": [[1.0, 2.0]]}, {"y": [[0.0, 0.0]]})]
    )


async def endpoint_of(made: Artifact, record: Path | None = None, **said: Any) -> Endpoint:
    loaded = await load_artifact(made.directory, made.digest, 0, SystemClock(), measured=record)
    spec = made.spec(endpoints=(ServedEndpoint(batching=said),))
    try:
        (endpoint,) = await endpoints_of(spec, loaded, SystemClock())
    except BaseException:
        loaded.close()
        raise
    return endpoint


@pytest.mark.timeout(60)  # it loads and measures a real model twice
async def test_what_was_measured_is_kept_and_decides(tmp_path: Path) -> None:
    record = tmp_path / "kept" / "measured.json"
    made = heavy_artifact(tmp_path / "a")
    one = await endpoint_of(made, record)
    found = measured_from_bytes(record.read_bytes())
    assert found == one.artifact.measured
    assert found is not None
    assert found.helps == (one.batcher is not None)  # what it gains here is the machine's affair
    assert str(found) in one.batching
    one.artifact.close()
    # What is kept is believed: it is not measured again.
    document = json.loads(record.read_text())
    document["sizes"] = {"1": 1.0, "16": 1000.0}
    document.update(alone=10.0, parallel=1, speedup=1.0)
    record.write_text(json.dumps(document))
    again = await endpoint_of(made, record)
    assert again.batcher is not None
    assert again.batcher.most == 16
    assert (
        "100.0 times the rows (a core does 1000 rows/s in batches of 16, 10 alone)"
        in again.batching
    )
    again.artifact.close()


async def test_a_model_that_gains_nothing_is_not_batched_unless_somebody_insists(
    tmp_path: Path,
) -> None:
    made = scaled_artifact(tmp_path / "a")
    loaded = await load_artifact(made.directory, made.digest, 0, SystemClock())
    loaded.measured = Measured("", 10.0, {1: 1.0, 16: 11.0})

    async def endpoint(**said: Any) -> Endpoint:
        spec = made.spec(endpoints=(ServedEndpoint(batching=said),))
        (found,) = await endpoints_of(spec, loaded, SystemClock())
        return found

    one = await endpoint()
    assert one.batcher is None
    assert one.batching.startswith("one by one: 1.1 times the rows")
    assert "it would have to be 1.2 times" in one.batching
    insisted = await endpoint(enabled=True, maxBatchSize=4)
    assert insisted.batcher is not None
    assert insisted.batcher.most == 4
    assert insisted.batching.startswith("batches of up to 4 rows, as it was said (1.1 times")
    preferring = await endpoint(enabled=True, preferredBatchSizes=[8, 48])
    assert preferring.batcher is not None
    assert preferring.batcher.most == 48, "a size somebody prefers is no less for what was measured"
    never = await endpoint(enabled=False)
    assert (never.batcher, never.batching) == (None, "one by one, as it was said")
    loaded.close()


async def test_a_model_whose_rows_notice_each_other_is_never_batched(tmp_path: Path) -> None:
    made = mixing(tmp_path / "a")
    with pytest.raises(FairleadError, match=r"batching\.enabled is true, but") as caught:
        await endpoint_of(made, enabled=True)
    assert caught.value.kind is Kind.MODEL
    assert "is answered otherwise in a batch of 2" in caught.value.message


async def test_a_quick_model_is_not_measured_and_shares_runs_within_a_turn(tmp_path: Path) -> None:
    record = tmp_path / "measured.json"
    one = await endpoint_of(scaled_artifact(tmp_path / "a"), record)
    assert one.batcher is None
    assert one.batching.startswith("what arrives in the same moment shares a run")
    assert one.most_together == 64
    assert not record.exists()
    assert one.may_be_quick(10)
    one.artifact.close()
    mixed = await endpoint_of(mixing(tmp_path / "m"))
    assert mixed.may_be_quick(10)
    assert mixed.together(mixed.artifact.sample) is None
    mixed.artifact.close()
    never = await endpoint_of(scaled_artifact(tmp_path / "n"), enabled=False)
    assert (never.batching, never.together(never.artifact.sample)) == (
        "one by one, as it was said",
        None,
    )
    never.artifact.close()
    insisted = await endpoint_of(scaled_artifact(tmp_path / "b"), enabled=True)
    assert insisted.batcher is not None
    assert not insisted.may_be_quick(10)
    insisted.artifact.close()


async def test_settings_that_cannot_be_are_refused_with_their_endpoint(tmp_path: Path) -> None:
    made = rebatched(scaled_artifact(tmp_path / "a"), Batching(max_batch_size=8))
    with pytest.raises(FairleadError, match=r"endpoints\.predict: batching\.preferredBatchSizes"):
        await endpoint_of(made, preferredBatchSizes=[16])
    with pytest.raises(FairleadError, match="z: is no input of the model; inputs: x"):
        await endpoint_of(made, padVariableLengthInputs={"z": 0})
    with pytest.raises(FairleadError, match=r"endpoints\.predict\.batching\.maxBatch: unknown key"):
        await endpoint_of(made, maxBatch=3)


@pytest.mark.parametrize(("seconds", "sizes"), [(0.5, [1, 2, 4]), (3.0, [1]), (0.001, 7)])
async def test_a_slow_model_is_measured_with_few_sizes_and_a_very_slow_one_with_none(
    seconds: float, sizes: Any
) -> None:
    clock = FakeClock()
    golden = Golden((Example({"x": [[1.0]]}, {"y": [[0.0]]}),), {})
    model = Timed(clock, seconds, 0.0)
    pool = Threads("test", 1)
    began = clock.monotonic()
    _, measured = await Measuring(golden, Batching(), lambda _: model, clock).of(model, pool, 1)
    pool.close()
    found = list(measured.sizes)
    assert found == sizes if isinstance(sizes, list) else len(found) == sizes
    assert clock.monotonic() - began < 10 * max(seconds, 0.1)


async def test_all_cores_must_really_make_a_batch_faster(tmp_path: Path) -> None:
    """Batches that gain half of what four cores would gain one by one."""
    gained = Measured("", 100.0, {1: 100.0, 8: 200.0}, 4, 4, 1.0)
    assert not gained.helps
    assert dataclasses.replace(gained, speedup=3.9).helps
    assert dataclasses.replace(gained, parallel=1).helps


async def test_few_slots_are_mentioned_because_they_keep_batches_small(tmp_path: Path) -> None:
    made = scaled_artifact(tmp_path / "a")
    loaded = await load_artifact(made.directory, made.digest, 0, SystemClock())
    endpoints = (ServedEndpoint(concurrency=2, batching={"enabled": True}),)
    (one,) = await endpoints_of(made.spec(endpoints=endpoints), loaded, SystemClock())
    assert one.batching.endswith("concurrency 2 keeps batches at so many requests")
    loaded.close()


def test_a_measurement_reads_back_and_one_from_elsewhere_does_not() -> None:
    data = measured_to_bytes(GAINED, HERE)
    assert measured_from_bytes(data, HERE) == GAINED
    assert measured_from_bytes(data) == GAINED
    for other in (
        dataclasses.replace(HERE, cores=4),
        dataclasses.replace(HERE, threads=1),
        dataclasses.replace(HERE, engine="onnx 2"),
    ):
        assert measured_from_bytes(data, other) is None
    for damaged in (b"", b"[]", data[:-5], data.replace(b"395.0", b'"x"'), b'{"schema": 9}'):
        assert measured_from_bytes(damaged) is None


def test_the_smallest_size_that_is_as_good_as_any_is_the_best() -> None:
    assert (GAINED.best, GAINED.helps) == (4, True)
    assert GAINED.gain == pytest.approx(3.95)
    assert not Measured("they mix", 1.0, {8: 100.0}).helps
    assert not Measured("", 100.0, {1: 90.0, 2: 119.0}).helps
    assert (Measured().best, Measured().gain) == (1, 1.0)
    assert str(Measured()) == "not measured"
    assert str(Measured("they mix")) == "its requests cannot share a run: they mix"


class Timed:
    """Answers nothing but zeros, and takes so long on a clock of its own."""

    signature: Signature = TensorSignature(
        (TensorSpec("x", DataType.FP32, (-1, 1)),), (TensorSpec("y", DataType.FP32, (-1, 1)),)
    )
    concurrent = True

    def __init__(self, clock: FakeClock, each_run: float, each_row: float) -> None:
        self._clock = clock
        self._seconds = (each_run, each_row)
        self.closed = False

    def infer(self, request: InferRequest) -> InferResponse:
        x = request.tensors["x"]
        self._clock.advance(self._seconds[0] + self._seconds[1] * len(x))
        return InferResponse({"y": x * 0})

    def parse_document(self, data: bytes) -> Any:
        raise NotImplementedError

    def dump_document(self, document: Any) -> bytes:
        raise NotImplementedError

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(
    ("each_run", "each_row", "insists", "batched"),
    [(0.01, 0.0, None, True), (0.0, 0.01, None, False), (0.0, 0.01, True, True)],
)
async def test_what_serves_is_the_one_with_all_cores_only_if_it_is_batched(
    each_run: float, each_row: float, insists: bool | None, batched: bool
) -> None:
    clock = FakeClock()
    golden = Golden((Example({"x": [[1.0]]}, {"y": [[0.0]]}),), {})
    first, wide = (Timed(clock, each_run, each_row) for _ in range(2))
    threads: list[int] = []

    def load(on: int) -> Model:
        threads.append(on)
        return wide

    pool = Threads("test", 1)
    measuring = Measuring(golden, Batching(enabled=insists), load, clock)
    model, measured = await measuring.of(first, pool, 0)
    pool.close()
    assert measured.alone == pytest.approx(100, rel=0.01)
    assert measured.helps == (each_row == 0)
    if cores() == 1:
        return
    # One that cannot gain is not even loaded again.
    assert threads == ([cores()] if batched else [])
    assert (model is wide, first.closed, wide.closed) == (batched, batched, False)
    assert measured.threads == (cores() if batched else 1)
    if each_row == 0:
        assert measured.best == 64
        assert measured.gain == pytest.approx(64, rel=0.05)


class Throttled(Timed):
    """On a machine that is half as fast for a tenth of a second out of every three tenths."""

    def __init__(self, clock: FakeClock, each_run: float, each_row: float, phase: float) -> None:
        super().__init__(clock, each_run, each_row)
        self._phase = phase
        self._alone = threading.Lock()  # at the clock
        self.cores = 1  # that a run has

    def infer(self, request: InferRequest) -> InferResponse:
        x = request.tensors["x"]
        beside = threading.current_thread().name.startswith("ThreadPoolExecutor")
        seconds = (self._seconds[0] + self._seconds[1] * len(x)) / (
            cores() if beside else self.cores
        )
        with self._alone:
            slow = (self._clock.monotonic() + self._phase) % 0.3 < 0.1
            self._clock.advance(seconds * (2 if slow else 1))
        return InferResponse({"y": x * 0})


@pytest.mark.parametrize("phase", [at / 50 for at in range(15)])
async def test_a_slow_moment_of_the_machine_decides_neither_the_size_nor_the_threads(
    phase: float,
) -> None:
    """Batches gain whatever their size, and are as quick with all cores as in parts abreast."""
    clock = FakeClock()
    golden = Golden((Example({"x": [[1.0]]}, {"y": [[0.0]]}),), {})
    first, wide = (Throttled(clock, 0.012, 0.0004, phase) for _ in range(2))
    wide.cores = cores()
    pool = Threads("test", 4)
    model, measured = await Measuring(golden, Batching(), lambda _: wide, clock).of(first, pool, 0)
    pool.close()
    assert (measured.best, measured.threads, measured.abreast) == (64, cores(), 1)
    assert measured.speedup == pytest.approx(cores())
    assert (model is wide) == (cores() > 1)  # with one core there is nothing to try


@pytest.mark.parametrize(
    ("each_run", "each_row", "largest"),
    [(0.1, 0.0, 32), (0.2, 0.002, 16), (0.3, 0.002, 8), (0.05, 0.001, 64)],
)
async def test_a_slow_model_that_gains_is_measured_with_as_many_sizes_as_there_is_time_for(
    each_run: float, each_row: float, largest: int
) -> None:
    measured = await measured_alone(lambda clock: Timed(clock, each_run, each_row))
    assert measured.best == largest
    assert measured.gain > largest / 3


class Warming(Timed):
    """The first run of each size takes a seventh of a second more: something is compiled for it."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock, 0.002, 0.0001)
        self._warm: set[int] = set()

    def infer(self, request: InferRequest) -> InferResponse:
        rows = len(request.tensors["x"])
        self._clock.advance(0.0 if rows in self._warm else 0.15)
        self._warm.add(rows)
        return super().infer(request)


async def test_a_slow_first_run_of_a_size_is_not_held_against_it() -> None:
    measured = await measured_alone(Warming)
    assert measured.best == 64
    assert measured.gain == pytest.approx(16, rel=0.01)


class Slowed(Timed):
    """On a machine that is half as fast from some moment on."""

    def __init__(self, clock: FakeClock, after: float) -> None:
        super().__init__(clock, 0.0008, 0.0008)
        self._slow_from = clock.monotonic() + after

    def infer(self, request: InferRequest) -> InferResponse:
        if self._clock.monotonic() >= self._slow_from:
            self._clock.advance(self._seconds[0] + self._seconds[1] * len(request.tensors["x"]))
        return super().infer(request)


@pytest.mark.parametrize("after", [0.0, 0.01, 0.05, 0.1, 0.2, 0.5, 9.0])
async def test_a_machine_that_slows_down_meanwhile_does_not_decide_whether_to_batch(
    after: float,
) -> None:
    measured = await measured_alone(lambda clock: Slowed(clock, after))
    assert measured.gain == pytest.approx(1.97, rel=0.05)


class Reading:
    """Takes documents, which cost a hundred times as much to read as to answer."""

    signature: Signature = DocumentSignature()
    concurrent = False
    answers_lists = True

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock

    def infer(self, request: InferRequest) -> InferResponse:
        return self.infer_together([request])[0]

    def infer_together(self, requests: Sequence[InferRequest]) -> list[InferResponse]:
        self._clock.advance(0.001)
        return [InferResponse(document=request.document.pop("x")) for request in requests]

    def parse_document(self, data: bytes) -> Any:
        self._clock.advance(0.1)
        return json.loads(data)

    def dump_document(self, document: Any) -> bytes:
        return json.dumps(document).encode()

    def close(self) -> None:
        """Nothing is held."""


async def test_what_is_measured_is_given_anew_each_time_and_only_its_runs_are_timed() -> None:
    clock = FakeClock()
    model = Reading(clock)
    golden = Golden((Example({"x": 1}, 1),), {})
    pool = Threads("test", 1)
    _, measured = await Measuring(golden, Batching(), lambda _: model, clock).of(model, pool, 1)
    pool.close()
    assert measured.alone == pytest.approx(1000)
    assert measured.helps


async def measured_alone(make: Callable[[FakeClock], Model]) -> Measured:
    """What is found out about a model of which one run goes on at a time."""
    clock = FakeClock()
    model = make(clock)
    golden = Golden((Example({"x": [[1.0]]}, {"y": [[0.0]]}),), {})
    pool = Threads("test", 1)
    _, measured = await Measuring(golden, Batching(), lambda _: model, clock).of(model, pool, 1)
    pool.close()
    return measured


class Growing(Timed):
    """Keeps memory for its largest run."""

    kept = 0

    def infer(self, request: InferRequest) -> InferResponse:
        self.kept = max(self.kept, len(request.tensors["x"]))
        return super().infer(request)

    def shrink(self, request: InferRequest) -> None:
        self.kept = len(request.tensors["x"])


@pytest.mark.parametrize(
    ("each_run", "each_row", "insists", "given_back"),
    [(0.0, 0.01, None, True), (0.0, 0.01, True, False), (0.01, 0.0, None, False)],
)
async def test_what_the_tried_batches_took_is_given_back_unless_batches_come(
    each_run: float, each_row: float, insists: bool | None, given_back: bool
) -> None:
    clock = FakeClock()
    golden = Golden((Example({"x": [[1.0]]}, {"y": [[0.0]]}),), {})
    model = Growing(clock, each_run, each_row)
    pool = Threads("test", 1)
    measuring = Measuring(golden, Batching(enabled=insists), lambda _: model, clock)
    await measuring.of(model, pool, 1)
    pool.close()
    assert (model.kept == 1) == given_back


async def test_a_model_of_whose_examples_none_has_rows_is_served_one_by_one() -> None:
    clock = FakeClock()
    golden = Golden((Example({"x": []}, {"y": []}),), {})
    model = Growing(clock, 0.0, 0.01)
    pool = Threads("test", 1)
    served, measured = await Measuring(golden, Batching(), lambda _: model, clock).of(
        model, pool, 1
    )
    pool.close()
    assert served is model
    assert not measured.helps


def test_a_graph_gives_back_what_a_large_run_took(tmp_path: Path) -> None:
    path = tmp_path / "wide.onnx"
    x, y = (("x", FLOAT, ["n", 1024]), ("y", FLOAT, ["n", 1024]))
    nodes = [helper.make_node("Exp", [a], [b]) for a, b in ("xa", "ab", "by")]
    path.write_bytes(onnx_bytes([x], [y], nodes))
    model = OnnxModel(path)
    assert isinstance(model, Shrinks)
    process = psutil.Process()
    model.infer(InferRequest({"x": np.zeros((1, 1024), np.float32)}))
    before = process.memory_info().rss
    model.infer(InferRequest({"x": np.zeros((32 * 1024, 1024), np.float32)}))
    between = process.memory_info().rss
    model.shrink(InferRequest({"x": np.zeros((1, 1024), np.float32)}))
    assert between - before > 100 << 20
    assert process.memory_info().rss - before < 32 << 20
    model.close()


async def test_a_graph_has_as_many_threads_as_there_are_cores(tmp_path: Path) -> None:
    made = heavy_artifact(tmp_path / "a")
    loaded = await load_artifact(made.directory, made.digest, 0, SystemClock())
    assert loaded.threads.limit == min(32, cores())
    loaded.close()


class Apart(Timed):
    """Quick beside others, and never quicker with more threads."""

    def infer(self, request: InferRequest) -> InferResponse:
        beside = threading.current_thread().name.startswith("ThreadPoolExecutor")
        x = request.tensors["x"]
        self._clock.advance((0.008 + 0.0005 * len(x)) / (cores() if beside else 1))
        return InferResponse({"y": x * 0})


async def test_where_all_cores_make_a_batch_no_faster_each_has_its_own(tmp_path: Path) -> None:
    clock = FakeClock()
    golden = Golden((Example({"x": [[1.0]]}, {"y": [[0.0]]}),), {})
    first, wide = (Apart(clock, 0.0, 0.0) for _ in range(2))
    pool = Threads("test", 4)
    model, measured = await Measuring(golden, Batching(), lambda _: wide, clock).of(first, pool, 0)
    pool.close()
    # With one core there is nothing to try.
    assert (model is first, first.closed, wide.closed) == (True, False, cores() > 1)
    assert (measured.threads, measured.abreast) == (1, cores())
    made = scaled_artifact(tmp_path / "a")
    loaded = await load_artifact(made.directory, made.digest, 0, SystemClock())
    loaded.measured = dataclasses.replace(GAINED, abreast=3)
    spec = made.spec(endpoints=(ServedEndpoint(batching={"enabled": True}),))
    (one,) = await endpoints_of(spec, loaded, SystemClock())
    assert one.batcher is not None
    assert one.batcher.abreast == 3
    assert one.batching.startswith("batches of up to 4 rows, 3 at once, as it was said")
    loaded.close()
