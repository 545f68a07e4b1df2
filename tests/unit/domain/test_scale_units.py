"""What scales on its own, and when a revision of several endpoints is up."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fairlead.domain.catalog import Catalog, Revision, with_revision, with_traffic
from fairlead.domain.health import health_problems
from fairlead.domain.ids import ArtifactRef, EndpointId, RevisionId
from fairlead.domain.release import EndpointSpec, TrafficShare
from fairlead.domain.scale_units import (
    WHOLE,
    ScaleUnit,
    endpoint_ids,
    scaled_apart,
    served,
    unit_of,
    units,
)
from fairlead.domain.status import (
    NodeStatus,
    Replica,
    Scale,
    State,
    node_status_from_bytes,
    node_status_to_bytes,
)

ID = RevisionId("speech", "v1", "2")
STREAM = EndpointSpec("stream", 0, 4, 1, ("/stream",))
VALIDATE = EndpointSpec("validate", 1, 2, 4, ("/validate",))


def revision(*endpoints: EndpointSpec) -> Revision:
    return Revision(ID, ArtifactRef("speech", 2), "sha256:" + "a" * 64, endpoints, "", 0.0)


def endpoint(name: str) -> EndpointId:
    return EndpointId("speech", "v1", "2", name)


def replica(name: str, state: State, serves: str = WHOLE, reason: str = "") -> Replica:
    return Replica(name, ID, "sha256:" + "a" * 64, state, reason, endpoint=serves)


def node(*replicas: Replica, cold: tuple[str, ...] = ()) -> NodeStatus:
    return NodeStatus("n", 1.0, 7, 3, replicas, cold=tuple(map(endpoint, cold)))


def catalog(one: Revision) -> Catalog:
    return with_traffic(with_revision(Catalog(), one), ID.line_id, (TrafficShare("2", 100),))


@pytest.mark.parametrize(
    "change",
    [{"min_scale": 0}, {"max_scale": 0}, {"concurrency": 2}, {"resources": {"limits": {}}}],
)
def test_endpoints_that_differ_in_their_scale_have_replicas_of_their_own(
    change: dict[str, object],
) -> None:
    alike = (STREAM, replace(STREAM, name="other", paths=("/other",)))
    one = revision(*alike)
    assert units(one) == (ScaleUnit(ID),)
    assert unit_of(one, "other") == ScaleUnit(ID)
    assert served(one, ScaleUnit(ID)) == alike
    apart = revision(replace(STREAM, min_scale=1), replace(alike[1], **({"min_scale": 1} | change)))
    assert scaled_apart(apart.endpoints)
    assert units(apart) == (ScaleUnit(ID, "stream"), ScaleUnit(ID, "other"))
    assert unit_of(apart, "other") == ScaleUnit(ID, "other")
    assert [one.name for one in served(apart, ScaleUnit(ID, "other"))] == ["other"]
    assert endpoint_ids(apart, ScaleUnit(ID, "other")) == (endpoint("other"),)


def test_one_endpoint_is_a_whole_revision() -> None:
    assert units(revision(STREAM)) == (ScaleUnit(ID),)
    assert str(ScaleUnit(ID)) == "speech/v1.2"
    assert str(ScaleUnit(ID, "stream")) == "speech/v1.2/stream"


def test_a_revision_is_up_when_every_endpoint_is_ready_or_cold() -> None:
    one = revision(STREAM, VALIDATE)
    there = catalog(one)
    half = node(replica("a", State.READY, "stream"), replica("b", State.FAILED, "validate", "no"))
    assert half.up(there) == frozenset()
    assert half.unserved(one) == (endpoint("validate"),)
    assert health_problems(there, half) == ["speech/v1.2 is not ready (failed: no)"]
    for whole in (
        node(replica("a", State.READY, "stream"), replica("b", State.READY, "validate")),
        node(replica("b", State.READY, "validate"), cold=("stream",)),
        node(cold=("stream", "validate")),
        node(replica("a", State.READY)),
    ):
        assert whole.up(there) == {ID}
        assert whole.unserved(one) == ()
        assert health_problems(there, whole) == []


def test_a_cold_endpoint_that_comes_up_is_no_failure() -> None:
    waking = node(replica("a", State.STARTING), cold=("stream", "validate"))
    assert health_problems(catalog(revision(STREAM, VALIDATE)), waking) == []


def test_what_a_node_does_not_know_of_is_not_up() -> None:
    assert node(cold=("stream",)).up(Catalog()) == frozenset()


def test_cold_endpoints_and_scales_read_back() -> None:
    told = replace(
        node(replica("a", State.READY, "validate"), cold=("stream",)),
        scales=(Scale(ScaleUnit(ID, "stream"), 0, "no request for 60 s"), Scale(ScaleUnit(ID), 2)),
    )
    assert node_status_from_bytes(node_status_to_bytes(told)) == told


def test_a_status_from_before_there_were_cold_endpoints_is_read() -> None:
    old = node_status_to_bytes(node()).replace(b', "cold": [], "scales": []', b"")
    assert b"cold" not in old
    assert node_status_from_bytes(old) == node()
