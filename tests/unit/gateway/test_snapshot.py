"""The documents Envoy is given, whole; and what must hold in them whatever the table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from hypothesis import given, strategies as st
from syrupy.assertion import SnapshotAssertion

from fairlead.domain.catalog import Catalog, Kill, with_key, with_kill
from fairlead.domain.ids import EndpointId, RevisionId
from fairlead.domain.keys import Quota, Rate, Scope
from fairlead.domain.layout import Home
from fairlead.domain.release import EndpointSpec
from fairlead.domain.status import Replica, State
from fairlead.domain.table import Kept, RoutingTable, table_from
from fairlead.gateway.behind import Behind
from fairlead.gateway.clusters import (
    cluster_name,
    endpoint_of,
    front_cluster,
    named_clusters,
    replicas_of,
    worker_cluster,
)
from fairlead.gateway.memo import Memo
from fairlead.gateway.settings import GatewaySettings
from fairlead.gateway.snapshot import Snapshot, snapshot as take
from support.effort import effort
from support.gateway import DIGEST, catalog, revision

HOME: Home[PurePosixPath] = Home(PurePosixPath("/home"), PurePosixPath("/run/f"))
SETTINGS = GatewaySettings()
KEYS = {"demo": ("*",), "part": ("speech",)}


def replica(worker: str, one: RevisionId) -> Replica:
    return Replica(worker, one, DIGEST, State.READY, socket=f"/run/f/{worker}.sock")


def speech(paths: tuple[str, ...] = ("/api/speak",)) -> Catalog:
    return catalog(
        revision("speech/v9.1", 1, {"predict": paths}),
        revision("speech/v9.2", 2),
        traffic={"speech/v9": {"1": 90, "2": 10}},
        pins={"speech": "v9"},
        keys=KEYS,
    )


def snapped(
    wanted: Catalog, settings: GatewaySettings = SETTINGS, memo: Memo | None = None
) -> Snapshot:
    table = table_from(wanted, wanted.live(), {}, RoutingTable())
    replicas = {one: (replica(f"w-{one.line}-{one.revision}", one),) for one in wanted.live()}
    credentials = {"s-demo": "demo", "s-part": "part", "s-gone": "gone"}
    return take(table, Behind(replicas), credentials, settings, HOME, memo)


def test_a_split_line_with_a_path_of_its_own_becomes_these_documents(
    snapshot: SnapshotAssertion,
) -> None:
    taken = snapped(speech())
    assert taken.routes == snapshot(name="routes")
    assert dict(taken.clusters) == snapshot(name="clusters")
    assert taken.listener == snapshot(name="listener")
    assert taken.bootstrap == snapshot(name="bootstrap")


def test_a_key_with_a_quota_gets_a_gate_of_its_own(snapshot: SnapshotAssertion) -> None:
    wanted, quota = speech(), Quota(Rate(6, 60, 20), 8)
    gated = with_key(wanted, replace(wanted.keys["part"], quota=quota))
    before, taken = snapped(wanted), snapped(gated)
    new = taken.clusters.keys() - before.clusters.keys()
    assert new == taken.gates.keys() == named_clusters(taken.routes) - named_clusters(before.routes)
    (gate,) = taken.gates.values()
    inner, outer = _manager(gate), _manager(taken.listener)
    differing = {name: one for name, one in inner.items() if one != outer.get(name)}
    assert {**gate, "filter_chains": differing} == snapshot(name="listener")
    assert {name: taken.clusters[name] for name in new} == snapshot(name="cluster")
    # Nothing that other keys meet has changed.
    assert taken.listener == before.listener
    assert {**taken.clusters, **before.clusters} == taken.clusters
    # Another quota is another gate; whatever else a key has is not its gate's business.
    other = with_key(gated, replace(gated.keys["part"], quota=replace(quota, concurrency=9)))
    assert not snapped(other).gates.keys() & new
    scoped = with_key(gated, replace(gated.keys["part"], allow=(Scope("speech", "v9"),)))
    assert snapped(scoped).gates == taken.gates
    assert not snapped(with_key(gated, replace(gated.keys["part"], killed="off"))).gates


def _manager(listener: dict[str, Any]) -> dict[str, Any]:
    return dict(listener["filter_chains"][0]["filters"][0]["typed_config"])


def test_an_empty_table_leads_everybody_to_the_front_desk() -> None:
    taken = take(RoutingTable(), {}, {}, SETTINGS, HOME)
    assert list(taken.clusters) == ["front"]
    assert named_clusters(taken.routes) == {"front"}


def test_only_keys_the_catalog_knows_are_told() -> None:
    assert "s-gone" not in str(snapped(speech()).routes)


def test_beyond_loopback_the_docs_and_the_numbers_ask_for_a_key() -> None:
    def open_here(settings: GatewaySettings) -> set[str]:
        return set(_open_paths(snapped(speech(), settings).routes))

    here = open_here(SETTINGS)
    there = open_here(GatewaySettings(host="0.0.0.0"))
    assert here - there == {"/docs", "/metrics", "/openapi.json"}
    assert {"/", "/livez", "/healthz", "/v1/", "/v2/health/ready"} <= there


def test_a_path_under_another_paths_prefix_is_found_under_the_longer_one() -> None:
    routes = snapped(speech(("/v2/models/speech/inf",))).routes
    under = _entries(routes, "/v2/models/speech/inf")
    assert "/v2/models/speech/infer" in str(under)
    assert "/v2/models/speech/infer'" not in str(_entries(routes, "/v2/models/speech"))


def test_a_key_for_nothing_finds_no_cluster_but_the_front_desk() -> None:
    wanted = catalog(
        revision("speech/v9.1"),
        traffic={"speech/v9": {"1": 100}},
        pins={"speech": "v9"},
        keys={"none": ("elsewhere",)},
    )
    table = table_from(wanted, wanted.live(), {}, RoutingTable())
    assert named_clusters(take(table, Behind(), {"s": "none"}, SETTINGS, HOME).routes) == {"front"}


@given(st.sets(st.text(min_size=1), min_size=1, max_size=5))
def test_a_cluster_is_the_same_for_the_same_workers_only(workers: set[str]) -> None:
    one = RevisionId("speech", "v9", "2")
    there = [replica(worker, one) for worker in workers]
    way = EndpointId("speech", "v9", "2")
    name = cluster_name(way, there)
    assert name == cluster_name(way, reversed(there))
    assert name != cluster_name(way, [*there, replica("".join(workers) + "more", one)])
    assert name != cluster_name(EndpointId("speech", "v9", "2", "stream"), there)
    assert name.startswith("speech/v9.2/predict@")


def test_a_cluster_tells_who_is_behind_it() -> None:
    one = RevisionId("speech", "v9", "2")
    behind = (replica("a", one), replica("b", one))
    way = EndpointId("speech", "v9", "2", "stream")
    cluster = worker_cluster(way, behind, EndpointSpec("stream"), SETTINGS.kill_switch)
    assert (replicas_of(cluster), endpoint_of(cluster)) == (behind, way)
    assert replicas_of(worker_cluster(way, (), EndpointSpec("stream"), SETTINGS.kill_switch)) == ()
    assert endpoint_of(front_cluster("/run/f/front.sock")) is None


def _open_paths(value: Any) -> list[str]:
    if isinstance(value, list):
        return [path for one in value for path in _open_paths(one)]
    if not isinstance(value, dict):
        return []
    found = [path for one in value.values() for path in _open_paths(one)]
    switched_off = "disabled" in str(value.get("typed_per_filter_config", ""))
    if switched_off and "path" in value.get("match", {}):
        found.append(value["match"]["path"])
    return found


def _entries(routes: dict[str, Any], prefix: str) -> Any:
    by_key = routes["virtual_hosts"][0]["matcher"]["on_no_match"]
    by_path = by_key["matcher"]["on_no_match"]
    return by_path["matcher"]["matcher_tree"]["prefix_match_map"]["map"][prefix]


@st.composite
def catalogs(draw: st.DrawFn) -> Catalog:
    """Two services that may share a path and a version, in whatever state."""
    path = st.sampled_from([(), ("/say",), ("/say", "/v2/models/other")])
    share = draw(st.integers(0, 100))
    lines = st.sampled_from(["speech/v9", "speech/v10"])
    found = catalog(
        revision("speech/v9.1", draw(st.integers(1, 2)), {"predict": draw(path)}),
        revision("speech/v9.2", 2, {"predict": (), "stream": draw(path)}),
        revision("speech/v10.1", 3),
        revision("other/v9.1", 1, {"predict": draw(path)}),
        traffic={
            "speech/v9": {"1": share, "2": 100 - share},
            "speech/v10": {"1": 100},
            "other/v9": {"1": 100},
        },
        pins={"speech": draw(lines).partition("/")[2], "other": "v9"},
        keys={"demo": ("*",), "part": draw(st.sampled_from([("speech",), ("other", "speech/v9")]))},
    )
    kill = draw(st.sampled_from([None, Kill("later", 1.0)]))
    return with_kill(found, "speech", kill)


@effort(25)
@given(st.lists(catalogs(), min_size=2, max_size=5))
def test_what_is_remembered_from_the_last_table_is_what_would_be_made_anew(
    wanted: list[Catalog],
) -> None:
    memo = Memo()
    for one in wanted:
        assert snapped(one, memo=memo) == snapped(one)


@effort(40)
@given(
    st.lists(
        st.tuples(
            catalogs(), st.sets(st.integers(0, 3)), st.sets(st.integers(0, 3)), st.booleans()
        ),
        min_size=2,
        max_size=6,
    )
)
def test_a_table_with_what_is_kept_from_the_last_ones_is_the_one_made_anew(
    steps: list[tuple[Catalog, set[int], set[int], bool]],
) -> None:
    before, kept = RoutingTable(), Kept()
    for wanted, ready, failed, taken in steps:
        live = sorted(wanted.live())
        up = [live[number] for number in ready]
        reasons = {live[number]: "failed: /srv/x: no such file" for number in failed}
        found = table_from(wanted, up, reasons, before, kept)
        assert found == table_from(wanted, up, reasons, before)
        before = found if taken else before  # a move may fail


def test_of_a_table_only_the_services_that_changed_are_made_anew() -> None:
    wanted, kept = speech(), Kept()
    before = table_from(wanted, wanted.live(), {}, RoutingTable(), kept)
    first = table_from(wanted, wanted.live(), {}, before, kept)
    again = table_from(replace(wanted, generation=9), wanted.live(), {}, first, kept)
    assert again.services["speech"] is first.services["speech"]
    killed = with_kill(wanted, "speech", Kill("later", 1.0))
    assert table_from(killed, wanted.live(), {}, again, kept).services["speech"].kill


def test_only_what_a_change_concerns_is_made_anew() -> None:
    made: list[str] = []
    memo = Memo()

    def of(name: str, inputs: object) -> str:
        return memo.of(name, inputs, lambda: made.append(name) or f"{name} {inputs}")  # type: ignore[func-returns-value]

    for inputs in ({"a": 1, "b": 1}, {"a": 1, "b": 2}, {"b": 2}, {"a": 1, "b": 2}):
        memo.begin()
        assert [of(name, one) for name, one in inputs.items()] == [
            f"{name} {one}" for name, one in inputs.items()
        ]
    assert made == ["a", "b", "b", "a"]
