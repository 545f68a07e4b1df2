"""The pages that belong to no service."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from fairlead.adapters.memory.envoy import MemoryEnvoy
from fairlead.domain.catalog import Kill, with_kill
from fairlead.domain.ids import ArtifactRef, EndpointId
from fairlead.domain.layout import Home
from fairlead.domain.manifest import Manifest, ManifestFile, manifest_to_bytes
from fairlead.domain.signature import (
    DataType,
    DocumentSignature,
    Signature,
    TensorSignature,
    TensorSpec,
    element_schema,
)
from fairlead.domain.status import NodeStatus, OpenSwitch, State
from fairlead.domain.table import RoutingTable, table_from
from fairlead.gateway.behind import Behind
from fairlead.gateway.front import Visit
from fairlead.gateway.health import Health
from fairlead.gateway.home import home_document, home_html
from fairlead.gateway.index import index
from fairlead.gateway.metrics import Metrics
from fairlead.gateway.openapi import openapi_document
from fairlead.gateway.settings import GatewaySettings
from fairlead.gateway.site import Site
from fairlead.gateway.state import View
from fairlead.kits.clock import FakeClock
from support.effort import PATIENCE
from support.gateway import DIGEST, Worker, catalog, revision

SETTINGS = GatewaySettings(version="1.2.3")
WANTED = catalog(
    revision("speech/v9.1"),
    revision("speech/v10.1"),
    traffic={"speech/v9": {"1": 100}, "speech/v10": {"1": 100}},
    pins={"speech": "v9"},
    keys={"demo": ("*",)},
)
TABLE = table_from(WANTED, WANTED.live(), {}, RoutingTable())
DOCUMENT = DocumentSignature(
    {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/A"}},
        "$defs": {"A": {"type": "string"}},
    },
    {"type": "object"},
)
TENSORS = TensorSignature(
    (TensorSpec("pixels", DataType.FP32, (-1, 64)),),
    (TensorSpec("label", DataType.BYTES, (-1,)), TensorSpec("odds", DataType.FP64, (-1, 10))),
)


class Place:
    """A home with short paths, a view and a clock."""

    def __init__(self, root: Path) -> None:
        self.home = Home(root, root)
        self.clock = FakeClock()
        self.view = View(index(TABLE), index(TABLE), WANTED)
        self.envoy = MemoryEnvoy()
        self.health = Health(self.view, self.clock)
        self.metrics = Metrics(self.home, self.envoy, self.view)
        self.site = Site(SETTINGS, self.home, self.view, self.health, self.metrics)

    async def get(self, page: str, path: str = "/", **headers: str) -> tuple[int, Any]:
        response = await self.site.pages()[page](Visit("GET", path, headers))
        body = bytes(getattr(response, "body", b"null"))
        is_json = response.headers["content-type"] == "application/json"
        return response.status_code, json.loads(body) if is_json else body.decode()

    @contextlib.asynccontextmanager
    async def workers(self) -> AsyncIterator[dict[str, Worker]]:
        """One ready worker for each revision, in the view and in the status."""
        there = {}
        for one in WANTED.live():
            worker = Worker(f"w-{one.line}", one, self.home.worker_socket(f"w-{one.line}"))
            await worker.start()
            there[one.line] = worker
        replicas = {worker.replica.revision: (worker.replica,) for worker in there.values()}
        self.view.behind = Behind(replicas)
        flat = tuple(worker.replica for worker in there.values())
        self.view.node = NodeStatus("node", self.clock.now(), 1, 1, flat)
        try:
            yield there
        finally:
            for worker in there.values():
                await worker.stop()


@pytest.fixture
def place() -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix="fl-") as directory:
        yield Place(Path(directory))


async def test_health_is_ok_when_every_live_revision_answers(place: Place) -> None:
    async with place.workers():
        assert await place.get("healthz") == (200, {"status": "ok"})
        assert await place.get("ready") == (200, {"ready": True})


async def test_health_asks_the_workers_themselves(place: Place) -> None:
    async with place.workers() as workers:
        await workers["v10"].stop()
        assert await place.get("healthz") == (
            503,
            {"status": "failing", "problems": ["speech/v10.1: no answer from w-v10"]},
        )
        assert await place.get("v2_ready") == (503, {"ready": False})
        assert await place.get("live") == (200, {"live": True})
        place.view.catalog = with_kill(WANTED, "speech", Kill("off", 0.0))
        assert (await place.get("healthz"))[0] == 200, "a service killed by hand is no failure"


async def test_health_asks_at_most_twice_a_second(place: Place) -> None:
    async with place.workers() as workers:
        for _ in range(5):
            await place.get("healthz")
        assert len(workers["v9"].seen) == 1
        place.clock.advance(0.6)
        await place.get("healthz")
        assert len(workers["v9"].seen) == 2


async def test_a_silent_agent_is_degraded_as_long_as_the_workers_answer(place: Place) -> None:
    async with place.workers():
        place.clock.advance(1.6)
        status, body = await place.get("healthz")
    assert (status, body["status"]) == (200, "degraded")
    assert body["warnings"] == ["the agent has been silent for 1.6 s"]


async def test_health_tells_strangers_how_far_things_are_and_never_why(place: Place) -> None:
    async with place.workers():
        node = place.view.node
        assert node is not None
        one = next(one for one in node.replicas if one.revision.line == "v10")
        broken = replace(one, state=State.FAILED, reason="/srv/secret/model.py: no such file")
        there = tuple(broken if replica is one else replica for replica in node.replicas)
        place.view.node = replace(node, replicas=there, problem="disk /srv/secret is full")
        place.view.note("store", "the store is away: /srv/secret/head")
        status, body = await place.get("healthz")
    assert status == 503
    assert body["problems"] == ["speech/v10.1 is not ready: failed; `fairlead status` says why"]
    assert len(body["warnings"]) == 2
    assert "secret" not in str(body)


async def test_health_tells_of_a_model_whose_runs_do_not_end(place: Place) -> None:
    async with place.workers():
        node = place.view.node
        assert node is not None
        one = next(one for one in node.replicas if one.revision.line == "v10")
        hung = replace(one, held_since=node.written_at - 41)
        there = tuple(hung if replica is one else replica for replica in node.replicas)
        place.view.node = replace(node, replicas=there)
        status, body = await place.get("healthz")
    assert status == 503
    (problem,) = body["problems"]
    assert "a run has gone on for 41 s; nobody else is answered" in problem


async def test_health_of_many_workers_is_as_quick_as_of_few(place: Place) -> None:
    one = next(iter(WANTED.live()))
    workers = [
        Worker(f"w{number}", one, place.home.worker_socket(f"w{number}")) for number in range(12)
    ]
    for worker in workers:
        await worker.start()
    replicas = tuple(worker.replica for worker in workers)
    place.view.behind = Behind({one: replicas})
    place.view.catalog = catalog(
        revision(str(one)),
        traffic={str(one.line_id): {one.revision: 100}},
        pins={"speech": one.line},
        keys={},
    )
    place.view.node = NodeStatus("node", place.clock.now(), 1, 1, replicas)
    try:
        async with asyncio.timeout(
            5 * PATIENCE
        ):  # where workers and gateway share one busy process, some are late
            while (found := await place.get("healthz")) != (200, {"status": "ok"}):
                assert found[1]["status"] != "ok"
                await asyncio.sleep(0.1)
    finally:
        for worker in workers:
            await worker.stop()


async def test_an_endpoint_that_is_switched_off_by_its_failures_is_a_failure(place: Place) -> None:
    endpoint = EndpointId("speech", "v9", "1")
    async with place.workers():
        place.view.switches = (OpenSwitch(endpoint, ("w-v9",), 2, 5.0, 65.0),)
        text = "speech/v9.1/predict is switched off after too many failures"
        partly = {"status": "degraded", "warnings": [f"{text}: 1 of 2 workers"]}
        assert await place.get("healthz") == (200, partly)
        place.view.switches = (OpenSwitch(endpoint, ("w-v9",), 1, 5.0, 65.0),)
        assert await place.get("healthz") == (503, {"status": "failing", "problems": [text]})


async def test_without_any_status_nothing_is_known_to_serve(place: Place) -> None:
    assert (await place.get("healthz"))[0] == 503


async def test_the_metrics_are_one_valid_exposition_without_the_agent(place: Place) -> None:
    place.envoy.numbers = {
        "http.ingress.downstream_rq_2xx": 7,
        "http.ingress.downstream_rq_active": 1,
        "cluster.speech/v9.1/predict@0123456789ab.upstream_rq_active": 2,
        "cluster.speech/v9.1/predict@ba9876543210.upstream_rq_active": 3,
    }
    place.view.envoy_up = True
    endpoint = EndpointId("speech", "v9", "1")
    place.view.switches = (OpenSwitch(endpoint, ("a", "b"), 2, 5.0, 65.0),)
    place.view.trips[endpoint] = 3
    text = (await place.metrics.exposition()).decode()
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
        for sample in family.samples
    }
    assert found["fairlead_gateway_requests_total", "2xx"] == 7
    assert found["fairlead_gateway_revision_requests_active", "speech", "v9", "1"] == 5
    assert found["fairlead_agent_up",] == 0
    switch = "fairlead_kill_switch"
    assert found[f"{switch}_open", "speech", "v9", "1", "predict"] == 1
    assert found[f"{switch}_open", "speech", "v10", "1", "predict"] == 0
    assert found[f"{switch}_workers_off", "speech", "v9", "1", "predict"] == 2
    assert found[f"{switch}_trips_total", "speech", "v9", "1", "predict"] == 3
    assert found["fairlead_gateway_envoy_up",] == 1


async def test_the_agents_metrics_follow_the_gateways_own(place: Place) -> None:
    text = b"# TYPE fairlead_worker_up gauge\nfairlead_worker_up 1\n# EOF\n"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(text), text))
        await writer.drain()
        writer.close()

    async with await asyncio.start_unix_server(serve, str(place.home.agent_socket)):
        merged = (await place.metrics.exposition()).decode()
    families = text_string_to_metric_families(merged)  # type: ignore[no-untyped-call]
    names = [family.name for family in families]
    assert {"fairlead_agent_up", "fairlead_worker_up"} <= set(names)
    assert merged.count("# EOF") == 1


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for one in value.values():
            yield from references(one)
    elif isinstance(value, list):
        for one in value:
            yield from references(one)


def manifest(signature: Signature) -> Manifest:
    files = (ManifestFile("golden.json", 2, "0" * 64), ManifestFile("model.onnx", 2, "0" * 64))
    return Manifest(ArtifactRef("speech", 1), "onnx", "model.onnx", files, signature, "golden.json")


@pytest.mark.parametrize("signature", [DOCUMENT, TENSORS])
def test_the_api_document_has_every_service_and_no_dangling_reference(signature: Signature) -> None:
    document = openapi_document(TABLE, lambda _: manifest(signature), SETTINGS)
    assert set(document["paths"]) == {
        *("/v1/model/speech/predict", "/v1/model/speech/bio", "/v2/models/speech"),
        *("/v2/models/speech/ready", "/v2/models/speech/infer"),
        *("/v2/models/speech/config", "/v2/models/speech/stats"),
        *("/v2/models/stats", "/v2/repository/index"),
    }
    schemas = document["components"]["schemas"]
    for reference in references(document):
        assert reference.removeprefix("#/components/schemas/") in schemas, reference
    predict = document["paths"]["/v1/model/speech/predict"]["post"]
    versions = next(one for one in predict["parameters"] if one["name"] == "Accept-Version")
    assert versions["schema"]["enum"] == ["latest", "v9", "v9.1", "v10", "v10.1"]
    assert predict["security"] == [{"key": []}]


def test_the_api_document_shows_a_models_rows() -> None:
    document = openapi_document(TABLE, lambda _: manifest(TENSORS), SETTINGS)
    predict = document["paths"]["/v1/model/speech/predict"]["post"]
    body = predict["requestBody"]["content"]["application/json"]["schema"]
    element = element_schema(DataType.FP32)
    row = {"type": "array", "items": element, "minItems": 64, "maxItems": 64}
    assert body["properties"]["instances"]["items"] == row
    answer = predict["responses"]["200"]["content"]["application/json"]["schema"]
    assert answer["properties"]["predictions"]["items"]["properties"]["label"] == {"type": "string"}


async def test_the_api_document_reads_the_manifests_on_this_node(place: Place) -> None:
    assert (await place.get("openapi"))[1]["components"]["schemas"].keys() == {
        "Error",
        "ModelError",
        "OpenInferenceError",
    }
    directory = place.home.artifact(DIGEST)
    directory.mkdir(parents=True)
    (directory / "manifest.json").write_bytes(manifest_to_bytes(manifest(DOCUMENT)))
    assert "speech.request" in (await place.get("openapi"))[1]["components"]["schemas"]


async def test_home_speaks_html_to_browsers_and_json_to_programs(place: Place) -> None:
    assert (await place.get("home", accept="text/html,*/*"))[1].startswith("<!doctype html>")
    assert (await place.get("home"))[1]["services"][0]["name"] == "speech"


def test_home_lists_lines_in_their_order_and_escapes_what_people_wrote() -> None:
    killed = with_kill(WANTED, "speech", Kill("<script>", 0.0))
    table = table_from(killed, killed.live(), {}, RoutingTable())
    page = home_html(table, SETTINGS)
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert page.index("<code>v9</code>") < page.index("<code>v10</code>")
    service = home_document(table, SETTINGS)["services"][0]
    assert (service["latest"], service["killed"]) == ("v9", "<script>")


async def test_the_docs_need_no_other_host(place: Place) -> None:
    page = (await place.get("docs"))[1]
    assert "http://" not in page
    assert "https://" not in page
    for name in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png"):
        assert name in page
        assert (await place.get("static", f"/static-offline-docs/{name}"))[0] == 200


@pytest.mark.parametrize("name", ["", "..", "../fastapi_offline.py", ".", "nothing.js", "a/b"])
async def test_nothing_but_the_docs_files_can_be_had(place: Place, name: str) -> None:
    assert (await place.get("static", f"/static-offline-docs/{name}"))[0] == 404


async def test_the_protocols_roots_answer_for_all(place: Place) -> None:
    assert await place.get("root") == (200, {"name": "fairlead"})
    assert (await place.get("v2"))[1]["version"] == "1.2.3"
    assert await place.get("livez") == (200, {"status": "ok"})
