"""A line of the access log, explained: a table of how requests go, and what each is told as."""

from __future__ import annotations

from typing import Any

import pytest
import xxhash
from hypothesis import given, strategies as st

from fairlead.domain.catalog import Catalog, Kill, Line, Pin, Revision, Service
from fairlead.domain.ids import BUCKETS, ArtifactRef, LineId, RevisionId
from fairlead.domain.keys import EVERYTHING, KeyRecord
from fairlead.domain.release import EndpointSpec, TrafficShare
from fairlead.domain.requests import Timing, read_request, read_timing
from fairlead.domain.routing import Ask, Choice, Forward, choose, route
from fairlead.domain.rules import How, Rule, read_rule, rule_of
from fairlead.domain.table import RoutingTable, table_from
from fairlead.domain.why import Explanation, Then, explain, explain_by_workers

HASH = xxhash.xxh64_intdigest
DIGEST = "sha256:" + "ab" * 32
PREDICT = "/v1/model/speech/predict"


def catalog(kill: Kill | None = None) -> Catalog:
    lines = {}
    for name, shares in {"v1": {"1": 90, "2": 10}, "v2": {"1": 100}}.items():
        line = LineId("speech", name)
        revisions = {
            tag: Revision(
                RevisionId("speech", name, tag),
                ArtifactRef("speech", int(tag)),
                DIGEST,
                (EndpointSpec("predict"), EndpointSpec("stream", paths=("/say",))),
                "",
                0.0,
            )
            for tag in shares
        }
        traffic = tuple(TrafficShare(tag, percent) for tag, percent in shares.items())
        lines[name] = Line(line, revisions, traffic)
    services = {"speech": Service("speech", lines, Pin("v2", by_hand=True), kill)}
    return Catalog(7, services)


LINE: dict[str, Any] = {
    "request_id": "r-1",
    "time": "2026-01-02T03:04:05.678Z",
    "client": "demo",
    "peer": "127.0.0.1",
    "protocol": "HTTP/1.1",
    "method": "POST",
    "path": PREDICT,
    "accept_version": None,
    "has_sticky_key": None,
    "status": 200,
    "flags": "-",
    "details": "via_upstream",
    "error_code": None,
    "route": "asked speech/v2 1=100",
    "upstream": "speech/v2.1@0123456789ab",
    "upstream_host": "/run/fairlead-1/w7.sock",
    "digest": DIGEST,
    "attempts": 1,
    "timing": "queue;dur=0.012, engine;dur=0.031, batch;desc=1, bucket;desc=4711",
    "upstream_ms": 0,
    "total_ms": 1,
    "bytes_received": 20,
    "bytes_sent": 300,
}
FRONT: dict[str, Any] = {
    "route": None,
    "upstream": "front",
    "upstream_host": "/run/fairlead-1/front.sock",
    "digest": None,
    "status": 404,
}


def why(then: Catalog | None = None, *, exact: bool = True, **changes: Any) -> Explanation:
    request = read_request({**LINE, **changes})
    return explain(request, Then(then or catalog(), "v1", exact), HASH)


@pytest.mark.parametrize(
    ("changes", "code", "part", "told"),
    [
        ({}, "answered", "outcome", "200: answered by the worker"),
        ({}, "answered", "key", "demo; from 127.0.0.1 over HTTP/1.1"),
        ({}, "answered", "asked for", "speech, endpoint predict: predict (project API), no Acc"),
        ({}, "answered", "rule", "no version was asked for, so the pin of speech chose line v2"),
        ({}, "answered", "rule", "all of its traffic went to revision 1 then"),
        ({"accept_version": "latest"}, "answered", "rule", "`latest` was asked for"),
        ({}, "answered", "bucket", "4711 of 10,000, by the client (there was nothing to split)"),
        ({}, "answered", "revision", f"speech/v2.1, artifact speech/1, {DIGEST}"),
        ({}, "answered", "worker", "w7"),
        ({}, "answered", "times", "queue 0.012 ms, engine 0.031 ms in a batch of 1"),
        ({"timing": "held;dur=40, engine;dur=2"}, "answered", "times", "held for 40 ms until a worker"),
        ({}, "answered", "times", "less than 1 ms, 1 ms in all"),
        ({}, "answered", "retries", "none"),
        ({"grpc": "ModelInfer 0"}, "answered", "outcome", "200: answered by the worker"),
        (
            {"grpc": "ModelInfer 3", "error_code": "invalid"},
            "invalid",
            "outcome",
            "400: the request was malformed",
        ),
        (
            {"grpc": "ModelInfer 13", "error_code": "model"},
            "model",
            "outcome",
            "500: the model's own code failed",
        ),
        ({"grpc": "- -"}, "answered", "outcome", "200: answered by the worker"),
        ({"attempts": 3}, "answered", "retries", "2, because a worker could not be reached"),
        ({"digest": "sha256:" + "cd" * 32}, "answered", "revision", "BUT the catalog has"),
        (
            {"route": "line speech/v1 1=90 2=10", "upstream": "speech/v1.1@0", "accept_version": "v1"},
            "answered",
            "rule",
            "Accept-Version named line v1; its traffic was split then: v1.1 90 %, v1.2 10 %",
        ),
        (
            {"route": "line speech/v1 1=90 2=10", "upstream": "speech/v1.1@0", "has_sticky_key": ""},
            "answered",
            "bucket",
            "4711 of 10,000, by the sticky key: buckets 0 to 8999 were v1.1's",
        ),
        (
            {"route": "asked speech/v1 1=90 2=10", "accept_version": "v1"},
            "answered",
            "rule",
            "Accept-Version named line v1; its traffic was split then: v1.1 90 %, v1.2 10 %",
        ),
        ({"accept_version": "v2.1"}, "answered", "rule", "exactly this revision"),
        ({"accept_version": "latest"}, "answered", "rule", "`latest` was asked for, so the pin"),
        ({"route": "exact speech/v2 1=100"}, "answered", "rule", "exactly this revision"),
        ({"route": "artifact speech/v2 1=100"}, "answered", "rule", "the path named an artifact"),
        ({"route": None}, "answered", "rule", "the log does not say (an older line)"),
        ({"upstream": "speech/v2.1/say-it@12"}, "answered", "asked for", "speech, endpoint say-it"),
        ({"upstream": "speech/v2.1/say-it@12"}, "answered", "revision", "speech/v2.1, artifact sp"),
        ({"path": "/say"}, "answered", "asked for", "speech, endpoint stream: predict (project"),
        ({"path": "/v2/models/speech/infer"}, "answered", "asked for", "infer (Open Inference"),
        ({"status": 422}, "schema", "outcome", "422: the request was not what the model's schema"),
        ({"status": 500, "error_code": "model"}, "model", "outcome", "the model's own code failed"),
        ({"status": 415}, "encoding", "outcome", "415: the body was compressed in a way that is not"),
        ({"status": 406}, "format", "outcome", "406: the caller takes no form that the answer can"),
        ({"status": 401, "error_code": "unauthenticated"}, "unauthenticated", "outcome", "in the body"),
        ({"status": 503, "error_code": "overloaded"}, "overloaded", "outcome", "queue was full"),
        ({"status": 504}, "deadline", "outcome", "while the model ran (for 0.031 ms)"),
        ({"status": 504, "timing": "queue;dur=99"}, "deadline", "outcome", "waited for its turn"),
        ({"status": 504, "timing": "queue;dur=99"}, "deadline", "times", "queue 99 ms, no model run"),
        ({"flags": "DC", "status": 0}, "client_left", "outcome", "before there was an answer"),
        ({"flags": "DC"}, "client_left", "outcome", "while it was being sent the answer (200)"),
        ({"flags": "DC", "upstream": None, "status": 0}, "client_left", "outcome", "led anywhere"),
        ({"flags": "DC", "status": 413}, "too_large", "outcome", "too large; then the client left"),
        ({"flags": "DR", "status": 499}, "client_left", "outcome", "being sent the answer (499)"),
        ({"flags": "UT,DR", "status": 504}, "deadline", "outcome", "; then the client left"),
        ({"flags": "UT", "status": 504}, "deadline", "outcome", "the gateway's deadline was over"),
        ({"flags": "UF,URX", "status": 503}, "no_worker", "outcome", "took a connection"),
        ({"flags": "UC", "status": 503}, "worker_gone", "outcome", "closed the connection before"),
        ({"flags": "UH", "status": 503, "upstream_host": None}, "no_worker", "worker", "none was"),
        ({"flags": "UO", "status": 503}, "overloaded", "outcome", "limit of requests"),
        ({"flags": "XX", "status": 500}, "flagged", "outcome", "500: XX"),
        (
            {**FRONT, "timing": "refusal;desc=\"no version 'v9' here\", bucket;desc=12"},
            "not_found",
            "outcome",
            "404, refused by the gateway: no version 'v9' here",
        ),
        ({**FRONT, "timing": 'refusal;desc="x"'}, "not_found", "worker", "none: the gateway"),
        ({**FRONT, "status": 200, "timing": None}, "page", "outcome", "the gateway's own pages"),
        (
            {"status": 401, "client": None, "upstream_host": None, "attempts": 0},
            "unauthenticated",
            "outcome",
            "401: no key, or one that is not known (via_upstream)",
        ),
        (
            {"status": 401, "client": None, "upstream_host": None, "attempts": 0},
            "unauthenticated",
            "retries",
            "none: it was sent to no process",
        ),
        ({"status": 429, "attempts": 0, "upstream_host": None}, "quota", "outcome", "a quota"),
    ],
)  # fmt: skip
def test_a_line_is_told_in_words(changes: dict[str, Any], code: str, part: str, told: str) -> None:
    found = why(**changes)
    assert found.document["outcome"]["code"] == code
    assert told in dict(found.parts)[part]


def test_a_route_that_was_found_for_a_refused_key_led_nowhere() -> None:
    found = why(status=401, client=None, upstream_host=None, attempts=0, timing=None, digest=None)
    for name in ("revision", "rule", "bucket", "worker", "digest"):
        assert found.document[name] is None
    assert "revision" not in dict(found.parts)


def test_a_refusal_by_the_kill_switch_is_told_as_one() -> None:
    line = {**FRONT, "status": 503, "timing": 'refusal;desc="back at noon"'}
    killed = why(catalog(Kill("back at noon", 1.0)), **line)
    assert killed.document["outcome"]["code"] == "killed"
    assert "speech was switched off by hand, saying: back at noon" in dict(killed.parts)["outcome"]
    assert why(**line).document["outcome"]["code"] == "unavailable"


def test_what_no_worker_said_is_computed_or_owned_to_be_unknown() -> None:
    line = {"timing": None, "flags": "UC", "status": 503}
    computed = why(**line).document["bucket"]
    assert computed == {"number": HASH(b"demo") % BUCKETS, "of": "client", "said_by": "computed"}
    unknown = why(**line, has_sticky_key="")
    assert unknown.document["bucket"]["number"] is None
    assert dict(unknown.parts)["bucket"].startswith("unknown: the sticky key is not kept")


def test_a_revision_that_the_catalog_does_not_know_is_told_by_the_log_alone() -> None:
    found = why(Catalog(1), exact=False)
    assert dict(found.parts)["revision"] == f"speech/v2.1, {DIGEST}"
    assert found.document["artifact"] is None
    assert found.document["catalog"] == {"generation": 1, "exact": False}


@given(
    st.dictionaries(
        st.sampled_from([*LINE, "other"]),
        st.one_of(st.none(), st.booleans(), st.integers(), st.text(), st.lists(st.integers())),
    )
)
def test_no_line_is_too_strange_to_be_explained(line: dict[str, Any]) -> None:
    found = explain(read_request(line), Then(catalog(), "v1"), HASH)
    assert found.document["outcome"]["text"]
    found = explain(read_request({**LINE, **line}), Then(catalog(), "v1"), HASH)
    assert found.document["outcome"]["text"]


TAGS = st.text("abcxyz0123456789-", min_size=1, max_size=8)


@given(
    st.sampled_from(How),
    TAGS,
    TAGS,
    st.lists(TAGS, min_size=1, max_size=5, unique=True),
    st.data(),
)
def test_a_rule_reads_back_from_its_text(
    how: How, service: str, line: str, tags: list[str], data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.integers(0, 100)) for _ in tags[1:])
    percents = [end - start for start, end in zip([0, *cuts], [*cuts, 100], strict=True)]
    weights = tuple((tag, 100 * one) for tag, one in zip(tags, percents, strict=True))
    rule = Rule(how, LineId(service, line), weights)
    asked = {How.PIN: None, How.LINE: "v1", How.EXACT: "v1.2", How.ARTIFACT: "v1"}[how]
    assert read_rule(str(rule), asked) == rule


@given(st.text())
def test_any_other_text_is_no_rule_but_no_error(text: str) -> None:
    read_rule(text, text)
    read_timing(text)


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)), st.integers(0, BUCKETS - 1))
def test_a_quoted_reason_reads_back(reason: str, bucket: int) -> None:
    quoted = reason.replace("\\", "\\\\").replace('"', '\\"')
    found = read_timing(f'refusal;desc="{quoted}", bucket;desc={bucket}')
    assert found == Timing(refusal=reason, bucket=bucket)


@given(st.sampled_from([None, "latest", "v1", "v1.1", "v1.2", "v2"]), st.text(max_size=20))
def test_the_rule_names_the_revision_that_the_resolver_chose(
    version: str | None, sticky: str
) -> None:
    desired = catalog()
    keys = {"demo": KeyRecord("demo", (EVERYTHING,), 0.0, "")}
    desired = Catalog(7, desired.services, keys)
    table = table_from(desired, list(desired.live()), {}, RoutingTable(api_version="v1"))
    ask = Ask("POST", PREDICT, "demo", version, sticky)
    choice, outcome = choose(table, ask), route(table, ask, HASH)
    assert isinstance(choice, Choice)
    assert isinstance(outcome, Forward)
    rule = rule_of(choice, version)
    bucket = HASH(sticky.encode("latin-1", "replace")) % BUCKETS
    tag, first, last = rule.chosen(bucket)
    assert tag == outcome.endpoint.revision
    assert first <= bucket <= last
    assert rule.line == outcome.endpoint.revision_id.line_id


def test_a_request_that_only_a_worker_knows_is_told_as_one() -> None:
    found = explain_by_workers("r-9")
    assert found.document == {
        "requestId": "r-9",
        "outcome": {"code": "direct", "text": found.title},
    }
    assert "sent to a worker directly" in found.title


def test_a_page_that_needs_no_key_is_told_as_one() -> None:
    found = why(**{**FRONT, "status": 200, "timing": None, "client": None})
    assert dict(found.parts)["key"].startswith("none, and this page needs none")


@pytest.mark.parametrize(
    ("bucket", "chosen"), [(0, ("1", 0, 8999)), (8999, ("1", 0, 8999)), (9000, ("2", 9000, 9999))]
)
def test_a_bucket_has_one_revision_and_its_neighbours(
    bucket: int, chosen: tuple[str, int, int]
) -> None:
    rule = read_rule("asked speech/v1 1=90 2=10", None)
    assert rule is not None
    assert rule.chosen(bucket) == chosen


@pytest.mark.parametrize("text", ["asked speech/v1 1=90 2=x", "asked speech/v1 1=90 2=20"])
def test_shares_that_are_no_split_are_no_rule(text: str) -> None:
    assert read_rule("asked speech/v1 1=90 2=10", None) is not None
    assert read_rule(text, None) is None


def test_a_grpc_call_is_told_by_its_method_and_its_code() -> None:
    told = why(path="/v2/models/speech/infer", grpc="ModelInfer 14")
    assert told.title.startswith("gRPC ModelInfer, as POST /v2/models/speech/infer at")
    assert told.document["grpc"] == {"method": "ModelInfer", "code": 14}
    assert told.document["status"] == 503
    assert why().document["grpc"] is None
