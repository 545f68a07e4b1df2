"""The fast lane of requests that wait for a batch: the same answers as by ASGI, and nothing left behind."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from fairlead.api.pieces import LARGE_ELEMENTS
from fairlead.api.worker import ServedEndpoint, ServingSettings, WorkerSpec
from fairlead.domain.ids import RevisionId
from fairlead.server.endpoint import Endpoint
from fairlead.server.http.gathering import GatheredRequest
from support.asked import (
    Asked,
    Served,
    by_asgi,
    read_answer,
    refuses,
    send_cut,
    served_at,
    standing_at,
)
from support.models import FLOAT, example, identity, make_artifact, scaled_artifact
from support.serving import eventually

pytestmark = pytest.mark.timeout(60)
PREDICT = "/v1/model/m/predict"
INFER = "/v2/models/m/infer"
REVISION = RevisionId("m", "v1", "1")

# Doubles numbers; waits for a file first, if one is named.
GATED = """
import os
import threading

from fairlead.api.cancellation import cancelled


class Model:
    def predict(self, request: dict) -> float:
        return self.predict_batch([request])[0]

    def predict_batch(self, requests):
        seen = os.environ["SEEN"]
        with open(seen, "a") as file:
            file.write(" ".join(str(one["n"]) for one in requests) + "\\n")
        nobody = threading.Event()
        for one in requests:
            while not os.path.exists(one.get("gate", "/")) and not cancelled():
                nobody.wait(0.002)
        if any(one["n"] < 0 for one in requests):
            raise ValueError("negative")
        return [2.0 * one["n"] for one in requests]
"""


class Gate:
    """A server of GATED, and what its runs were given."""

    def __init__(self, found: Served, directory: Path) -> None:
        self.found = found
        self.seen = directory / "seen"
        self.file = directory / "gate"
        (self.endpoint,) = found.running.plane.endpoints()
        self._before = len(self._lines())

    def _lines(self) -> list[list[int]]:
        return [[int(n) for n in line.split()] for line in self.seen.read_text().splitlines()]

    @property
    def runs(self) -> list[list[int]]:
        return self._lines()[self._before :]

    async def ask(self, n: int, **headers: str) -> tuple[asyncio.StreamReader, Any]:
        """A connection on which this was asked; it is answered once the gate is open."""
        reader, writer = await asyncio.open_unix_connection(str(self.found.path))
        body = json.dumps({"n": n, "gate": str(self.file)}).encode()
        named = tuple((name.replace("_", "-"), value) for name, value in headers.items())
        writer.write(Asked("POST", PREDICT, named, (body,)).wire())
        return reader, writer

    async def first(self) -> tuple[asyncio.StreamReader, Any]:
        """One that is being run, so that all others wait."""
        asked = await self.ask(100)
        await eventually(lambda: self.runs == [[100]])
        return asked

    async def company(self, count: int) -> list[tuple[asyncio.StreamReader, Any]]:
        """One that is being run, and those that wait for it: 0, 1, 2 …"""
        asked = [await self.first()]
        asked += [await self.ask(n) for n in range(count)]
        await self.queued(count)
        return asked

    async def queued(self, count: int) -> None:
        await eventually(lambda: waiting(self.endpoint) == count)

    def open(self) -> None:
        self.file.touch()

    async def at_rest(self) -> None:
        """Nothing waits, nothing is held, everybody is counted."""
        running = self.found.running
        await eventually(lambda: self.endpoint.admission.taken == 0)
        assert waiting(self.endpoint) == 0
        await eventually(lambda: all(one.in_progress == 0 for one in running.plane.stats))
        assert running.app.bodies.held == 0


def waiting(one: Endpoint) -> int:
    assert one.batcher is not None
    return one.batcher.waiting


def gated_spec(
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    concurrency: int = 0,
    access_log: bool = False,
    seconds: float = 60.0,
    **said: Any,
) -> WorkerSpec:
    seen = directory / "seen"
    seen.touch()
    monkeypatch.setenv("SEEN", str(seen))
    made = make_artifact(directory / "m", {"model.py": GATED}, [example({"n": 1}, 2.0)])
    batching = {"enabled": True, "maxBatchSize": 8, **said}
    one = ServedEndpoint(concurrency=concurrency, batching=batching)
    settings = ServingSettings(access_log=access_log)
    return made.spec(REVISION, endpoints=(one,), settings=settings, deadline_seconds=seconds)


async def answer_of(asked: tuple[asyncio.StreamReader, Any]) -> tuple[int, Any, dict[str, str]]:
    reader, writer = asked
    async with asyncio.timeout(10):
        status, headers, body = await read_answer(reader)
    writer.close()
    return status, json.loads(body), headers


def asgi_tasks() -> int:
    """Requests that go through ASGI right now."""
    return sum("run_asgi" in str(task.get_coro()) for task in asyncio.all_tasks())


async def test_what_waits_shares_a_run_and_costs_no_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served_at(tmp_path, gated_spec(tmp_path, monkeypatch)) as found:
        gate = Gate(found, tmp_path)
        asked = await gate.company(4)
        assert asgi_tasks() == 0
        gate.open()
        for n, one in zip([100, 0, 1, 2, 3], asked, strict=True):
            status, body, headers = await answer_of(one)
            assert (status, body) == (200, 2.0 * n)
            batch = 1 if n == 100 else 4
            assert f"batch;desc={batch}" in headers["server-timing"]
            assert headers["x-served-version"] == "v1.1"
        assert gate.runs == [[100], [0, 1, 2, 3]]
        await gate.at_rest()
        counts = gate.endpoint.executions
        assert (counts.requests, counts.run_requests, counts.failed_requests) == (5, 5, 0)
        assert counts.queue_seconds > 0
        assert counts.run_seconds > 0
        assert found.running.plane.wasted() == {gate.endpoint.id: 0}


async def test_a_client_that_leaves_while_it_waits_is_in_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served_at(tmp_path, gated_spec(tmp_path, monkeypatch)) as found:
        gate = Gate(found, tmp_path)
        asked = await gate.company(3)
        asked[2][1].transport.abort()
        await gate.queued(2)
        assert gate.endpoint.admission.taken == 3, "its slot is free at once"
        gate.open()
        for n, one in zip([100, 0, 2], [asked[0], asked[1], asked[3]], strict=True):
            assert (await answer_of(one))[:2] == (200, 2.0 * n)
        assert gate.runs == [[100], [0, 2]]
        await gate.at_rest()
        assert gate.endpoint.executions.failed_requests == 1


async def test_a_client_that_leaves_during_the_run_poisons_nobody_and_its_share_is_wasted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served_at(tmp_path, gated_spec(tmp_path, monkeypatch)) as found:
        gate = Gate(found, tmp_path)
        first = await gate.first()
        asked = [await gate.ask(n) for n in range(2)]
        await gate.queued(2)
        gate.open()
        await answer_of(first)
        await eventually(lambda: len(gate.runs) == 2)
        for one in asked:
            await answer_of(one)
        gate.file.unlink()
        alone = await gate.ask(7)
        await eventually(lambda: gate.runs[-1] == [7])
        alone[1].transport.abort()
        await gate.at_rest()  # told to end: nobody opens the gate
        assert found.running.plane.wasted()[gate.endpoint.id] > 0


async def test_a_deadline_is_kept_while_waiting_and_during_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served_at(tmp_path, gated_spec(tmp_path, monkeypatch)) as found:
        gate = Gate(found, tmp_path)
        running = await gate.ask(100, X_Request_Timeout_Ms="1500")
        await eventually(lambda: gate.runs == [[100]])
        queued = await gate.ask(1, X_Request_Timeout_Ms="50")
        for one, seconds in ((queued, "0.05"), (running, "1.5")):
            status, body, headers = await answer_of(one)
            assert (status, body) == (504, {"detail": f"no answer within {seconds} s"})
            assert headers["x-fairlead-no-fault"] == "deadline"
            assert ("engine;dur" in headers["server-timing"]) == (one is running)
        await gate.at_rest()
        assert gate.runs == [[100]]
        wrong = await gate.ask(1, X_Request_Timeout_Ms="soon")
        assert (await answer_of(wrong))[0] == 400
        await gate.at_rest()


async def test_the_queue_has_its_limit_and_its_patience(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {"maxQueueSize": 1, "defaultTimeoutMicroseconds": 800_000}
    async with served_at(tmp_path, gated_spec(tmp_path, monkeypatch, **said)) as found:
        gate = Gate(found, tmp_path)
        first = await gate.first()
        queued = await gate.ask(1)
        await gate.queued(1)
        status, body, headers = await answer_of(await gate.ask(2))
        assert (status, headers["x-error-code"]) == (503, "overloaded")
        assert "1 requests wait for this model already" in body["detail"]
        status, body, _ = await answer_of(queued)
        assert (status, body["detail"].split(",")[0]) == (504, "no run within 0.8 s")
        gate.open()
        assert (await answer_of(first))[0] == 200
        await gate.at_rest()


async def test_who_finds_no_slot_waits_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served_at(tmp_path, gated_spec(tmp_path, monkeypatch, concurrency=1)) as found:
        gate = Gate(found, tmp_path)
        first = await gate.first()
        others = [await gate.ask(n) for n in range(10)]
        await eventually(lambda: gate.endpoint.admission.waiting == 10)
        status, body, _ = await answer_of(await gate.ask(11))
        assert (status, body) == (503, {"detail": "pending request queue full"})
        gate.open()
        for n, one in enumerate([*others, first]):
            assert (await answer_of(one))[:2] == (200, 2.0 * n if n < 10 else 200.0)
        await gate.at_rest()


async def test_one_that_fails_in_a_batch_fails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served_at(tmp_path, gated_spec(tmp_path, monkeypatch)) as found:
        gate = Gate(found, tmp_path)
        first = await gate.first()
        asked = {n: await gate.ask(n) for n in (1, -2, 3)}
        await gate.queued(3)
        gate.open()
        for n, one in asked.items():
            status, body, _ = await answer_of(one)
            assert status == (500 if n < 0 else 200)
            assert n < 0 or body == 2.0 * n
        await answer_of(first)
        await gate.at_rest()


@pytest.mark.parametrize("in_time", [True, False])
async def test_a_server_that_stops_answers_what_waits_or_says_that_it_is_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_time: bool
) -> None:
    spec = gated_spec(tmp_path, monkeypatch)
    async with served_at(tmp_path, spec, 30 if in_time else 1) as found:
        gate = Gate(found, tmp_path)
        asked = [await gate.first(), await gate.ask(1)]
        await gate.queued(1)
        found.stop.set()
        await eventually(lambda: refuses(found.path))
        if in_time:
            gate.open()
        for n, one in zip([100, 1], asked, strict=True):
            status, body, headers = await answer_of(one)
            assert headers["connection"] == "close"
            if in_time:
                assert (status, body) == (200, 2.0 * n)
            else:
                assert (status, body["detail"]) == (503, "this server is ending; ask again")
        await gate.at_rest()
        gate.open()


async def test_the_access_line_is_the_same_as_asgis(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "fairlead.access")
    spec = gated_spec(tmp_path, monkeypatch, access_log=True)
    async with served_at(tmp_path, spec) as found:
        gate = Gate(found, tmp_path)
        gate.open()
        await answer_of(await gate.ask(1, X_Request_Id="r-7"))
        body = json.dumps({"n": 1}).encode()
        client = found.running.client
        await client.post(PREDICT, content=body, headers={"x-request-id": "r-7"})
    fast, slow = [record for record in caplog.records if record.name == "fairlead.access"]
    for key in ("request_line", "status_code", "status_phrase", "request_id"):
        assert fast.__dict__[key] == slow.__dict__[key]


async def test_an_answer_that_is_large_is_encoded_beside_the_event_loop(tmp_path: Path) -> None:
    width = LARGE_ELEMENTS // 4
    made = make_artifact(
        tmp_path / "m",
        {"model.onnx": identity(FLOAT, ["n", width])},
        [example({"x": [[0.5] * width]}, {"y": [[0.5] * width]})],
    )
    one = ServedEndpoint(batching={"enabled": True, "maxBatchSize": 8})
    async with served_at(tmp_path, made.spec(REVISION, endpoints=(one,))) as found:
        for count in (1, 6):
            reader, writer = await asyncio.open_unix_connection(str(found.path))
            given = [[float(row)] * width for row in range(count)]
            body = json.dumps({"instances": given}).encode()
            writer.write(Asked("POST", PREDICT, (), (body,)).wire())
            status, answered, _ = await answer_of((reader, writer))
            assert (status, answered) == (200, {"predictions": given})
        (endpoint,) = found.running.plane.endpoints()
        assert endpoint.executions.requests == 2
        await eventually(lambda: found.running.app.bodies.held == 0)


def rows(count: int) -> bytes:
    return json.dumps({"instances": [[row, 2.5, -row] for row in range(count)]}).encode()


def tensor(count: int, binary: bool, priority: int) -> bytes:
    one: dict[str, Any] = {"name": "x", "shape": [count, 3], "datatype": "FP32"}
    one["data"] = [float(number) for number in range(count * 3)]
    parameters: dict[str, Any] = {"priority": priority}
    if binary:
        parameters["binary_data_output"] = True
    return json.dumps({"inputs": [one], "id": "call", "parameters": parameters}).encode()


HEADERS = st.lists(
    st.sampled_from(
        [
            ("X-Request-Timeout-Ms", "60000"),
            ("x-request-timeout-ms", "soon"),
            ("X-Request-Priority", "2"),
            ("x-request-priority", "9"),
            ("x-request-priority", "high"),
            ("x-sticky-key", "me"),
        ]
    ),
    max_size=2,
)
BODIES = st.one_of(
    st.integers(0, 6).map(rows),
    st.sampled_from([b"", b"{", b"[]", b'{"instances": [[1]]}', b'{"instances": [["a", 1, 2]]}']),
    st.just(rows(6000)),  # more bytes than are decoded on the event loop
)


@st.composite
def asked(draw: st.DrawFn) -> Asked:
    kind = draw(st.sampled_from(["predict"] * 4 + ["infer"] * 2 + ["chunked", "get"]))
    headers = (*draw(HEADERS), ("content-type", "application/json"))
    if kind == "predict":
        return Asked("POST", PREDICT, headers, (draw(BODIES),))
    if kind == "infer":
        made = st.builds(tensor, st.integers(0, 6), st.booleans(), st.integers(0, 3))
        return Asked("POST", INFER, headers, (draw(made),))
    if kind == "chunked":
        return Asked("POST", PREDICT, headers, (rows(2)[:7], rows(2)[7:]))
    return Asked("GET", draw(st.sampled_from(["/livez", PREDICT, "/nope"])), (), (b"",))


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[asyncio.Runner, Served]]:
    """One server for many examples, with two slots."""
    directory = tmp_path_factory.mktemp("gathering")
    batching = {"enabled": True, "maxBatchSize": 4, "priorityLevels": 2}
    one = ServedEndpoint(concurrency=2, batching=batching)
    spec = scaled_artifact(directory / "scaled").spec(REVISION, endpoints=(one,))
    with standing_at(directory, spec) as standing:
        yield standing


@given(
    connections=st.lists(st.lists(asked(), min_size=1, max_size=4), min_size=1, max_size=4),
    cuts=st.lists(st.integers(1, 4000), max_size=6),
    leaves=st.booleans(),
)
def test_whatever_arrives_however_cut_the_answers_are_asgis_in_order(
    standing: tuple[asyncio.Runner, Served],
    connections: list[list[Asked]],
    cuts: list[int],
    leaves: bool,
) -> None:
    runner, found = standing

    async def one_connection(requests: list[Asked], whole: bool) -> None:
        reader, writer = await asyncio.open_unix_connection(str(found.path))
        wire = b"".join(one.wire() for one in requests)
        await send_cut(writer, wire, cuts)
        if not whole:
            writer.transport.abort()
            return
        for one in requests:
            status, headers, body = await read_answer(reader)
            kind, code = (headers.get(name, "") for name in ("content-type", "x-error-code"))
            assert (status, kind, code, body) == await by_asgi(found.running, one)
        writer.close()

    async def all_of_them() -> None:
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            for number, requests in enumerate(connections):
                group.create_task(one_connection(requests, not leaves or number != 1))
        (endpoint,) = found.running.plane.endpoints()
        await eventually(lambda: endpoint.admission.taken == 0 and not waiting(endpoint))
        await eventually(lambda: found.running.app.bodies.held == 0)
        await eventually(lambda: all(route.in_progress == 0 for route in found.running.plane.stats))

    runner.run(all_of_them())


async def test_what_one_turn_reads_takes_no_more_slots_than_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served_at(tmp_path, gated_spec(tmp_path, monkeypatch, concurrency=2)) as found:
        gate = Gate(found, tmp_path)
        streams = [await asyncio.open_unix_connection(str(found.path)) for _ in range(5)]
        body = json.dumps({"n": 1, "gate": str(gate.file)}).encode()
        for _, writer in streams:
            writer.write(Asked("POST", PREDICT, (), (body,)).wire())
        await eventually(lambda: gate.endpoint.admission.waiting == 3)
        assert gate.endpoint.admission.taken == 2
        gate.open()
        for one in streams:
            assert (await answer_of(one))[:2] == (200, 2.0)
        await gate.at_rest()


async def test_an_answered_request_is_kept_by_nothing_until_its_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served_at(tmp_path, gated_spec(tmp_path, monkeypatch)) as found:
        gate = Gate(found, tmp_path)
        gate.open()
        gc.collect()
        gc.disable()
        try:
            for _ in range(3):
                assert (await answer_of(await gate.ask(1)))[0] == 200
            await eventually(
                lambda: not any(isinstance(one, GatheredRequest) for one in gc.get_objects())
            )
        finally:
            gc.enable()


async def test_a_deadline_that_no_caller_asked_for_is_the_models_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served_at(tmp_path, gated_spec(tmp_path, monkeypatch, seconds=0.1)) as found:
        gate = Gate(found, tmp_path)
        for named, no_fault in (({}, False), ({"X_Request_Timeout_Ms": "50"}, True)):
            status, _, headers = await answer_of(await gate.ask(1, **named))
            assert status == 504
            assert ("x-fairlead-no-fault" in headers) == no_fault
        await gate.at_rest()


async def test_a_run_is_wasted_if_its_client_leaves_before_its_answer_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served_at(tmp_path, gated_spec(tmp_path, monkeypatch)) as found:
        gate = Gate(found, tmp_path)
        gathering = found.running.app.gathering
        settled = gathering.settled

        def leaving(one: GatheredRequest) -> None:
            settled(one)
            one.set()  # as its connection does when it is closed

        monkeypatch.setattr(gathering, "settled", leaving)
        gate.open()
        status, _, _ = await answer_of(await gate.ask(1))
        assert status == 499
        assert gate.endpoint.wasted_seconds > 0
        await gate.at_rest()


async def test_a_server_whose_time_is_over_counts_who_has_not_asked_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = gated_spec(tmp_path, monkeypatch)
    async with served_at(tmp_path, spec, drain_seconds=0.05) as found:
        reader, writer = await asyncio.open_unix_connection(str(found.path))
        whole = Asked("POST", PREDICT, (("x-request-id", "r-1"),), (b'{"n": 1}',)).wire()
        writer.write(whole[:-2])
        tasks = found.running.app.gathering
        given_up: list[GatheredRequest] = []
        give_up = tasks.given_up

        def spy(one: GatheredRequest, error: Exception) -> None:
            given_up.append(one)
            give_up(one, error)

        monkeypatch.setattr(tasks, "given_up", spy)
        await eventually(lambda: any(isinstance(one, GatheredRequest) for one in gc.get_objects()))
        found.stop.set()
        status, headers, _ = await read_answer(reader)
        assert (status, headers["x-request-id"]) == (503, "r-1")
        writer.close()
        await found.task
        assert len(given_up) == 1
        hot = [route for route in found.running.plane.stats if route.endpoint]
        assert all(route.in_progress == 0 for route in hot)
        (endpoint,) = found.running.plane.endpoints()
        assert endpoint.executions.failed_seconds < 10
