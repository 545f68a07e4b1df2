"""Open Inference clients nobody here wrote, unchanged: tritonclient over HTTP, sync and asyncio.

What its own example programs do and look for is asked here of `fairlead serve` and, with a key, of the gateway.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

from support.oip import DIFFERENCES, MODELS, ROW, SUMS, served, write_models, write_releases
from support.plain import NO_TLS
from support.running import Fairlead, fairlead

pytestmark = pytest.mark.timeout(120)
ARANGE = np.array([ROW], np.int32)
ONES = np.ones((1, 16), np.int32)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(tmp_path_factory.mktemp("oip")) as found:
        yield found


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[triton.InferenceServerClient]:
    found = triton.InferenceServerClient(address, concurrency=4)
    yield found
    found.close()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fairlead]:
    directory = tmp_path_factory.mktemp("gateway")
    write_models(directory / "models")
    files = [str(path) for path in write_releases(directory)]
    with fairlead(directory, *files, "--models", str(directory / "models")) as running:
        yield running


def given(first: Any = ARANGE, second: Any = ONES, kind: str = "INT32") -> list[Any]:
    """The two inputs: one as JSON, one as bytes."""
    inputs = [triton.InferInput(f"INPUT{number}", [1, 16], kind) for number in (0, 1)]
    inputs[0].set_data_from_numpy(first, binary_data=False)
    inputs[1].set_data_from_numpy(second, binary_data=True)
    return inputs


def wanted() -> list[Any]:
    return [
        triton.InferRequestedOutput("OUTPUT0", binary_data=True),
        triton.InferRequestedOutput("OUTPUT1", binary_data=False),
    ]


def right(answer: Any) -> bool:
    first, second = (answer.as_numpy(f"OUTPUT{number}").tolist() for number in (0, 1))
    return bool(first == [SUMS] and second == [DIFFERENCES])


def test_health_and_metadata(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live(query_params={"test_1": 1, "test_2": 2})
    assert client.is_server_ready()
    assert client.is_model_ready("simple")
    assert client.is_model_ready("simple", "1")
    assert not client.is_model_ready("simple", "2")
    server = client.get_server_metadata()
    assert server["name"] == "fairlead"
    assert set(server["extensions"]) >= {"binary_tensor_data", "statistics", "model_repository"}
    model = client.get_model_metadata("simple", query_params={"test_1": 1})
    assert model["name"] == "simple"
    assert model["versions"] == ["1"]
    assert model["inputs"][0] == {"name": "INPUT0", "datatype": "INT32", "shape": [-1, 16]}
    with pytest.raises(InferenceServerException, match="Request for unknown model"):
        client.get_model_metadata("wrong_model_name")
    config = client.get_model_config("simple", "1")
    assert config["input"][1]["data_type"] == "TYPE_INT32"
    assert client.get_model_config("simple-string")["output"][0]["data_type"] == "TYPE_STRING"


@pytest.mark.parametrize("response", [None, "gzip", "deflate"])
@pytest.mark.parametrize("request_", [None, "gzip", "deflate"])
def test_infer_with_json_and_bytes_and_every_compression(
    client: triton.InferenceServerClient, request_: str | None, response: str | None
) -> None:
    how = {
        "request_compression_algorithm": request_,
        "response_compression_algorithm": response,
        "query_params": {"test_1": 1},
        "headers": {"test": "1"},
    }
    answer = client.infer("simple", given(), outputs=wanted(), request_id="42", **how)
    assert right(answer)
    assert answer.get_response()["id"] == "42"
    assert right(client.infer("simple", given(), model_version="1", **how))


def test_a_wrong_name_or_version_is_said_in_the_words_clients_look_for(
    client: triton.InferenceServerClient,
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        client.infer("wrong_model_name", given())
    assert caught.value.message().startswith("Request for unknown model")
    with pytest.raises(InferenceServerException, match="no version '7' here; versions: 1"):
        client.infer("simple", given(), model_version="7")


def test_texts_numbers_in_texts_and_null_bytes(client: triton.InferenceServerClient) -> None:
    texts = np.array([[str(one).encode() for one in ROW]], np.object_)
    ones = np.array([[b"1"] * 16], np.object_)
    answer = client.infer("simple-string", given(texts, ones, "BYTES"), outputs=wanted())
    assert [int(one) for one in answer.as_numpy("OUTPUT0")[0]] == SUMS
    assert [int(one) for one in answer.as_numpy("OUTPUT1")[0]] == DIFFERENCES
    for sent in (
        np.array([[b"he\x00llo"] * 16], np.object_),
        np.array([[b"\x00\x01\x02\x03"] * 16], np.bytes_),
    ):
        for binary in (True, False):
            asked = triton.InferInput("INPUT0", [1, 16], "BYTES")
            asked.set_data_from_numpy(sent, binary_data=binary)
            output = triton.InferRequestedOutput("OUTPUT0", binary_data=binary)
            found = client.infer("simple-identity", [asked], outputs=[output]).as_numpy("OUTPUT0")
            told = [one if isinstance(one, bytes) else one.encode() for one in found[0]]
            assert told == [bytes(one) for one in sent[0]]


@pytest.mark.parametrize("binary", [True, False])
def test_classes_come_with_their_labels(client: triton.InferenceServerClient, binary: bool) -> None:
    asked = triton.InferInput("x", [2, 3], "INT32")
    asked.set_data_from_numpy(np.array([[1, 3, 2], [9, 7, 8]], np.int32))
    output = triton.InferRequestedOutput("y", binary_data=binary, class_count=2)
    found = client.infer("classes", [asked], outputs=[output]).as_numpy("y")
    told = [[one.decode() if isinstance(one, bytes) else one for one in row] for row in found]
    assert told == [["3:1:dog", "2:2:eel"], ["9:0:cat", "8:2:eel"]]


@pytest.mark.parametrize("binary", [True, False])
def test_bf16_goes_both_ways(client: triton.InferenceServerClient, binary: bool) -> None:
    asked = triton.InferInput("x", [1, 2], "BF16")
    # float32 until the client's 2.72, ml_dtypes.bfloat16 from 2.73 on; and only bytes.
    asked.set_data_from_numpy(np.array([[1.5, -2.0]], triton_to_np_dtype("BF16")))
    output = triton.InferRequestedOutput("y", binary_data=binary)
    assert client.infer("bits", [asked], outputs=[output]).as_numpy("y").tolist() == [[3.0, -4.0]]


def test_many_at_once(client: triton.InferenceServerClient) -> None:
    asked = [client.async_infer("simple", given(), outputs=wanted()) for _ in range(20)]
    assert all(right(one.get_result()) for one in asked)


def test_the_statistics_count_what_was_asked(client: triton.InferenceServerClient) -> None:
    def counts() -> dict[str, Any]:
        (found,) = client.get_inference_statistics("classes")["model_stats"]
        return dict(found)

    before = counts()
    asked = triton.InferInput("x", [4, 3], "INT32")
    asked.set_data_from_numpy(np.zeros((4, 3), np.int32))
    for _ in range(3):
        client.infer("classes", [asked])
    with pytest.raises(InferenceServerException):
        client.infer("classes", given())
    after = counts()
    assert after["inference_count"] - before["inference_count"] == 12
    assert after["execution_count"] - before["execution_count"] == 3
    stats, old = after["inference_stats"], before["inference_stats"]
    assert stats["success"]["count"] - old["success"]["count"] == 3
    assert stats["fail"]["count"] - old["fail"]["count"] == 1
    parts = ("queue", "compute_input", "compute_infer", "compute_output")
    assert 0 < sum(stats[part]["ns"] for part in parts) <= stats["success"]["ns"]
    assert after["last_inference"] > 1.7e12
    sizes = {one["batch_size"]: one["compute_infer"]["count"] for one in after["batch_stats"]}
    assert sizes[4] >= 3
    everything = client.get_inference_statistics()["model_stats"]
    assert sorted(one["name"] for one in everything) == sorted(MODELS)


def raw(address: str, model: str, body: bytes, **headers: str) -> tuple[int, bytes]:
    """Triton's raw binary request: nothing but the bytes of the only input. Status, and the answer's bytes or words."""
    answer = httpx.post(
        f"http://{address}/v2/models/{model}/infer",
        content=body,
        headers={"Inference-Header-Content-Length": "0", **headers},
        verify=NO_TLS,
    )
    length = int(answer.headers.get("Inference-Header-Content-Length", "0"))
    return answer.status_code, answer.content[length:]


def test_a_body_may_be_the_only_input(address: str, gateway: Fairlead) -> None:
    row = np.array([1, 3, 2], np.int32).tobytes()
    for url, headers in ((address, {}), (f"127.0.0.1:{gateway.port}", {"X-Api-Key": gateway.key})):
        assert raw(url, "classes", row, **headers) == (200, row)
        assert raw(url, "classes", 40_000 * row, **headers) == (200, 40_000 * row)
        status, words = raw(url, "simple", row, **headers)
        assert status == 400
        assert b"is for models with one input and this one takes 'INPUT0', 'INPUT1'" in words


def test_models_are_unloaded_and_loaded_again(client: triton.InferenceServerClient) -> None:
    index = client.get_model_repository_index()
    assert {one["name"]: one["state"] for one in index} == dict.fromkeys(MODELS, "READY")
    client.load_model("simple-string")  # is loaded: nothing to do
    client.unload_model("simple-string")
    assert not client.is_model_ready("simple-string")
    with pytest.raises(InferenceServerException, match="has no available versions: unloaded"):
        client.infer("simple-string", given())
    gone = [one for one in client.get_model_repository_index() if one["state"] != "READY"]
    assert gone == [
        {"name": "simple-string", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"}
    ]
    assert right(client.infer("simple", given()))  # the others never noticed
    client.load_model("simple-string")
    assert client.is_model_ready("simple-string")
    with pytest.raises(InferenceServerException, match="failed to load"):
        client.load_model("wrong_model_name")
    with pytest.raises(InferenceServerException, match="failed to load 'simple': config"):
        client.load_model("simple", config='{"max_batch_size":"16"}')


def test_extensions_that_are_not_here_are_refused(client: triton.InferenceServerClient) -> None:
    for ask in (
        client.get_trace_settings,
        client.get_log_settings,
        client.get_system_shared_memory_status,
        client.get_cuda_shared_memory_status,
    ):
        with pytest.raises(InferenceServerException, match="is not served here; extensions: "):
            ask()
    with pytest.raises(InferenceServerException, match="sequences are not served"):
        client.infer("simple", given(), sequence_id=7, sequence_start=True)


async def test_the_asyncio_client_asks_the_same(address: str) -> None:
    async with triton_aio.InferenceServerClient(address) as client:
        assert await client.is_server_live()
        assert await client.is_model_ready("simple")
        assert (await client.get_model_config("simple"))["name"] == "simple"
        assert right(await client.infer("simple", given(), outputs=wanted()))
        answer = await client.infer(
            "simple",
            given(),
            request_compression_algorithm="gzip",
            response_compression_algorithm="deflate",
        )
        assert right(answer)
        stats = await client.get_inference_statistics("simple")
        assert len(stats["model_stats"]) == 1
        with pytest.raises(InferenceServerException, match="Request for unknown model"):
            await client.infer("wrong_model_name", given())


def test_the_same_client_through_the_gateway(gateway: Fairlead) -> None:
    client = triton.InferenceServerClient(f"127.0.0.1:{gateway.port}")
    key = {"X-Api-Key": gateway.key}
    assert client.is_server_ready()
    assert "model_repository" not in client.get_server_metadata()["extensions"]
    with pytest.raises(InferenceServerException, match="Request for unknown model"):
        client.get_model_metadata("wrong_model_name", headers=key)
    assert right(client.infer("simple", given(), outputs=wanted(), headers=key))
    packed = {"request_compression_algorithm": "gzip", "response_compression_algorithm": "gzip"}
    assert right(client.infer("simple", given(), headers=key, **packed))
    assert client.get_model_config("bits", headers=key)["input"][0]["data_type"] == "TYPE_BF16"
    index = client.get_model_repository_index(headers=key)
    assert {one["name"]: one["state"] for one in index} == dict.fromkeys(MODELS, "READY")
    (stats,) = client.get_inference_statistics("simple", headers=key)["model_stats"]
    assert stats["inference_count"] >= 2
    everything = client.get_inference_statistics(headers=key)["model_stats"]
    assert sorted(one["name"] for one in everything) == sorted(MODELS)
    counted = {one["name"]: (one["inference_count"], one["last_inference"]) for one in everything}
    assert counted["bits"] == (0, 0)  # which nobody has asked but the agent, to prove it
    for change in (client.load_model, client.unload_model):
        with pytest.raises(InferenceServerException, match="`fairlead kill`"):
            change("simple", headers=key)
    refused = gateway.ask("/v2/repository/models/simple/unload", {}, X_Request_Id="the-unloader-1")
    assert refused.status == 403
    told = gateway.cli("why", "the-unloader-1", "--home", str(gateway.home)).stdout
    assert "no key may load or unload" in told
    with pytest.raises(InferenceServerException, match="No API key found"):
        client.get_model_repository_index()
    told = gateway.cli("models", "show", "classes/1", "--home", str(gateway.home)).stdout
    assert "labels    y: cat, dog, eel\n" in told
    gateway.cli("kill", "bits", "--message", "not today", "--home", str(gateway.home))
    (off,) = [
        one
        for one in client.get_model_repository_index(headers=key)
        if one["state"] == "UNAVAILABLE"
    ]
    assert (off["name"], off["reason"]) == ("bits", "not today")
    client.close()
