"""`fairlead serve`: the stand-alone server on TCP, and what it tells the person who starts it."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from fairlead.api.oip_messages import message
from fairlead.api.worker import WorkerSpec
from fairlead.domain.ids import RevisionId
from support.grpc_calls import aio_channel, call
from support.models import echo_artifact, example, make_artifact, scaled_artifact
from support.plain import NO_TLS
from support.serving import eventually

pytestmark = pytest.mark.timeout(120)

PREDICT = "/v1/model/scaled/predict"

STANDALONE = """
import asyncio, sys, uvloop
from pathlib import Path
from fairlead.api.worker import WorkerSpec
from fairlead.kits.clock import SystemClock
from fairlead.server.standalone import Standalone, run_standalone
specs = [WorkerSpec.from_json(Path(name).read_bytes()) for name in sys.argv[3:]]
options = Standalone(http_port=int(sys.argv[1]), workers=int(sys.argv[2]))
sys.exit(uvloop.run(run_standalone(specs, options, SystemClock())))
"""


async def _standalone(port: int, workers: int, specs: list[Path]) -> asyncio.subprocess.Process:
    arguments = [str(port), str(workers), *map(str, specs)]
    return await asyncio.create_subprocess_exec(sys.executable, "-c", STANDALONE, *arguments)


def _written(directory: Path, *specs: WorkerSpec) -> list[Path]:
    paths = [directory / f"{number}.json" for number in range(len(specs))]
    for path, spec in zip(paths, specs, strict=True):
        path.write_text(spec.to_json())
    return paths


@pytest.mark.enable_socket
@pytest.mark.parametrize("workers", [1, 2])
async def test_the_stand_alone_server_serves_several_artifacts_and_ends_cleanly(
    tmp_path: Path, unused_tcp_port: int, workers: int
) -> None:
    specs = _written(
        tmp_path,
        scaled_artifact(tmp_path / "a", 2.0).spec(RevisionId("scaled", "v1", "1")),
        scaled_artifact(tmp_path / "b", 3.0, version=2).spec(RevisionId("scaled", "v1", "2")),
        echo_artifact(tmp_path / "c").spec(),
    )
    process = await _standalone(unused_tcp_port, workers, specs)
    url = f"http://127.0.0.1:{unused_tcp_port}"
    pids: set[int] = set()

    async def asked(path: str) -> Any:
        async with httpx.AsyncClient(
            base_url=url, timeout=40, verify=NO_TLS
        ) as client:  # a connection each: the kernel spreads them
            try:
                return (await client.get(path)).json()
            except httpx.TransportError:
                return {}

    async def all_ready() -> bool:
        found = await asked("/internal/identity")
        if found.get("ready"):
            pids.add(found["pid"])
        return len(pids) == workers

    try:
        await eventually(all_ready, 30)
        async with httpx.AsyncClient(base_url=url, timeout=40, verify=NO_TLS) as client:
            for version, factor in (("v1.1", 2.0), ("v1.2", 3.0), ("v1", 3.0), ("latest", 3.0)):
                headers = {"accept-version": version}
                answer = await client.post(
                    PREDICT, json={"instances": [[1, 1, 1]]}, headers=headers
                )
                assert answer.json() == {"predictions": [[factor] * 3]}
            answer = await client.post("/v1/model/echo/predict", json={"text": "a"})
            assert answer.json() == {"text": "a!"}
            assert (await client.get("/v2/models/scaled")).json()["versions"] == ["1", "2"]
        process.terminate()
        async with asyncio.timeout(15):
            assert await process.wait() == 0
        assert await asked("/livez") == {}
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def _folder(directory: Path) -> Path:
    """What a user writes: a model that adds one."""
    directory.mkdir()
    (directory / "model.yaml").write_text("name: more\nversion: 1\nengine: python\n")
    (directory / "model.py").write_text(
        "class Model:\n    def predict(self, request: int) -> int:\n        return request + 1\n"
    )
    (directory / "golden.json").write_text(json.dumps({"examples": [example(1, 2)]}))
    return directory


async def _serve(folder: Path, port: int, workers: int) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "fairlead", "serve", str(folder)),
        *("--port", str(port), "--workers", str(workers)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@pytest.mark.enable_socket
@pytest.mark.slow
async def test_every_worker_answers_grpc_where_a_port_for_it_is_named(
    tmp_path: Path, unused_tcp_port_factory: Any
) -> None:
    http_port, grpc_port = unused_tcp_port_factory(), unused_tcp_port_factory()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "fairlead", "serve", str(_folder(tmp_path / "more"))),
        *("--port", str(http_port), "--grpc-port", str(grpc_port), "--workers", "2"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    asked = message("ModelInferRequest")(model_name="more")
    given = asked.inputs.add(name="request", datatype="BYTES", shape=[2])
    given.contents.bytes_contents.extend([b"1", b"41"])
    try:
        async with aio_channel(grpc_port) as channel:

            async def answered() -> list[bytes]:
                try:
                    answer = await call(channel, "ModelInfer")(asked, timeout=5)
                except grpc.aio.AioRpcError:
                    return []
                return list(answer.outputs[0].contents.bytes_contents)

            await eventually(answered, 60)
            assert await answered() == [b"2", b"42"]
        process.terminate()
        async with asyncio.timeout(30):
            await process.communicate()
        assert process.returncode == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


@pytest.mark.enable_socket
@pytest.mark.parametrize("workers", [1, 2])
async def test_a_busy_port_is_one_plain_line_to_who_serves(
    tmp_path: Path, unused_tcp_port: int, workers: int
) -> None:
    folder = _folder(tmp_path / "more")
    holder = await asyncio.start_server(
        lambda _, writer: writer.close(), "127.0.0.1", unused_tcp_port
    )
    async with holder:
        process = await _serve(folder, unused_tcp_port, workers)
        async with asyncio.timeout(30):
            _, errors = await process.communicate()
    assert process.returncode == 1
    lines = errors.decode().splitlines()
    assert lines[-1] == (
        f"error[conflict]: 127.0.0.1:{unused_tcp_port} cannot be listened on: Address already in use; "
        "choose another host or port"
    )
    assert not [line for line in lines if line.startswith("{")]


@pytest.mark.enable_socket
@pytest.mark.parametrize("workers", [1, 2])
async def test_access_lines_are_on_standard_output_and_the_log_on_standard_error(
    tmp_path: Path, unused_tcp_port: int, workers: int
) -> None:
    process = await _serve(_folder(tmp_path / "more"), unused_tcp_port, workers)
    url = f"http://127.0.0.1:{unused_tcp_port}"

    async def ready() -> bool:
        try:
            return (await client.get("/v2/health/ready")).status_code == 200
        except httpx.TransportError:
            return False

    try:
        async with httpx.AsyncClient(base_url=url, timeout=40, verify=NO_TLS) as client:
            await eventually(ready, 30)
            answer = await client.post("/v1/model/more/predict", content=b"1")
            assert answer.text == "2"
        process.terminate()
        async with asyncio.timeout(20):
            output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0
    accesses = [json.loads(line) for line in output.splitlines()]
    assert {line["name"] for line in accesses} == {"fairlead.access"}
    last = accesses[-1]
    assert (last["request_line"], last["status_code"], last["status_phrase"]) == (
        "POST /v1/model/more/predict HTTP/1.1",
        200,
        "OK",
    )
    events = [json.loads(line) for line in errors.splitlines() if line.startswith(b"{")]
    assert not [line for line in events if line["name"] in ("fairlead.access", "uvicorn.error")]
    assert f"listening on {url}" in [line["message"] for line in events]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.enable_socket
async def test_a_revision_that_cannot_be_served_is_named_to_who_serves(
    tmp_path: Path, unused_tcp_port: int, workers: int
) -> None:
    code = "class Model:\n    def predict(self, request: int) -> int:\n        return 1\n"
    made = make_artifact(tmp_path / "a", {"model.py": code}, [example(1, 2)])
    (spec,) = _written(tmp_path, made.spec(RevisionId("wrong", "v1", "1")))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", STANDALONE, str(unused_tcp_port), str(workers), str(spec)),
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(30):
        _, errors = await process.communicate()
    assert process.returncode == 1
    assert "wrong/v1.1 is not served: golden example 1" in errors.decode()


@pytest.mark.enable_socket
@pytest.mark.slow
async def test_a_worker_whose_model_exits_is_replaced_whatever_code_it_gives(
    tmp_path: Path, unused_tcp_port: int
) -> None:
    folder = _folder(tmp_path / "more")
    (folder / "model.py").write_text(
        "import os\n\n\nclass Model:\n    def predict(self, request: int) -> int:\n"
        "        if request > 100:\n            os._exit(request - 100)\n        return request + 1\n"
    )
    process = await _serve(folder, unused_tcp_port, 2)

    async def asked(number: int) -> str:
        url = f"http://127.0.0.1:{unused_tcp_port}/v1/model/more/predict"
        try:
            async with httpx.AsyncClient(timeout=40, verify=NO_TLS) as client:
                return (await client.post(url, content=str(number))).text
        except httpx.TransportError:
            return ""

    async def ready() -> bool:
        return await asked(1) == "2"

    try:
        await eventually(ready, 30)
        for code in (1, 3):  # what a refusal once was

            async def ended(number: int = 100 + code) -> bool:
                return await asked(number) == ""  # a new worker says 503 until it has loaded

            await eventually(ended, 30)
            await eventually(ready, 30)
        assert process.returncode is None
        process.terminate()
        async with asyncio.timeout(20):
            _, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0
    assert b"ended (exit code 3); a new one is started" in errors
