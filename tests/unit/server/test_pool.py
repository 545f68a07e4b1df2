"""A worker that serves several revisions, in this process, through its real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import tempfile
import weakref
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from fairlead.api.worker import ServedEndpoint, WorkerSpec, specs_from_json, specs_to_json
from fairlead.domain.batching import Batching
from fairlead.domain.errors import InvalidInput
from fairlead.domain.ids import ArtifactRef, RevisionId
from fairlead.engines.onnx import OnnxModel
from fairlead.kits.clock import SystemClock
from fairlead.kits.unixhttp import unix_client
from fairlead.server.pool import run_pool
from support.effort import PATIENCE
from support.models import example, make_artifact, rebatched, scaled
from support.serving import eventually

BODY = {"instances": [[1.0, 2.0, 3.0]]}


@dataclass
class Pool:
    """Replicas `w1`, `w2`, … of services `s1`, `s2`, …; each multiplies by its number."""

    specs: list[WorkerSpec]
    running: asyncio.Task[int] | None = None

    def socket(self, number: int) -> Path:
        found = self.specs[number - 1].socket
        assert found is not None
        return found

    async def ask(self, number: int, method: str, path: str, **more: Any) -> tuple[int, Any]:
        async with unix_client(self.socket(number), 40.0) as client:
            answer = await client.request(method, path, **more)
            kind = answer.headers.get("content-type", "")
            return answer.status_code, answer.json() if "json" in kind else answer.text

    async def predict(self, number: int, service: int | None = None) -> tuple[int, Any]:
        path = f"/v1/model/s{service or number}/predict"
        return await self.ask(number, "POST", path, json=BODY)

    async def company(self, number: int = 1) -> dict[str, dict[str, Any]]:
        _, found = await self.ask(number, "GET", "/internal/replicas")
        return {one["worker"]: one for one in found["replicas"]}


@pytest.fixture
def sockets() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fl-") as directory:  # a short path
        yield Path(directory)


@pytest.fixture
def pool(tmp_path: Path, sockets: Path) -> Pool:
    specs = []
    for number in (1, 2, 3):
        artifact = make_artifact(
            tmp_path / str(number),
            {"model.onnx": scaled(number)},
            [example({"x": [[1.0, 1.0, 1.0]]}, {"y": [[float(number)] * 3]})],
            ArtifactRef(f"m{number}", 1),
        )
        spec = artifact.spec(
            RevisionId(f"s{number}", "v1", "1"),
            socket=sockets / f"w{number}.sock",
            drain_seconds=3.0,
        )
        specs.append(replace(spec, worker=f"w{number}"))
    return Pool(specs)


@contextlib.asynccontextmanager
async def served(pool: Pool, loads: int = 3) -> AsyncIterator[Pool]:
    """Run it until so many of it are loaded, or cannot be; its owner goes at the end."""
    read, write = os.pipe()
    specs = [replace(spec, life_fd=read) for spec in pool.specs]
    try:
        async with asyncio.TaskGroup() as group:
            pool.running = group.create_task(run_pool(specs, SystemClock()))

            async def loaded() -> bool:
                found = await pool.company() if pool.socket(1).exists() else {}
                return sum(bool(one["ready"] or one["failed"]) for one in found.values()) >= min(
                    loads, len(pool.specs)
                )

            try:
                await eventually(loaded)
                yield pool
            finally:
                os.close(write)
            async with asyncio.timeout(5 * PATIENCE):
                assert await pool.running == 0
    finally:
        os.close(read)


async def test_each_answers_for_itself_on_its_own_socket(pool: Pool) -> None:
    async with served(pool):
        for number in (1, 2, 3):
            _, answer = await pool.predict(number)
            assert answer["predictions"] == [[float(number * value) for value in (1, 2, 3)]]
            assert (await pool.predict(number, service=number % 3 + 1))[0] == 404
            _, who = await pool.ask(number, "GET", "/internal/identity")
            spec = pool.specs[number - 1]
            assert (who["worker"], who["digest"]) == (spec.worker, spec.digest)
            assert [one["service"] for one in who["serves"]] == [f"s{number}"]


async def test_what_all_batch_is_told_at_every_socket(pool: Pool) -> None:
    async with served(pool):
        for number in (1, 2, 3):
            _, told = await pool.ask(number, "GET", "/internal/batching")
            assert {one["service"] for one in told["serves"]} == {"s1", "s2", "s3"}
            assert all(set(one["batching"]) == {"predict"} for one in told["serves"])


async def test_metrics_of_all_are_told_at_every_socket_and_counted_once(pool: Pool) -> None:
    async with served(pool):
        await pool.predict(1)
        await pool.predict(2)
        for number in (1, 2, 3):
            _, text = await pool.ask(number, "GET", "/metrics")
            lines = [
                line for line in text.splitlines() if line.startswith("fairlead_requests_total")
            ]
            counts = {line.partition('service="')[2][:2]: float(line.split()[-1]) for line in lines}
            assert counts == {"s1": 1.0, "s2": 1.0, "s3": 0.0}
        _, told = await pool.ask(3, "GET", "/internal/replicas")
        await pool.predict(2)
        _, later = await pool.ask(3, "GET", "/internal/replicas")
        assert later["counted"] > told["counted"], "there is something new to look at"


async def test_how_much_is_asked_of_all_is_told_at_every_socket(pool: Pool) -> None:
    async with served(pool):
        await pool.predict(2)
        await pool.predict(2)
        _, told = await pool.ask(3, "GET", "/internal/load")
    loads = {one["service"]: one for one in told["endpoints"]}
    assert {name: one["requests"] for name, one in loads.items()} == {"s1": 0, "s2": 2, "s3": 0}
    assert loads["s2"]["concurrency_seconds"] > 0.0 == loads["s1"]["concurrency_seconds"]
    assert 0.0 <= loads["s2"]["idle_seconds"] <= loads["s1"]["idle_seconds"]
    assert loads["s2"].keys() == {
        *("service", "line", "revision", "endpoint"),
        *("concurrency_seconds", "requests", "in_flight", "queued", "idle_seconds"),
    }


async def test_one_that_cannot_be_loaded_says_why_and_the_others_serve(pool: Pool) -> None:
    (pool.specs[1].artifact / "model.onnx").write_bytes(b"flipped")
    async with served(pool):
        found = await pool.company()
        assert [found[name]["ready"] for name in ("w1", "w2", "w3")] == [True, False, True]
        assert "model.onnx has 7 bytes" in found["w2"]["failed"]
        assert (await pool.predict(2))[0] == 503
        assert (await pool.predict(3))[0] == 200
        _, who = await pool.ask(2, "GET", "/internal/identity")
        assert (who["ready"], who["failed"]) == (False, found["w2"]["failed"])


async def test_one_that_is_retired_is_gone_and_the_others_do_not_notice(pool: Pool) -> None:
    async with served(pool):
        assert await pool.ask(2, "POST", "/internal/retire") == (200, {"retired": True})
        assert not pool.socket(2).exists()
        assert set(await pool.company()) == {"w1", "w3"}
        assert (await pool.predict(1))[0] == (await pool.predict(3))[0] == 200
        _, text = await pool.ask(1, "GET", "/metrics")
        assert 'service="s2"' in text, "what it counted stays"


async def test_a_request_under_way_is_answered_before_its_replica_goes(pool: Pool) -> None:
    async with served(pool):
        body = json.dumps(BODY).encode()
        reader, writer = await asyncio.open_unix_connection(str(pool.socket(2)))
        head = (
            f"POST /v1/model/s2/predict HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body[:5])
        idle_reader, idle_writer = await asyncio.open_unix_connection(str(pool.socket(2)))
        await pool.predict(2)
        async with asyncio.TaskGroup() as group:
            retiring = group.create_task(pool.ask(2, "POST", "/internal/retire"))
            assert await idle_reader.read() == b"", "nobody waits for an idle connection"
            assert not retiring.done()
            assert not pool.socket(2).exists(), "nobody new comes"
            writer.write(body[5:])
            assert (await reader.readline()) == b"HTTP/1.1 200 OK\r\n"
        assert retiring.result()[0] == 200
        for one in (writer, idle_writer):
            one.close()


async def test_one_that_never_finishes_is_cut_off_after_the_drain_time(pool: Pool) -> None:
    pool.specs = [replace(spec, drain_seconds=0.2) for spec in pool.specs]
    async with served(pool):
        reader, writer = await asyncio.open_unix_connection(str(pool.socket(2)))
        writer.write(b"POST /v1/model/s2/predict HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{")
        await pool.predict(2)
        assert (await pool.ask(2, "POST", "/internal/retire"))[0] == 200
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()


async def test_the_process_ends_with_its_last_replica(pool: Pool) -> None:
    async with served(pool):
        for number in (1, 2, 3):
            assert (await pool.ask(number, "POST", "/internal/retire"))[0] == 200
        assert pool.running is not None
        async with asyncio.timeout(5 * PATIENCE):
            assert await asyncio.shield(pool.running) == 0


async def test_two_of_one_artifact_share_the_model_until_the_last_has_gone(pool: Pool) -> None:
    first, second, _ = pool.specs
    pool.specs[1] = replace(second, artifact=first.artifact, digest=first.digest)
    async with served(pool):
        assert (await pool.ask(1, "POST", "/internal/retire"))[0] == 200
        _, answer = await pool.predict(2)
        assert answer["predictions"] == [[1.0, 2.0, 3.0]]


SLOWLY_TOGETHER = """
import os, time
class Model:
    def predict(self, request: dict) -> dict:
        return self.predict_batch([request])[0]
    def predict_batch(self, requests: list[dict]) -> list[dict]:
        while len(requests) > 1 and os.path.exists({gate!r}):
            time.sleep(0.005)
        return [{{"said": "hi"}} for _ in requests]
"""


async def test_one_that_retires_takes_nothing_from_one_that_is_being_loaded(
    pool: Pool, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    code = SLOWLY_TOGETHER.format(gate=str(gate))
    made = make_artifact(tmp_path / "m", {"model.py": code}, [example({}, {"said": "hi"})])
    made = rebatched(made, Batching(enabled=False))
    first, second, _ = (
        replace(spec, artifact=made.directory, digest=made.digest) for spec in pool.specs
    )
    # What its release says of batching has to be proved: that takes as long as the gate is there.
    together = ServedEndpoint(batching={"enabled": True})
    pool.specs = [first, replace(second, endpoints=(together,))]
    async with served(pool, loads=1), asyncio.TaskGroup() as group:
        retiring = group.create_task(pool.ask(1, "POST", "/internal/retire"))
        await eventually(lambda: not pool.socket(1).exists())
        await asyncio.wait({retiring}, timeout=0.2)  # it waits, or has closed what is being loaded
        gate.unlink()

        async def loaded() -> bool:
            return bool((await pool.company(2))["w2"]["ready"])

        await eventually(loaded)
        path = "/v1/model/s2/predict"
        assert await pool.ask(2, "POST", path, json={}) == (200, {"said": "hi"})
        assert (await retiring)[0] == 200


async def test_a_retired_model_leaves_nothing_in_memory(pool: Pool) -> None:
    async with served(pool):
        await pool.predict(2)
        gc.collect()  # what other tests have left
        gone = [weakref.ref(one) for one in gc.get_objects() if isinstance(one, OnnxModel)]
        before = len(gone)
        await pool.ask(2, "POST", "/internal/retire")

        def left() -> int:
            gc.collect()
            return sum(one() is not None for one in gone)

        await eventually(lambda: left() == before - 1)


async def test_examples_are_forgotten_once_the_agent_says_so_and_others_requests_are_not(
    pool: Pool,
) -> None:
    async def counted(number: int) -> tuple[int, int]:
        _, found = await pool.ask(number, "GET", f"/v2/models/s{number}/stats")
        (one,) = found["model_stats"]
        return one["inference_count"], one["last_inference"]

    async with served(pool):
        for number in (1, 2):
            assert (await pool.predict(number))[0] == 200
        asked = await counted(2)
        assert asked[0] == 1
        assert await pool.ask(1, "POST", "/internal/proved") == (200, {"proved": True})
        assert (await counted(1), await counted(2)) == ((0, 0), asked)
        assert (await pool.predict(1))[0] == 200
        assert (await counted(1))[0] == 1
        assert (await pool.ask(1, "GET", "/internal/proved"))[0] == 405


async def test_only_a_post_retires(pool: Pool) -> None:
    async with served(pool):
        assert (await pool.ask(1, "GET", "/internal/retire"))[0] == 405
        assert len(await pool.company()) == 3


def test_a_spec_file_holds_one_or_several(pool: Pool) -> None:
    assert specs_from_json(specs_to_json(pool.specs)) == tuple(pool.specs)
    assert specs_from_json(pool.specs[0].to_json()) == (pool.specs[0],)
    for wrong in ("", "[]", "[1]", '[{"worker": "w"}]'):
        with pytest.raises(InvalidInput):
            specs_from_json(wrong)
