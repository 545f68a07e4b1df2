"""The ASGI app over real models, without a network."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from fairlead.api.worker import ServedEndpoint, ServingSettings
from fairlead.dialects.oip_model import EXTENSIONS
from fairlead.domain.batching import Batching
from fairlead.domain.ids import RevisionId
from fairlead.domain.signature import DataType, element_schema
from support.models import echo_artifact, example, make_artifact, rebatched, scaled_artifact
from support.serving import InProcess, eventually, in_process

PREDICT = "/v1/model/scaled/predict"
INFER = "/v2/models/scaled/infer"
INSTANCES = {"instances": [[1, 2, 3]]}
INPUTS = {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]}
SCALED = RevisionId("scaled", "v9", "2")
EXTENSIONS_HERE = [
    name for name in EXTENSIONS if name != "model_repository"
]  # nobody may load or unload

WAITING = """
import asyncio
class Model:
    async def predict(self, request: float) -> str:
        await asyncio.sleep(request)
        return "done"
"""


@pytest_asyncio.fixture
async def scaled(tmp_path: Path) -> AsyncIterator[InProcess]:
    """`scaled` v9.2, two endpoints."""
    endpoints = (ServedEndpoint(), ServedEndpoint("stream", 1, ("/api/scale/stream",)))
    spec = scaled_artifact(tmp_path, version=5).spec(SCALED, endpoints=endpoints)
    async with in_process(spec) as running:
        yield running


async def samples(running: InProcess) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = (await running.client.get("/metrics")).text
    families = text_string_to_metric_families(text)  # type: ignore[no-untyped-call] # it ships no types
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def labels(
    revision: RevisionId, endpoint: str = "predict", **more: str
) -> frozenset[tuple[str, str]]:
    found = {
        "service": revision.service,
        "line": revision.line,
        "revision": revision.revision,
        "endpoint": endpoint,
        **more,
    }
    return frozenset(found.items())


async def test_both_dialects_answer_and_say_who_did(scaled: InProcess) -> None:
    answer = await scaled.client.post(PREDICT, json=INSTANCES)
    assert answer.json() == {"predictions": [[2.0, 4.0, 6.0]]}
    assert answer.headers["x-served-version"] == "v9.2"
    assert answer.headers["x-artifact-digest"] == scaled.artifacts[0].digest
    assert answer.headers["content-type"] == "application/json"
    for path in (INFER, "/v2/models/scaled/versions/5/infer"):
        answer = await scaled.client.post(path, json=INPUTS)
        assert answer.json()["outputs"][0]["data"] == [2.0, 4.0, 6.0]
        assert answer.json()["model_version"] == "5"
        assert answer.headers["x-served-version"] == "v9.2"


async def test_an_endpoints_own_paths_answer_too(scaled: InProcess) -> None:
    answer = await scaled.client.post("/api/scale/stream", json=INSTANCES)
    assert answer.json() == {"predictions": [[2.0, 4.0, 6.0]]}
    assert (await scaled.client.get("/api/scale/stream")).status_code == 405


async def test_a_binary_answer_says_where_its_json_ends(scaled: InProcess) -> None:
    answer = await scaled.client.post(
        INFER, json={**INPUTS, "parameters": {"binary_data_output": True}}
    )
    length = int(answer.headers["inference-header-content-length"])
    assert answer.headers["content-type"] == "application/octet-stream"
    assert json.loads(answer.content[:length])["outputs"][0]["parameters"] == {
        "binary_data_size": 12
    }
    assert len(answer.content) == length + 12


@pytest.mark.parametrize("sent", ["abc-1.2_3:4", "a" * 128])
async def test_a_sane_request_id_comes_back(scaled: InProcess, sent: str) -> None:
    for path in (PREDICT, "/livez", "/v2", "/nope"):
        answer = await scaled.client.post(path, json=INSTANCES, headers={"x-request-id": sent})
        assert answer.headers["x-request-id"] == sent


@pytest.mark.parametrize("sent", ["", "a b", "a" * 129, 'x"y', "ü"])
async def test_any_other_request_id_is_replaced(scaled: InProcess, sent: str) -> None:
    answers = [
        await scaled.client.post(
            PREDICT, json=INSTANCES, headers=[(b"x-request-id", sent.encode())]
        )
        for _ in range(2)
    ]
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert len({*ids, sent}) == 3


@pytest.mark.parametrize(
    ("method", "path", "status", "body"),
    [
        ("GET", "/v1/", 200, {"name": "fastapi-app-name"}),
        ("GET", "/v1/live", 200, {"live": True}),
        ("GET", "/v1/ready", 200, {"ready": True}),
        ("GET", "/livez", 200, {"live": True}),
        ("GET", "/healthz", 200, {"ready": True}),
        ("GET", "/v1/model/scaled/bio", 200, {"model_name": "scaled", "model_card": {"made": "here"}}),
        ("GET", "/v2/health/live", 200, {"live": True}),
        ("GET", "/v2/health/ready", 200, {"ready": True}),
        ("GET", "/v2/models/scaled/ready", 200, {"ready": True}),
        ("GET", "/v2/models/scaled/versions/5/ready", 200, {"ready": True}),
        ("GET", "/v1/model/nope/bio", 404, {"detail": "Request for unknown model: 'nope' is not found; models: scaled"}),
        ("GET", "/v2/models/nope", 404, {"error": "Request for unknown model: 'nope' is not found; models: scaled"}),
        ("GET", "/v2/models/scaled/versions/6", 404, {"error": "scaled has no version '6' here; versions: 5"}),
        ("POST", "/v2/models/nope/infer", 404, {"error": "Request for unknown model: 'nope' is not found; models: scaled"}),
        ("GET", "/nope", 404, {"detail": "nothing answers /nope"}),
        ("GET", PREDICT, 405, {"detail": "GET is not for this path; use POST"}),
        ("DELETE", INFER, 405, {"error": "DELETE is not for this path; use POST"}),
        ("POST", "/livez", 405, {"detail": "POST is not for this path; use GET"}),
        ("POST", "/v2", 405, {"error": "POST is not for this path; use GET"}),
        ("GET", "/v1%2Flive", 404, {"detail": "nothing answers /v1%2Flive"}),
        ("GET", "/v1/%6cive", 404, {"detail": "nothing answers /v1/%6cive"}),
        ("POST", "/v1/model/%73caled/predict", 404, {"detail": "nothing answers /v1/model/%73caled/predict"}),
    ],
)  # fmt: skip
async def test_every_other_path_has_its_answer_in_its_dialect(
    scaled: InProcess, method: str, path: str, status: int, body: Any
) -> None:
    answer = await scaled.client.request(method, path)
    assert answer.status_code == status
    assert answer.json() == body
    assert answer.headers["x-request-id"]


async def test_metadata_is_what_the_protocol_asks_for(scaled: InProcess) -> None:
    server = (await scaled.client.get("/v2")).json()
    assert server == {"name": "fairlead", "version": "0.1.0", "extensions": EXTENSIONS_HERE}
    model = await scaled.client.get("/v2/models/scaled")
    assert model.json() == {
        "name": "scaled",
        "versions": ["5"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 3]}],
    }
    assert model.headers["x-served-version"] == "v9.2"


@pytest.mark.parametrize(
    ("batching", "most", "dims"),
    [
        (Batching(), 64, [3]),  # in a turn of the event loop
        (Batching(max_batch_size=8), 8, [3]),
        (Batching(enabled=True, max_batch_size=16), 16, [3]),  # by a batcher
        (Batching(enabled=False), 0, [-1, 3]),
    ],
)
async def test_a_configuration_says_how_many_rows_share_a_run(
    tmp_path: Path, batching: Batching, most: int, dims: list[int]
) -> None:
    spec = rebatched(scaled_artifact(tmp_path), batching).spec(SCALED)
    async with in_process(spec) as running:
        told = (await running.client.get("/v2/models/scaled/config")).json()
    assert told["max_batch_size"] == most
    assert [one["dims"] for one in (*told["input"], *told["output"])] == [dims, dims]


async def test_nothing_is_ready_before_a_model_is(tmp_path: Path) -> None:
    del tmp_path
    async with in_process() as running:
        for path, status in (
            ("/livez", 200),
            ("/v1/live", 200),
            ("/v1/ready", 503),
            ("/healthz", 503),
        ):
            assert (await running.client.get(path)).status_code == status
        assert (await running.client.get("/v2/health/ready")).json() == {"ready": False}
        refused = await running.client.post(PREDICT, json=INSTANCES)
        assert refused.status_code == 503
        assert "not ready" in refused.json()["detail"]
        assert (await running.client.get("/internal/identity")).json()["ready"] is False


async def test_routes_can_be_switched_off(tmp_path: Path) -> None:
    settings = ServingSettings(
        api_version="",
        add_liveness=False,
        add_readiness=False,
        add_model_predict=False,
        add_model_bio=False,
    )
    async with in_process(scaled_artifact(tmp_path).spec(SCALED, settings=settings)) as running:
        for path in ("/live", "/ready", "/model/scaled/bio"):
            assert (await running.client.get(path)).status_code == 404
        assert (
            await running.client.post("/model/scaled/predict", json=INSTANCES)
        ).status_code == 404
        assert (await running.client.post(INFER, json=INPUTS)).status_code == 200
        assert (await running.client.get("/")).json() == {"name": "fastapi-app-name"}


async def test_the_documentation_needs_nobody_elses_server_and_asks_for_the_key(
    scaled: InProcess,
) -> None:
    page = (await scaled.client.get("/docs")).text
    assert "//cdn" not in page
    assert "https://" not in page.replace("https://fastapi.tiangolo.com", "")
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css"):
        assert f"/static-offline-docs/{asset}" in page
        assert (await scaled.client.get(f"/static-offline-docs/{asset}")).status_code == 200
    document = (await scaled.client.get("/openapi.json")).json()
    assert document["components"]["securitySchemes"]["ApiKey"]["name"] == "X-Api-Key"
    assert document["security"] == [{}, {"ApiKey": []}]  # it takes a key and needs none
    body = document["paths"][PREDICT]["post"]["requestBody"]["content"]["application/json"]
    element = element_schema(DataType.FP32)
    row = {"type": "array", "items": element, "minItems": 3, "maxItems": 3}
    assert body["schema"]["properties"]["instances"]["items"] == row
    assert body["example"] == {"instances": [[1.0, 2.0, 3.0]]}
    assert {INFER, "/api/scale/stream", "/v1/ready", "/livez"} <= set(document["paths"])
    assert {"/v2/models/{m}/config", "/v2/repository/index"} <= set(document["paths"])


async def test_a_document_models_own_schema_is_in_the_documentation(tmp_path: Path) -> None:
    async with in_process(echo_artifact(tmp_path).spec()) as running:
        document = (await running.client.get("/openapi.json")).json()
        schemas = document["components"]["schemas"]
        body = document["paths"]["/v1/model/echo/predict"]["post"]["requestBody"]
        reference = body["content"]["application/json"]["schema"]["$ref"]
        assert schemas[reference.rpartition("/")[2]]["properties"]["times"]["default"] == 1


async def test_a_document_model_answers_in_both_dialects(tmp_path: Path) -> None:
    async with in_process(echo_artifact(tmp_path).spec()) as running:
        answer = await running.client.post("/v1/model/echo/predict", json={"text": "a"})
        assert answer.json() == {"text": "a!"}
        texts = ['{"text": "b"}', '{"text": "c", "times": 2}']
        inputs = [{"name": "request", "shape": [2], "datatype": "BYTES", "data": texts}]
        answer = await running.client.post("/v2/models/echo/infer", json={"inputs": inputs})
        assert answer.json()["outputs"][0]["data"] == ['{"text":"b!"}', '{"text":"cc!"}']
        wrong = await running.client.post("/v1/model/echo/predict", json={"times": "x"})
        assert wrong.status_code == 422
        assert [detail["loc"] for detail in wrong.json()["detail"]] == [
            ["body", "text"],
            ["body", "times"],
        ]
        broken = await running.client.post("/v1/model/echo/predict", content=b'{"text": ')
        assert broken.json()["detail"][0]["type"] == "json_invalid"
        boom = await running.client.post("/v1/model/echo/predict", json={"text": "boom"})
        assert boom.status_code == 500
        assert "secret" not in boom.text
        inputs = [{"name": "request", "shape": [1], "datatype": "BYTES", "data": ["{}"]}]
        wrong = await running.client.post("/v2/models/echo/infer", json={"inputs": inputs})
        assert (wrong.status_code, wrong.json()) == (400, {"error": "text: Field required"})


@pytest.mark.parametrize(
    ("body", "at"), [(b"", 0), (b'{"text": [', 10), (b'{"text": x}', 9), (b'{\n"a":1,,}', 8)]
)
async def test_a_body_that_is_not_json_is_refused_alike_by_every_engine(
    tmp_path: Path, body: bytes, at: int
) -> None:
    echo = echo_artifact(tmp_path / "a").spec(RevisionId("echo", "v1", "1"))
    async with in_process(echo, scaled_artifact(tmp_path / "b").spec(SCALED)) as running:
        for name in ("echo", "scaled"):
            answer = await running.client.post(f"/v1/model/{name}/predict", content=body)
            assert answer.status_code == 422
            (detail,) = answer.json()["detail"]
            assert (detail["loc"], detail["type"]) == (["body", at], "json_invalid"), name
            assert detail["msg"].startswith("JSON decode error: "), name


async def test_two_models_and_two_versions_never_answer_or_count_for_each_other(
    tmp_path: Path,
) -> None:
    specs = []
    for service, line, revision, factor in (
        ("one", "v1", "9", 2.0), ("one", "v1", "10", 3.0), ("one", "v2", "1", 5.0), ("two", "v1", "1", 7.0),
    ):  # fmt: skip
        made = scaled_artifact(tmp_path / f"{service}{line}{revision}", factor, int(factor))
        specs.append(made.spec(RevisionId(service, line, revision)))
    asked = [
        ("one", None, 5.0, "v2.1"), ("one", "latest", 5.0, "v2.1"), ("one", "v1", 3.0, "v1.10"),
        ("one", "v1.9", 2.0, "v1.9"), ("two", None, 7.0, "v1.1"), ("two", "v1.1", 7.0, "v1.1"),
    ]  # fmt: skip
    async with in_process(*specs, versioned=True) as running:
        for service, version, factor, served in asked:
            headers = {"accept-version": version} if version else {}
            path = f"/v1/model/{service}/predict"
            answer = await running.client.post(
                path, json={"instances": [[1, 1, 1]]}, headers=headers
            )
            assert answer.json() == {"predictions": [[factor] * 3]}
            assert answer.headers["x-served-version"] == served
        for service, version, listed in (
            ("two", "v2", "v1.1"),
            ("one", "v1.8", "v1.9, v1.10, v2.1"),
        ):
            path = f"/v1/model/{service}/predict"
            answer = await running.client.post(
                path, json=INSTANCES, headers={"accept-version": version}
            )
            assert answer.status_code == 404
            assert answer.json() == {"detail": f"no version '{version}' here; versions: {listed}"}
        path = "/v2/models/one/versions/3/infer"
        assert (await running.client.post(path, json=INPUTS)).headers["x-served-version"] == "v1.10"
        conflict = await running.client.post(path, json=INPUTS, headers={"accept-version": "v2.1"})
        assert conflict.status_code == 400
        counted = await samples(running)
        for spec, expected in zip(specs, (1, 2, 2, 2), strict=True):
            assert counted["fairlead_requests_total", labels(spec.revision)] == expected


async def test_metrics_tell_requests_errors_and_time_by_endpoint_and_by_route(
    scaled: InProcess,
) -> None:
    for _ in range(3):
        await scaled.client.post(PREDICT, json=INSTANCES)
    await scaled.client.post(INFER, json=INPUTS)
    await scaled.client.post(PREDICT, content=b"{")
    await scaled.client.post("/api/scale/stream", json=INSTANCES)
    await scaled.client.get("/v1/model/scaled/bio")
    await scaled.client.get("/nope")
    answer = await scaled.client.get("/metrics")
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")
    found = await samples(scaled)
    assert found["fairlead_requests_total", labels(SCALED)] == 5
    assert found["fairlead_requests_total", labels(SCALED, "stream")] == 1
    assert found["fairlead_request_duration_seconds_count", labels(SCALED)] == 5
    assert found["fairlead_request_duration_seconds_bucket", labels(SCALED, le="+Inf")] == 5
    assert 0 < found["fairlead_request_duration_seconds_sum", labels(SCALED)] < 5
    assert found["fairlead_errors_total", labels(SCALED, kind="schema")] == 1
    assert found["fairlead_requests_in_progress", labels(SCALED)] == 0
    app = {"app_name": "fastapi-app-name", "pod_name": "unknown_pod"}
    route = {"method": "POST", "path": "/v1/model/{m}/predict", **app}
    assert found["fastapi_requests_total", frozenset(route.items())] == 4
    status = frozenset({**route, "status_code": "422"}.items())
    assert found["fastapi_responses_total", status] == 1
    bio = {"method": "GET", "path": "/v1/model/{m}/bio", **app}
    assert found["fastapi_requests_total", frozenset(bio.items())] == 1
    assert found["fastapi_app_info", frozenset(app.items())] == 1
    assert not any(("path", "/nope") in key for _, key in found)


async def test_a_body_over_the_limit_is_refused_in_the_dialects_shape(tmp_path: Path) -> None:
    settings = ServingSettings(body_limit_bytes=100)
    async with in_process(scaled_artifact(tmp_path).spec(SCALED, settings=settings)) as running:

        async def stream() -> AsyncIterator[bytes]:
            for _ in range(50):
                yield b" " * 10

        for path, key in ((PREDICT, "detail"), (INFER, "error")):
            for content in (b" " * 101, stream()):
                answer = await running.client.post(path, content=content)
                assert answer.status_code == 413
                assert answer.json() == {
                    key: "the body is larger than 100 bytes; send less at once"
                }
        assert (await running.client.post(PREDICT, json=INSTANCES)).status_code == 200


async def test_a_full_queue_and_a_missed_deadline_are_answered(tmp_path: Path) -> None:
    made = make_artifact(tmp_path, {"model.py": WAITING}, [example(0, "done")])
    spec = made.spec(RevisionId("slow", "v1", "1"), endpoints=(ServedEndpoint(concurrency=1),))
    path = "/v1/model/slow/predict"
    async with in_process(spec) as running:
        late = await running.client.post(
            path, content=b"5", headers={"x-envoy-expected-rq-timeout-ms": "50"}
        )
        assert late.status_code == 504
        assert late.json() == {"detail": "no answer within 0.05 s"}
        endpoint = running.plane.endpoints()[0]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(running.client.post(path, content=b"5")) for _ in range(11)]
            await eventually(lambda: endpoint.admission.waiting == 10)
            refused = await running.client.post(path, content=b"0")
            assert refused.status_code == 503
            assert refused.json() == {"detail": "pending request queue full"}
            for task in tasks:
                task.cancel()
        found = await samples(running)
        revision = RevisionId("slow", "v1", "1")
        assert found["fairlead_errors_total", labels(revision, kind="overloaded")] == 1
        assert found["fairlead_errors_total", labels(revision, kind="deadline")] == 1
        assert found["fairlead_requests_in_progress", labels(revision)] == 0
        assert (endpoint.admission.taken, endpoint.admission.waiting) == (0, 0)


async def test_ready_may_ask_the_model(tmp_path: Path) -> None:
    settings = ServingSettings(readiness_sample_inference=True, liveness_sample_inference=True)
    async with in_process(scaled_artifact(tmp_path).spec(SCALED, settings=settings)) as running:
        assert (await running.client.get("/v1/ready")).status_code == 200
        running.artifacts[0].sample.tensors = {}
        assert (await running.client.get("/v1/ready")).status_code == 503
        assert (await running.client.get("/v1/live")).status_code == 503


async def test_an_access_line_is_written_when_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "fairlead.access")
    settings = ServingSettings(access_log=True)
    async with in_process(scaled_artifact(tmp_path).spec(SCALED, settings=settings)) as running:
        for path, status in ((PREDICT, 200), ("/nope", 404), (INFER, 400)):
            await running.client.post(path, json=INSTANCES, headers={"x-request-id": "r-1"})
            record = caplog.records[-1]
            assert record.name == "fairlead.access"
            found = {
                key: record.__dict__[key] for key in ("request_line", "status_code", "request_id")
            }
            line = f"POST {path} HTTP/1.1"
            assert found == {"request_line": line, "status_code": status, "request_id": "r-1"}
            assert record.__dict__["status_phrase"]
