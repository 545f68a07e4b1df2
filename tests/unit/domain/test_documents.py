"""Manifests, catalogs, statuses and golden examples: what is written reads back, what is damaged is told."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from fairlead.domain import catalog as catalogs
from fairlead.domain.catalog import Catalog, Kill
from fairlead.domain.catalog_file import catalog_from_bytes, catalog_to_bytes
from fairlead.domain.errors import FairleadError, InvalidInput
from fairlead.domain.golden import difference, golden_from_bytes
from fairlead.domain.health import health_problems
from fairlead.domain.ids import ArtifactRef, EndpointId, LineId, RevisionId
from fairlead.domain.keys import KeyRecord, Quota, Rate, Retiring, Scope
from fairlead.domain.manifest import (
    Manifest,
    ManifestFile,
    manifest_from_bytes,
    manifest_to_bytes,
    path_problem,
)
from fairlead.domain.release import EndpointSpec, TrafficShare
from fairlead.domain.scale_units import ScaleUnit
from fairlead.domain.signature import DataType, TensorSignature, TensorSpec
from fairlead.domain.status import (
    GatewayStatus,
    KeptReplicas,
    KeptTraffic,
    NodeStatus,
    Replica,
    Scale,
    State,
    gateway_status_from_bytes,
    gateway_status_to_bytes,
    node_status_from_bytes,
    node_status_to_bytes,
)

MANIFEST = Manifest(
    ArtifactRef("digits", 3),
    "onnx",
    "model.onnx",
    (ManifestFile("golden.json", 10, "a" * 64), ManifestFile("model.onnx", 20, "b" * 64)),
    TensorSignature(
        (TensorSpec("pixels", DataType.FP32, (-1, 64)),),
        (TensorSpec("label", DataType.BYTES, (-1,)),),
    ),
    "golden.json",
    {"model_name": "digits"},
)


def revision() -> catalogs.Revision:
    endpoint = EndpointSpec("predict", 2, 5, 7, ("/say",), {"requests": {"cpu": "1"}})
    return catalogs.Revision(
        RevisionId("s", "v1", "1"), MANIFEST.ref, MANIFEST.digest, (endpoint,), "x", 5.0
    )


def full_catalog() -> Catalog:
    found = catalogs.with_revision(Catalog(), revision())
    found = catalogs.with_traffic(found, LineId("s", "v1"), (TrafficShare("1", 100),))
    found = catalogs.with_kill(found, "s", Kill("later", 3.0))
    quota = Quota(Rate(600, 60, 20), 8)
    old = (Retiring("cd", 9.0),)
    scopes = (Scope("s", "v1", "infer"), Scope("*", verb="read"))
    found = catalogs.with_key(found, KeyRecord("app", scopes, 1.0, "ef", quota, "too loud", old))
    return catalogs.with_key(found, KeyRecord("demo", (Scope("s"),), 1.0, "ab"))


def test_a_manifest_reads_back_and_its_digest_fixes_every_byte() -> None:
    again = manifest_from_bytes(manifest_to_bytes(MANIFEST))
    assert again == MANIFEST
    assert again.digest == MANIFEST.digest
    changed = replace(
        MANIFEST, files=(MANIFEST.files[0], replace(MANIFEST.files[1], sha256="c" * 64))
    )
    assert changed.digest != MANIFEST.digest
    reordered = replace(MANIFEST, files=MANIFEST.files[::-1])
    assert reordered.digest == MANIFEST.digest


@pytest.mark.parametrize(
    "path",
    [
        "../x",
        "/x",
        "a/../b",
        "./a",
        "a//b",
        "",
        "a\\b",
        "a\0b",
        "a\nb",
        "x" * 600,
        "a/.",
        "x" * 256,
        "ä" * 128,
        "a\x7f",
        "a\x9b1m",
        "a\u202eb",
    ],
)
def test_a_path_that_could_leave_the_artifact_is_refused(path: str) -> None:
    assert path_problem(path) is not None
    document = json.loads(manifest_to_bytes(MANIFEST))
    document["files"][0]["path"] = path
    with pytest.raises(InvalidInput, match="files"):
        manifest_from_bytes(json.dumps(document).encode())


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ([("model.onnx", 1), ("model.onnx", 1), ("golden.json", 1)], "names a path twice"),
        ([("model.onnx", 1), ("model.onnx/x", 1), ("golden.json", 1)], "lies under another file"),
        ([("model.onnx", 1)], "'golden.json' is not among the files"),
        ([("model.onnx", -1), ("golden.json", 1)], "write a whole number from 0 up"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(
    files: list[tuple[str, int]], told: str
) -> None:
    document = json.loads(manifest_to_bytes(MANIFEST))
    document["files"] = [{"path": path, "size": size, "sha256": "a" * 64} for path, size in files]
    with pytest.raises(InvalidInput, match=told):
        manifest_from_bytes(json.dumps(document).encode())


@given(st.data())
def test_a_damaged_manifest_is_an_error_in_words_or_another_manifest(data: st.DataObject) -> None:
    whole = bytearray(manifest_to_bytes(MANIFEST))
    if data.draw(st.booleans()):
        damaged = bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    else:
        whole[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        damaged = bytes(whole)
    try:
        again = manifest_from_bytes(damaged)
    except FairleadError as error:
        assert str(error)
    else:
        assert again.digest != MANIFEST.digest


def test_a_document_of_a_newer_version_is_refused_in_words() -> None:
    newer = json.dumps({"schema": 9, "whatever": []}).encode()
    for read in (
        manifest_from_bytes,
        catalog_from_bytes,
        node_status_from_bytes,
        gateway_status_from_bytes,
    ):
        with pytest.raises(FairleadError, match="written by a newer Fairlead"):
            read(newer)


def test_a_catalog_reads_back() -> None:
    assert catalog_from_bytes(catalog_to_bytes(full_catalog())) == full_catalog()


def test_a_catalog_of_before_keys_had_lines_and_verbs_is_read() -> None:
    document = json.loads(catalog_to_bytes(full_catalog()))
    document["schema"] = 1
    document["keys"] = {
        "all": {"services": ["*"], "createdAt": 1.0, "fingerprint": "ab"},
        "some": {"services": ["s", "other"], "createdAt": 2.0, "fingerprint": "cd"},
    }
    keys = catalog_from_bytes(json.dumps(document).encode()).keys
    assert keys["all"] == KeyRecord("all", (Scope("*"),), 1.0, "ab")
    assert keys["some"] == KeyRecord("some", (Scope("s"), Scope("other")), 2.0, "cd")


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("allow", ["s:eat"], "keys.app.allow[0]: is no scope"),
        ("rate", {"requests": 1, "seconds": 7, "burst": 1}, "keys.app.rate.seconds: is 7"),
        ("concurrency", 0, "keys.app.concurrency: is 0"),
        ("retiring", [{"fingerprint": "x"}], "keys.app.retiring[0].until: is null"),
        ("secret", "s3cret", "keys.app.secret: unknown key"),
    ],
)
def test_a_damaged_key_is_told_with_its_place(key: str, value: object, told: str) -> None:
    document = json.loads(catalog_to_bytes(full_catalog()))
    document["keys"]["app"][key] = value
    with pytest.raises(InvalidInput) as caught:
        catalog_from_bytes(json.dumps(document).encode())
    assert told in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"schema": 1}',
        b"{" * 100_000,
        b'{"schema": 1, "services": 3, "keys": {}}',
    ],
)
def test_a_damaged_catalog_is_an_error_in_words(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        catalog_from_bytes(data)


def test_statuses_read_back() -> None:
    replica = Replica(
        "w1", RevisionId("s", "v1", "1"), MANIFEST.digest, State.READY, "", "/tmp/w1.sock", 7, 2.0
    )
    node = NodeStatus("local", 1.5, 42, 3, (replica,), "")
    assert node_status_from_bytes(node_status_to_bytes(node)) == node
    gateway = GatewayStatus(
        1.0, 2, 3, "http://x", ("w1",), {LineId("s", "v1"): (TrafficShare("1", 100),)}, {"s": "v1"}
    )
    assert gateway_status_from_bytes(gateway_status_to_bytes(gateway)) == gateway
    moving = replace(gateway, coming=("w1",))
    assert gateway_status_from_bytes(gateway_status_to_bytes(moving)) == moving


def test_what_is_kept_of_the_last_status_changes_nothing_but_the_time() -> None:
    one = Replica(
        "w1", RevisionId("s", "v1", "1"), MANIFEST.digest, State.STARTING, "", "/tmp/1", 7, 2.0
    )
    other = replace(one, worker="w2")
    kept: KeptReplicas = {}

    def read(*replicas: Replica) -> tuple[Replica, ...]:
        data = node_status_to_bytes(NodeStatus("local", 1.5, 42, 3, replicas, ""))
        return node_status_from_bytes(data, kept=kept).replicas

    first = read(one, other)
    second = read(replace(one, state=State.READY), other)
    assert (second[0].state, second[1]) == (State.READY, other)
    assert second[1] is first[1]
    assert read(other) == (other,)
    assert kept.keys() == {("w2",)}, "what is not said any more is not kept"


def test_the_traffic_of_a_line_that_has_not_moved_is_not_read_again() -> None:
    line, other = LineId("s", "v1"), LineId("s", "v2")
    all_of_it = (TrafficShare("1", 100),)
    status = GatewayStatus(1.0, 2, 3, "http://x", (), {line: all_of_it, other: all_of_it})
    kept: KeptTraffic = {}

    def read(now: GatewayStatus) -> GatewayStatus:
        return gateway_status_from_bytes(gateway_status_to_bytes(now), kept=kept)

    first = read(status)
    split = (TrafficShare("1", 90), TrafficShare("2", 10))
    second = read(replace(status, effective={line: split, other: all_of_it}))
    assert (first.effective, second.effective[line]) == (status.effective, split)
    assert second.effective[other] is first.effective[other]
    assert read(replace(status, effective={})).effective == {}
    assert kept == {}
    # Whatever a damaged file names a line, it is refused with its place.
    damaged = gateway_status_to_bytes(status).replace(b'"service": "s"', b'"service": ["s"]')
    with pytest.raises(InvalidInput, match=r"effective\[0\]\.service"):
        gateway_status_from_bytes(damaged, kept=kept)


def test_a_revision_stands_if_each_of_its_endpoints_is_ready_or_cold() -> None:
    one = Replica("w1", RevisionId("s", "v1", "1"), MANIFEST.digest, State.READY, "", "/x", 7, 2.0)
    node = NodeStatus("local", 1.5, 42, 3, (one,))
    assert node.stands(one.revision)
    assert not node.stands(RevisionId("s", "v1", "2"))
    starting = replace(one, state=State.STARTING, worker="w2")
    assert replace(node, replicas=(starting,)).stands(one.revision) is False
    asleep = replace(replace(node, replicas=(starting,)), cold=(one.revision.endpoint("predict"),))
    assert asleep.stands(one.revision)


def test_what_is_said_of_some_services_is_as_if_there_were_no_others() -> None:
    catalog = full_catalog()
    other_service = replace(catalog.services["s"], name="t")
    both = replace(catalog, services={**catalog.services, "t": other_service})
    assert both.only({"s", "nobody"}) == catalog
    one = Replica("w1", RevisionId("s", "v1", "1"), MANIFEST.digest, State.READY, "", "/x", 7, 2.0)
    other = replace(one, worker="w2", revision=RevisionId("t", "v1", "1"))
    cold = tuple(EndpointId(service, "v1", "1", "predict") for service in ("s", "t"))
    scales = tuple(Scale(ScaleUnit(each.revision), 1) for each in (one, other))
    node = NodeStatus("local", 1.5, 42, 3, (one, other), "full", cold, scales)
    assert node.only({"s"}) == replace(node, replicas=(one,), cold=cold[:1], scales=scales[:1])


def test_a_wrong_replica_is_wrong_each_time_it_is_read() -> None:
    one = Replica("w1", RevisionId("s", "v1", "1"), MANIFEST.digest, State.READY, "", "/x", 7, 2.0)
    data = node_status_to_bytes(NodeStatus("local", 1.5, 42, 3, (one,), ""))
    kept: KeptReplicas = {}
    for _ in range(2):
        with pytest.raises(InvalidInput, match="state"):
            node_status_from_bytes(data.replace(b'"ready"', b'"asleep"'), kept=kept)
    assert node_status_from_bytes(data, kept=kept).replicas == (one,)


def test_health_tells_what_should_serve_and_does_not() -> None:
    catalog = catalogs.with_kill(full_catalog(), "s", None)
    waiting = Replica(
        "w1", RevisionId("s", "v1", "1"), MANIFEST.digest, State.FAILED, "golden example 1: x"
    )
    node = NodeStatus("local", 1.5, 42, 3, (waiting,))
    assert health_problems(catalog, node) == ["s/v1.1 is not ready (failed: golden example 1: x)"]
    assert health_problems(full_catalog(), node) == []  # killed by hand is no failure
    assert (
        health_problems(catalog, replace(node, replicas=(replace(waiting, state=State.READY),)))
        == []
    )


class TestGolden:
    def test_examples_and_tolerance_are_read(self) -> None:
        golden = golden_from_bytes(
            b'{"tolerance": {"y": 0.5}, "examples": [{"request": {"x": [1]}, "response": {"y": [2]}}]}'
        )
        assert golden.tolerance == {"y": 0.5}
        assert golden.examples[0].request == {"x": [1]}

    @pytest.mark.parametrize(
        ("data", "told"),
        [
            (b"[]", "write an object"),
            (b'{"examples": []}', "give at least one example"),
            (b'{"examples": [{"request": 1}]}', "'response' must be there"),
            (
                b'{"examples": [{"request": 1, "response": 2}], "tolerance": {"y": -1}}',
                "write a number from 0 up",
            ),
            (b"nothing", "is not JSON"),
        ],
    )
    def test_a_wrong_file_is_told(self, data: bytes, told: str) -> None:
        with pytest.raises(InvalidInput, match=told):
            golden_from_bytes(data)

    @pytest.mark.parametrize(
        ("expected", "actual", "told"),
        [
            ({"y": [1.0, 2.0]}, {"y": [1.05, 2.0]}, None),
            ({"y": [1.0]}, {"y": [1.2]}, "y[0]: 1.0 expected within 0.1, 1.2 answered"),
            ({"y": [1.0]}, {"y": [float("nan")]}, "y[0]: 1.0 expected within 0.1, nan answered"),
            ({"y": [float("nan")]}, {"y": [float("nan")]}, None),
            ({"y": [float("inf")]}, {"y": [float("inf")]}, None),
            ({"z": 1}, {"z": 1.05}, "z: 1 expected within 0, 1.05 answered"),
            ({"y": [1]}, {"y": [1, 1]}, "y: 1 elements expected, 2 answered"),
            ({"y": "a"}, {"y": "b"}, "y: 'a' expected, 'b' answered"),
            ({"y": True}, {"y": 1}, "y: True expected, 1 answered"),
            ({"y": None}, {"y": None}, None),
            ({"y": 1}, {}, "y is missing in the answer"),
            ({}, {"y": 1}, "y is in the answer, not in the example"),
            ({"y": {"a": 1}}, {"y": {"b": 1}}, "y: keys ['a'] expected, ['b'] answered"),
            ({"y": 10**400}, {"y": 10**400}, None),
            ({"y": -(10**400)}, {"y": 1}, f"y: -1{'0' * 400} expected within 0.1, 1 answered"),
            ({"y": 10**400}, {"y": 1.5}, f"y: 1{'0' * 400} expected within 0.1, 1.5 answered"),
            ([1], [2], "response[0]: 1 expected within 0, 2 answered"),
        ],
    )
    def test_a_difference_is_told_with_its_place(
        self, expected: object, actual: object, told: str | None
    ) -> None:
        assert difference(expected, actual, {"y": 0.1}) == told


def test_a_manifest_that_asks_too_much_of_its_readers_is_refused() -> None:
    document = json.loads(manifest_to_bytes(MANIFEST))
    file = {"size": 1, "sha256": "a" * 64}
    many = [{"path": f"f{number}", **file} for number in range(20_001)]
    huge = [{**one, "size": 1 << 40} for one in document["files"]]
    for files, told in ((document["files"] + many, "at most 20000"), (huge, "golden: has")):
        with pytest.raises(InvalidInput, match=told):
            manifest_from_bytes(json.dumps({**document, "files": files}).encode())
    long = {**document, "bio": {"a": "x" * (17 << 20)}}
    with pytest.raises(InvalidInput, match="at most 16777216"):
        manifest_from_bytes(json.dumps(long).encode())


def test_half_a_surrogate_pair_in_a_manifest_is_refused_and_not_stumbled_over() -> None:
    assert path_problem("a\ud800") is not None
    document = json.loads(manifest_to_bytes(MANIFEST))
    with pytest.raises(InvalidInput, match="holds half a character"):
        manifest_from_bytes(json.dumps({**document, "bio": {"a": "\ud800"}}).encode())


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (b'{"schema": 2, "generation": NaN}', "NaN is no number"),
        (b'{"schema": 2, "generation": "\\ud800"}', "holds half a character"),
        (b'{"schema": 2, "\xed\xa0\x80": 1}', "is not JSON"),
    ],
)
def test_what_no_file_can_hold_is_refused(wrong: bytes, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        catalog_from_bytes(wrong)


def test_a_catalog_with_an_artifact_that_is_none_says_where() -> None:
    document = json.loads(catalog_to_bytes(full_catalog()))
    document["services"]["s"]["lines"]["v1"]["revisions"]["1"]["artifact"] = "digits"
    with pytest.raises(InvalidInput, match=r"revisions\.1\.artifact: is no artifact's name"):
        catalog_from_bytes(json.dumps(document).encode())


def test_a_signature_that_is_no_object_is_refused() -> None:
    document = json.loads(manifest_to_bytes(MANIFEST))
    document["signature"] = "tensors"
    with pytest.raises(InvalidInput, match="signature"):
        manifest_from_bytes(json.dumps(document).encode())
