"""Find, admit, run: nobody gets another's answer, and who leaves takes nothing along."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from fairlead.api.inference import InferRequest, InferResponse
from fairlead.domain.errors import FairleadError, Kind
from fairlead.domain.ids import EndpointId
from fairlead.domain.signature import DocumentSignature, Signature
from fairlead.kits.clock import SystemClock
from fairlead.server.dataplane import DataPlane
from fairlead.server.endpoint import Endpoint
from fairlead.server.loading import LoadedArtifact, Profile, load_artifact
from fairlead.server.threads import Threads
from support.models import scaled_artifact
from support.serving import eventually


@dataclass
class Gated:
    """A model whose runs wait until they are let go; it notes how many run at once."""

    concurrent: bool = True
    signature: Signature = field(default_factory=DocumentSignature)

    def __post_init__(self) -> None:
        self.gate = threading.Event()
        self.lock = threading.Lock()
        self.running = 0
        self.most = 0
        self.seen: list[Any] = []

    def infer(self, request: InferRequest) -> InferResponse:
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
            self.seen.append(request.document)
        self.gate.wait(5)
        with self.lock:
            self.running -= 1
        return InferResponse(document=request.document)

    def parse_document(self, data: bytes) -> Any:
        return data

    def dump_document(self, document: Any) -> bytes:
        return bytes(document)

    def close(self) -> None:
        """Nothing is held."""


NEVER_INLINE = Profile(1000.0, inline=False, inline_elements=0, inline_bytes=0)
Made = Callable[..., Endpoint]


@pytest_asyncio.fixture
async def gated() -> AsyncIterator[Gated]:
    model = Gated()
    yield model
    model.gate.set()


def endpoint(model: Any, concurrency: int, seconds: float = 5.0, manifest: Any = None) -> Endpoint:
    threads = Threads("test", 8 if model.concurrent else 1)
    artifact = LoadedArtifact(
        Path(), manifest, "", model, threads, NEVER_INLINE, InferRequest(), None
    )
    return Endpoint(EndpointId("s", "v1", "1"), artifact, concurrency, seconds, SystemClock())


async def test_only_so_many_run_at_once_and_all_get_their_own_answer(gated: Gated) -> None:
    one = endpoint(gated, 2)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one.infer(InferRequest(document=n), 5)) for n in range(6)]
        await eventually(lambda: gated.running == 2)
        assert one.admission.waiting == 4
        gated.gate.set()
    assert [task.result().document for task in tasks] == list(range(6))
    assert gated.most == 2
    assert (one.admission.taken, one.artifact.busy) == (0, 0)


async def test_a_model_for_one_thread_is_never_run_by_two(gated: Gated) -> None:
    gated.concurrent = False
    gated.gate.set()
    one = endpoint(gated, 0)
    await asyncio.gather(*(one.infer(InferRequest(document=n), 5) for n in range(20)))
    assert gated.most == 1


async def test_a_client_that_leaves_while_it_waits_frees_its_place_and_others_finish(
    gated: Gated,
) -> None:
    one = endpoint(gated, 1)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one.infer(InferRequest(document=n), 5)) for n in range(4)]
        await eventually(lambda: one.admission.waiting == 3)
        tasks[2].cancel()
        await eventually(lambda: one.admission.waiting == 2)
        gated.gate.set()
        await asyncio.wait(tasks)
    assert [n for n in (0, 1, 3) if tasks[n].result().document != n] == []
    assert tasks[2].cancelled()
    assert 2 not in gated.seen
    assert (one.admission.taken, one.artifact.busy) == (0, 0)


async def test_a_client_that_leaves_during_its_run_keeps_the_slot_until_the_run_ends(
    gated: Gated,
) -> None:
    one = endpoint(gated, 1)
    async with asyncio.TaskGroup() as group:
        first = group.create_task(one.infer(InferRequest(document=1), 5))
        second = group.create_task(one.infer(InferRequest(document=2), 5))
        await eventually(lambda: gated.running == 1)
        first.cancel()
        await asyncio.wait({first})
        assert gated.seen == [1]
        gated.gate.set()
        assert (await second).document == 2
    assert gated.most == 1
    await eventually(lambda: (one.admission.taken, one.artifact.busy) == (0, 0))


async def test_waiting_and_running_end_at_the_deadline(gated: Gated) -> None:
    one = endpoint(gated, 1)
    results = await asyncio.gather(
        *(one.infer(InferRequest(document=n), 0.05) for n in range(2)), return_exceptions=True
    )
    assert [error.kind for error in results if isinstance(error, FairleadError)] == [
        Kind.DEADLINE
    ] * 2
    gated.gate.set()
    await eventually(lambda: (one.admission.taken, one.artifact.busy) == (0, 0))


async def test_a_request_waits_no_longer_for_its_run_than_it_says(gated: Gated) -> None:
    gated.concurrent = False
    one = endpoint(gated, 0)  # no slots: it is the model's one thread that requests wait for
    async with asyncio.TaskGroup() as group:
        first = group.create_task(one.infer(InferRequest(document=1, queue_seconds=0.02), 5))
        await eventually(lambda: gated.seen == [1])
        with pytest.raises(FairleadError, match=r"no run within 0\.02 s") as late:
            await one.infer(InferRequest(document=2, queue_seconds=0.02), 5)
        assert late.value.kind is Kind.DEADLINE
        gated.gate.set()
    assert first.result().document == 1  # one that runs is not ended by it
    assert gated.seen == [1]
    await eventually(lambda: (one.admission.taken, one.artifact.busy) == (0, 0))


async def test_what_is_too_large_for_the_event_loop_goes_to_a_thread(tmp_path: Path) -> None:
    made = scaled_artifact(tmp_path)
    loaded = await load_artifact(made.directory, made.digest, 1, SystemClock())
    loaded.profile = Profile(10.0, inline=True, inline_elements=12, inline_bytes=4096)
    one = Endpoint(EndpointId("s", "v1", "1"), loaded, 1, 5, SystemClock())
    small = InferRequest({"x": np.zeros((4, 3), np.float32)})
    large = InferRequest({"x": np.zeros((5, 3), np.float32)})
    assert one.quick_rows(small, 100) == 4
    assert one.quick_rows(large, 100) is None
    assert one.quick_rows(small, 5000) is None
    assert one.infer_now(small).tensors["y"].shape == (4, 3)
    await one.admission.enter()
    assert one.quick_rows(small, 100) is None, "the only slot is taken"
    one.admission.leave()
    loaded.model.concurrent = False
    loaded.busy = 1
    assert one.quick_rows(small, 100) is None, (
        "its thread is at work, and it is for one thread at a time"
    )
    loaded.busy = 0
    loaded.close()


async def test_nothing_answers_in_another_endpoints_place(tmp_path: Path) -> None:
    plane = DataPlane()
    clock = SystemClock()
    loaded = {}
    for revision, factor in (("1", 2.0), ("2", 3.0)):
        made = scaled_artifact(tmp_path / revision, factor, int(revision))
        loaded[revision] = await load_artifact(made.directory, made.digest, 1, clock)
        plane.add(Endpoint(EndpointId("s", "v1", revision), loaded[revision], 0, 5, clock))
    request = InferRequest({"x": np.ones((1, 3), np.float32)})
    for revision, factor in (("1", 2.0), ("2", 3.0)):
        answer = await plane.find(EndpointId("s", "v1", revision)).infer(request, 5)
        assert answer.tensors["y"].tolist() == [[factor] * 3]
    for missing in (
        EndpointId("s", "v1", "3"),
        EndpointId("s", "v2", "1"),
        EndpointId("s", "v1", "1", "x"),
    ):
        with pytest.raises(FairleadError) as caught:
            plane.find(missing)
        assert caught.value.kind is Kind.NOT_FOUND
    plane.close()


def test_what_was_wasted_is_summed_over_all_times_that_a_model_was_loaded(gated: Gated) -> None:
    plane = DataPlane()
    for seconds, whole in ((2.0, 2.0), (0.5, 2.5), (0.0, 2.5)):
        one = endpoint(gated, 0)
        plane.add(one)
        one.wasted_seconds = seconds
        assert plane.wasted() == {one.id: whole}
        plane.remove([one.id])
        assert plane.wasted() == {one.id: whole}
