"""What would hold up the event loop is done beside it: whatever a caller says of its body, and whichever way it came."""

from __future__ import annotations

import asyncio
import json
import struct
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from onnx import helper

from fairlead.api.inference import InferRequest, InferResponse
from fairlead.api.worker import ServingSettings
from fairlead.domain.ids import RevisionId
from fairlead.server.http.aside import Aside
from fairlead.server.http.handlers import Answer, Handler, Headers
from fairlead.server.http.quick import QuickRequest
from fairlead.server.http.wave import Wave
from support.asked import Asked, Served, by_asgi, read_answer, served_at
from support.models import (
    BOOL,
    FLOAT,
    STRING,
    example,
    identity,
    make_artifact,
    onnx_bytes,
    scaled_artifact,
)
from support.serving import eventually
from support.waves import Caller, Ticks

ID = RevisionId("m", "v1", "1")
LENGTH = b"inference-header-content-length"


class Watched:
    """A handler that notes in which threads it works."""

    def __init__(self, inner: Handler) -> None:
        self._inner = inner
        self.splits = inner.splits
        self.decoded: list[str] = []
        self.encoded: list[str] = []

    def decode(self, body: bytes, headers: Headers) -> tuple[Sequence[InferRequest], Any]:
        self.decoded.append(threading.current_thread().name)
        return self._inner.decode(body, headers)

    def encode(self, call: Any, responses: Sequence[InferResponse]) -> Answer:
        self.encoded.append(threading.current_thread().name)
        return self._inner.encode(call, responses)

    def parsed(self, body: bytes, headers: Headers) -> int:
        return self._inner.parsed(body, headers)

    def elements(self, call: Any, responses: Sequence[InferResponse]) -> int:
        return self._inner.elements(call, responses)


def watch(found: Served, target: str) -> Watched:
    hot = found.running.app.hot_path(target.encode())
    assert hot is not None
    route = hot.choose({})
    route.handler = watched = Watched(route.handler)
    return watched


def binary(
    datatype: str, count: int, raw: bytes, outputs: list[dict[str, Any]] | None = None
) -> tuple[bytes, Mapping[str, str]]:
    """A body whose only input is bytes behind the JSON, and its headers."""
    given = {"name": "x", "shape": [count], "datatype": datatype}
    given["parameters"] = {"binary_data_size": len(raw)}
    text = json.dumps({"inputs": [given], "outputs": outputs or [{"name": "y"}]}).encode()
    return text + raw, {LENGTH.decode(): str(len(text))}


async def ask(found: Served, target: str, body: bytes, headers: Mapping[str, str]) -> Any:
    answer = await found.running.client.post(target, content=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer


async def test_a_length_of_json_that_is_not_so_keeps_no_large_body_on_the_event_loop(
    tmp_path: Path,
) -> None:
    spec = scaled_artifact(tmp_path / "m").spec(ID)
    body = json.dumps({"instances": [[1.5, 2.5, 3.5]] * 8000}).encode()
    async with served_at(tmp_path, spec) as found:
        watched = watch(found, "/v1/model/m/predict")
        await ask(found, "/v1/model/m/predict", body, {LENGTH.decode(): "0"})
    assert watched.decoded == ["codec-1"]


@pytest.mark.parametrize(
    ("kind", "datatype", "raw", "aside"),
    [
        (STRING, "BYTES", struct.pack("<Ic", 1, b"a") * 20_000, True),
        (BOOL, "BOOL", bytes(100_000), True),
        (FLOAT, "FP32", bytes(400_000), False),
    ],
)
async def test_bytes_that_are_looked_at_one_by_one_are_read_beside_the_event_loop(
    tmp_path: Path, kind: int, datatype: str, raw: bytes, aside: bool
) -> None:
    value: Any = {"BYTES": "a", "BOOL": True, "FP32": 1.0}[datatype]
    made = make_artifact(
        tmp_path / "m",
        {"model.onnx": identity(kind, ["n"])},
        [example({"x": [value]}, {"y": [value]})],
    )
    count = {"BYTES": 20_000, "BOOL": 100_000, "FP32": 100_000}[datatype]
    wanted = [{"name": "y", "parameters": {"binary_data": True}}]
    async with served_at(tmp_path, made.spec(ID)) as found:
        watched = watch(found, "/v2/models/m/infer")
        answer = await ask(found, "/v2/models/m/infer", *binary(datatype, count, raw, wanted))
    assert answer.content.endswith(raw)
    assert (watched.decoded == ["codec-1"]) == aside


async def test_the_highest_of_many_elements_are_found_beside_the_event_loop(
    tmp_path: Path,
) -> None:
    made = make_artifact(
        tmp_path / "m",
        {"model.onnx": identity(FLOAT, ["n"])},
        [example({"x": [1.0]}, {"y": [1.0]})],
    )
    raw = struct.pack("<20000f", *range(20_000))
    wanted = [{"name": "y", "parameters": {"binary_data": True, "classification": 1}}]
    async with served_at(tmp_path, made.spec(ID)) as found:
        watched = watch(found, "/v2/models/m/infer")
        answer = await ask(found, "/v2/models/m/infer", *binary("FP32", 20_000, raw, wanted))
    assert answer.content.endswith(b"19999.000000:19999")
    assert watched.encoded == ["codec-1"]


@pytest.mark.parametrize(
    ("rows", "columns", "classes", "aside"),
    [(1, 1000, 5, False), (1, 1000, 1000, True), (300, 1, 1, True), (60, 1, 1, False)],
)
@pytest.mark.parametrize("lane", ["", "?asgi"])
async def test_many_classes_are_written_beside_the_event_loop(
    tmp_path: Path, lane: str, rows: int, columns: int, classes: int, aside: bool
) -> None:
    values = [[float(column) for column in range(columns)]] * rows
    made = make_artifact(
        tmp_path / "m",
        {"model.onnx": identity(FLOAT, ["n", "m"])},
        [example({"x": values}, {"y": values})],
    )
    given = {"name": "x", "shape": [rows, columns], "datatype": "FP32", "data": values}
    wanted = [{"name": "y", "parameters": {"classification": classes}}]
    body = json.dumps({"inputs": [given], "outputs": wanted}).encode()
    async with served_at(tmp_path, made.spec(ID)) as found:
        watched = watch(found, "/v2/models/m/infer")
        reader, writer = await asyncio.open_unix_connection(str(found.path))
        writer.write(Asked("POST", f"/v2/models/m/infer{lane}", (), (body,)).wire())
        status, _, answered = await read_answer(reader)
        writer.close()
    (output,) = json.loads(answered)["outputs"]
    assert (status, output["shape"]) == (200, [rows, classes])
    assert output["data"][0] == f"{columns - 1:f}:{columns - 1}"
    assert watched.encoded == (["codec-1"] if aside else ["MainThread"])


def counting(directory: Path) -> Any:
    """`x`, a number, to all whole numbers below it: its answers are as large as one asks for."""
    nodes = [
        helper.make_node("Constant", [], ["zero"], value_float=0.0),
        helper.make_node("Constant", [], ["one"], value_float=1.0),
        helper.make_node("Range", ["zero", "x", "one"], ["y"]),
    ]
    model = onnx_bytes([("x", FLOAT, [])], [("y", FLOAT, ["n"])], nodes)
    golden = [example({"x": 2.0}, {"y": [0.0, 1.0]})]
    return make_artifact(directory, {"model.onnx": model}, golden)


def counted(number: int) -> Asked:
    given = {"name": "x", "shape": [], "datatype": "FP32", "data": [number]}
    return Asked("POST", "/v2/models/m/infer", (), (json.dumps({"inputs": [given]}).encode(),))


async def test_a_quick_models_large_answer_is_written_beside_the_event_loop(
    tmp_path: Path,
) -> None:
    async with served_at(tmp_path, counting(tmp_path / "m").spec(ID)) as found:
        (artifact,) = found.running.artifacts
        assert artifact.profile.inline
        expected = (await by_asgi(found.running, counted(20_000)))[3]
        watched = watch(found, "/v2/models/m/infer")
        reader, writer = await asyncio.open_unix_connection(str(found.path))
        for number in (2, 20_000, 3, 20_000):  # the second time the head is known
            writer.write(counted(number).wire())
            status, _, body = await read_answer(reader)
            assert status == 200
            if number == 20_000:
                assert body == expected
        writer.close()
        assert (await by_asgi(found.running, counted(20_000)))[3] == expected
        assert watched.encoded == ["MainThread", "codec-1", "MainThread", "codec-1", "codec-1"]
        (endpoint,) = found.running.plane.endpoints()
        assert endpoint.executions.requests == 6
        assert all(route.in_progress == 0 for route in found.running.plane.stats)


async def test_a_large_answer_that_is_written_too_late_is_not_sent(tmp_path: Path) -> None:
    async with served_at(tmp_path, counting(tmp_path / "m").spec(ID)) as found:
        hot = found.running.app.hot_path(b"/v2/models/m/infer")
        assert hot is not None
        answers = []
        for seconds in (
            7,
            60,
        ):  # it is run in the fourth of Ticks' seconds, and written after the eighth
            caller, wave = Caller(), Wave(Ticks(), Aside(), access_log=False)
            headers = {b"x-request-timeout-ms": b"%d" % (seconds * 1000)}
            one = QuickRequest(wave, caller, hot.choose({}), b"/", headers.items(), headers)
            one.body = counted(20_000).body[0]
            wave.add(one, asyncio.get_running_loop())
            await eventually(lambda: bool(caller.answers))  # noqa: B023 - it ends in this turn
            answers += caller.answers
        assert [answer[:12] for answer in answers] == [b"HTTP/1.1 504", b"HTTP/1.1 200"]
        assert all(route.in_progress == 0 for route in found.running.plane.stats)


@pytest.mark.parametrize("width", [3, 5000])
async def test_a_body_up_to_the_limit_is_answered_and_a_longer_one_refused_whichever_lane_it_takes(
    tmp_path: Path, width: int
) -> None:
    """Of a model whose examples are large, bodies far beyond what a head may have are quick."""
    values = [1.5] * width
    made = make_artifact(
        tmp_path / "m",
        {"model.onnx": identity(FLOAT, ["n", width])},
        [example({"x": [values]}, {"y": [values]})],
    )
    body = json.dumps({"instances": [values] * 3}).encode()
    for limit, expected in ((len(body), 200), (len(body) - 1, 413)):
        directory = tmp_path / str(limit)
        directory.mkdir()
        settings = ServingSettings(body_limit_bytes=limit)
        async with served_at(directory, made.spec(ID, settings=settings)) as found:
            (endpoint,) = found.running.plane.endpoints()
            assert endpoint.may_be_quick(len(body))
            one = Asked("POST", "/v1/model/m/predict", (), (body,))
            reader, writer = await asyncio.open_unix_connection(str(found.path))
            for _ in range(2):
                writer.write(one.wire())
                status, _, answered = await read_answer(reader)
                assert (status, answered) == (expected, (await by_asgi(found.running, one))[3])
            writer.close()


async def test_who_waits_for_the_codec_longer_than_it_may_is_told_so(tmp_path: Path) -> None:
    spec = scaled_artifact(tmp_path / "m").spec(ID)
    body = json.dumps({"instances": [[1.5, 2.5, 3.5]] * 8000}).encode()
    may_end = threading.Event()
    async with served_at(tmp_path, spec) as found:
        found.running.app.aside.submit(lambda: may_end.wait(20))
        headers = {"x-request-timeout-ms": "30"}
        late = await found.running.client.post("/v1/model/m/predict", content=body, headers=headers)
        may_end.set()
        assert (late.status_code, late.json()) == (504, {"detail": "no answer within 0.03 s"})
        await ask(found, "/v1/model/m/predict", body, {})
        assert found.running.app.bodies.held == 0
