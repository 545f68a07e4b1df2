"""The front desk: statuses, shapes and what it trusts."""

from __future__ import annotations

import json
from dataclasses import replace

import httpx
import pytest
import xxhash

from fairlead.api.grpc_status import GRPC_STATUS
from fairlead.api.http_status import HTTP_STATUS
from fairlead.domain.catalog import Kill, with_kill
from fairlead.domain.errors import Kind
from fairlead.domain.paths import open_paths
from fairlead.domain.requests import read_timing
from fairlead.domain.table import RoutingTable, table_from
from fairlead.gateway.called import Visit, answered
from fairlead.gateway.front import FrontDesk, json_response
from fairlead.gateway.index import index
from fairlead.gateway.replies import GATEWAY_KINDS, GATEWAY_TEXTS, body_key, local_reply_config
from fairlead.gateway.settings import GatewaySettings
from fairlead.gateway.state import View
from support.gateway import catalog, revision

WANTED = catalog(
    revision("speech/v9.1", 1, {"predict": ("/api/speak",)}),
    revision("speech/v9.2", 2),
    traffic={"speech/v9": {"1": 90, "2": 10}},
    pins={"speech": "v9"},
    keys={"demo": ("*",), "other": ("elsewhere",)},
)
PREDICT = "/v1/model/speech/predict"


async def home(visit: Visit) -> httpx.Response:
    return json_response({"asked": visit.path})  # type: ignore[return-value] # only its body counts


def desk(table: RoutingTable, previous: RoutingTable | None = None) -> FrontDesk:
    view = View(index(table), index(previous or table))
    return FrontDesk(view, GatewaySettings(), {"home": home, "metrics": home})  # type: ignore[dict-item]


def table(*, ready: bool = True) -> RoutingTable:
    return table_from(WANTED, WANTED.live() if ready else (), {}, RoutingTable())


async def ask(
    answering: FrontDesk, method: str, path: str, **headers: str
) -> tuple[int, dict[str, str]]:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = await answering.answer(Visit(method, path, sent))
    return answer.status_code, json.loads(bytes(answer.body))


async def test_a_refusal_lists_what_this_caller_may_use() -> None:
    assert await ask(desk(table()), "POST", PREDICT, x_client="demo", accept_version="v3") == (
        404,
        {"message": "no version 'v3' here; versions: v9, v9.1, v9.2"},
    )


async def test_a_refusal_tells_the_access_log_why() -> None:
    sent = {"x-client": "demo", "accept-version": 'v"3\\é\n', "x-sticky-key": "me"}
    answer = await desk(table()).answer(Visit("POST", PREDICT, sent))
    told = read_timing(answer.headers["server-timing"])
    assert told.refusal is not None
    assert told.refusal.startswith("no version 'v\"3")
    assert told.bucket == xxhash.xxh64_intdigest(b"me") % 10_000
    long = await desk(table()).answer(Visit("GET", "/" + "é" * 5000, {"x-client": "demo"}))
    assert len(long.headers["server-timing"]) < 400
    nobody = await desk(table()).answer(Visit("POST", PREDICT, {}))
    assert nobody.headers["server-timing"] == 'refusal;desc="No API key found in request"'
    page = await desk(table()).answer(Visit("GET", "/", {}))
    assert "server-timing" not in page.headers


async def test_under_v2_an_error_is_called_error() -> None:
    status, body = await ask(desk(table()), "POST", "/v2/models/nobody/infer", x_client="demo")
    assert (status, list(body)) == (404, ["error"])


@pytest.mark.parametrize(
    ("mark", "text"),
    [
        ("duplicate", "Duplicate API key found"),
        ("malformed", "Invalid authentication credentials"),
        (None, "No API key found in request"),
    ],
)
async def test_without_a_client_nothing_but_open_paths_is_told(mark: str | None, text: str) -> None:
    headers = {} if mark is None else {"x_fairlead_key": mark}
    assert await ask(desk(table()), "POST", PREDICT, **headers) == (401, {"message": text})
    assert (await ask(desk(table()), "GET", "/", **headers))[0] == 200


async def test_beyond_loopback_the_numbers_need_a_client() -> None:
    view = View(index(table()), index(table()))
    answering = FrontDesk(view, GatewaySettings(host="192.0.2.7"), {"metrics": home})  # type: ignore[dict-item]
    assert (await ask(answering, "GET", "/metrics"))[0] == 401
    assert (await ask(answering, "GET", "/metrics", x_client="demo"))[0] == 200


async def test_a_killed_key_reads_nothing_that_needs_a_key() -> None:
    key = replace(WANTED.keys["demo"], killed="call us")
    killed = replace(table(), keys={"demo": key})
    view = View(index(killed), index(killed))
    answering = FrontDesk(view, GatewaySettings(host="192.0.2.7"), {"metrics": home, "home": home})  # type: ignore[dict-item]
    wanted = (403, {"message": "call us"})
    assert await ask(answering, "GET", "/metrics", x_client="demo") == wanted
    assert await ask(answering, "POST", PREDICT, x_client="demo") == wanted
    assert (await ask(answering, "GET", "/", x_client="demo"))[0] == 200


async def test_a_wrong_method_names_the_right_ones() -> None:
    answer = await desk(table()).answer(Visit("PUT", PREDICT, {"x-client": "demo"}))
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


async def test_what_the_new_table_would_serve_is_refused_by_the_one_before() -> None:
    moving = desk(table(), table(ready=False))
    status, body = await ask(moving, "POST", PREDICT, x_client="demo")
    assert (status, body["message"]) == (503, "speech/v9 is not ready: v9.1 is not started")


async def test_why_a_revision_failed_is_not_for_its_callers() -> None:
    reasons = dict.fromkeys(WANTED.live(), "failed: /srv/secret/model.py: no such file")
    broken = table_from(WANTED, (), reasons, RoutingTable())
    line = await ask(desk(broken), "POST", PREDICT, x_client="demo")
    one = await ask(desk(broken), "POST", PREDICT, x_client="demo", accept_version="v9.1")
    why = "failed; `fairlead status` says why"
    assert line == (503, {"message": f"speech/v9 is not ready: v9.1 has {why}"})
    assert one == (503, {"message": f"speech/v9.1 is not ready: {why}"})


async def test_what_both_tables_would_serve_is_asked_to_come_again() -> None:
    status, body = await ask(desk(table()), "POST", PREDICT, x_client="demo")
    assert (status, "try again" in body["message"]) == (503, True)


async def test_a_share_without_the_path_is_told_which_revision_it_met() -> None:
    sticky = {"x_client": "demo", "x_sticky_key": "user-13", "accept_version": "v9"}
    statuses = set()
    for user in range(60):
        sticky["x_sticky_key"] = f"user-{user}"
        statuses.add(str(await ask(desk(table()), "POST", "/api/speak", **sticky)))
    assert any("v9.2 does not answer /api/speak" in one for one in statuses)


async def test_a_killed_service_says_what_its_owner_wrote() -> None:
    off = table_from(with_kill(WANTED, "speech", Kill("back at noon", 0.0)), (), {}, RoutingTable())
    answer = await ask(desk(off), "POST", PREDICT, x_client="demo")
    assert answer == (503, {"message": "back at noon"})


async def test_over_the_wire_it_reads_what_nobody_wants_and_answers() -> None:
    transport = httpx.ASGITransport(desk(table()))
    async with httpx.AsyncClient(transport=transport, base_url="http://desk") as client:
        answer = await client.post("/a%2Fb", content=b"x" * 3_000_000, headers={"x-client": "demo"})
    assert answer.json() == {"message": "nothing answers /a%2Fb; GET / tells what is here"}


def test_every_kind_has_a_status() -> None:
    assert set(HTTP_STATUS) == set(Kind)


@pytest.mark.parametrize(
    ("path", "key"),
    [
        *(("/v2", "error"), ("/v2?x", "error"), ("/v2/x", "error"), ("/v2x", "message")),
        *(("/v1/v2", "message"), ("/", "message")),
    ],
)
def test_the_shape_follows_the_path(path: str, key: str) -> None:
    assert body_key(path) == key


def test_envoys_own_answers_have_every_shape_for_every_status() -> None:
    mappers = local_reply_config(60)["mappers"]
    overrides = [mapper["body_format_override"] for mapper in mappers]
    formats = [one.get("json_format", {"grpc": ""}) for one in overrides]
    texts = [mapper.get("body", {}).get("inline_string") for mapper in mappers]
    for text in GATEWAY_TEXTS.values():
        shapes = [next(iter(form)) for form, one in zip(formats, texts, strict=True) if one == text]
        assert sorted(shapes) == ["error", "grpc", "message"]


def test_every_answer_of_envoys_own_names_its_code() -> None:
    assert set(GATEWAY_KINDS) == {*GATEWAY_TEXTS, 401}
    for mapper in local_reply_config(60)["mappers"][:-2]:
        added = {one["header"]["key"]: one["header"]["value"] for one in mapper["headers_to_add"]}
        ends_well = added.get("grpc-status") == "0"
        assert ("x-error-code" in added) != ends_well
        if "text_format_source" in mapper["body_format_override"] and not ends_well:
            assert added["grpc-status"] == str(GRPC_STATUS[Kind(added["x-error-code"])])


def test_every_open_path_has_a_name_for_its_page() -> None:
    named = {path.name for path in open_paths("v1").values()}
    assert named == {
        *("home", "livez", "healthz", "metrics", "docs", "openapi", "root", "live", "ready"),
        *("v2", "v2_live", "v2_ready", "v2_stats", "v2_index"),
    }


@pytest.mark.parametrize("path", ["/v2", "/v2/health/live", "/", "/v1/model/speech/predict"])
@pytest.mark.parametrize(
    "headers", [{"content-type": "application/grpc"}, {"x-fairlead-grpc": "Nothing"}]
)
async def test_a_call_of_what_is_no_method_is_answered_as_one(
    path: str, headers: dict[str, str]
) -> None:
    visit = Visit("POST" if "predict" in path else "GET", path, headers)
    pages = dict.fromkeys((one.name for one in open_paths("v1").values()), home)
    view = View(index(table()), index(table()))
    answering = FrontDesk(view, GatewaySettings(), pages)  # type: ignore[arg-type]
    response = await answered(visit, answering.answer)
    told = response.headers.get("grpc-status") or response.headers["x-grpc-status"]
    assert told in {str(GRPC_STATUS[kind]) for kind in (Kind.METHOD, Kind.UNAUTHENTICATED)}
