"""Taking revisions, lines and services out of a catalog; and when nothing is left of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from fairlead.domain.catalog import (
    Catalog,
    Kill,
    Revision,
    with_key,
    with_kill,
    with_pin,
    with_revision,
    with_traffic,
)
from fairlead.domain.errors import InvalidInput, Kind, Refused
from fairlead.domain.ids import ArtifactRef, LineId, RevisionId
from fairlead.domain.keys import KeyRecord, Scope
from fairlead.domain.release import EndpointSpec, TrafficShare
from fairlead.domain.removal import Target, remains, without
from fairlead.domain.status import GatewayStatus, NodeStatus, Replica, State
from fairlead.domain.table import RoutingTable, table_from

V1, V2 = LineId("speech", "v1"), LineId("speech", "v2")


def revision(line: LineId, tag: str, digest: str = "") -> Revision:
    digest = digest or f"sha256:{line.service}-{line.line}-{tag}"
    identity = RevisionId(line.service, line.line, tag)
    return Revision(identity, ArtifactRef(line.service, 1), digest, (EndpointSpec("p"),), "x", 1.0)


def shares(**percents: int) -> tuple[TrafficShare, ...]:
    return tuple(TrafficShare(tag.removeprefix("r"), percent) for tag, percent in percents.items())


@pytest.fixture
def catalog() -> Catalog:
    """speech/v1 (1 without a share, 2 at 0 %, 3 at 100 %), speech/v2 (1, 100 %), other/v1 (1)."""
    made = Catalog(generation=7)
    for tag in "123":
        made = with_revision(made, revision(V1, tag))
    made = with_traffic(made, V1, shares(r2=0, r3=100))
    made = with_traffic(with_revision(made, revision(V2, "1")), V2, shares(r1=100))
    other = LineId("other", "v1")
    made = with_traffic(with_revision(made, revision(other, "1")), other, shares(r1=100))
    for client, scopes in {
        "all": ["*"],
        "line": ["speech/v2:infer"],
        "both": ["speech", "other:read", "speech/v2"],
    }.items():
        made = with_key(made, KeyRecord(client, tuple(map(Scope.parse, scopes)), 0.0, "f"))
    return with_kill(made, "other", Kill("off", 1.0))


def gateway(**more: object) -> GatewayStatus:
    return replace(GatewayStatus(0.0, 1, 7, "http://x"), **more)  # type: ignore[arg-type]


class TestTarget:
    @pytest.mark.parametrize("text", ["speech", "speech/v1", "speech/v1.2"])
    def test_it_reads_what_it_writes(self, text: str) -> None:
        assert str(Target.parse(text)) == text

    @pytest.mark.parametrize("text", ["", "/v1", "speech/", "speech/v1.", "a/b/c", "Ä", "speech.1"])
    def test_anything_else_is_refused(self, text: str) -> None:
        with pytest.raises(InvalidInput, match=r"write SERVICE, SERVICE/LINE or"):
            Target.parse(text)


class TestARevision:
    def test_without_traffic_it_goes_and_its_name_never_comes_back(self, catalog: Catalog) -> None:
        for tag in "12":  # one without a share, one that was kept at 0 %
            removal = without(catalog, Target("speech", "v1", tag), None)
            line = removal.catalog.line(V1)
            assert tag not in line.revisions
            assert line.let_go == (tag,)
            assert tag not in {share.tag for share in line.traffic}
            assert line.traffic[-1] == TrafficShare("3", 100)
            assert [one.id.revision for one in removal.revisions] == [tag]
            assert removal.keys == ()

    def test_with_traffic_it_stays(self, catalog: Catalog) -> None:
        with pytest.raises(Refused, match=r"100 % .*fairlead traffic speech v1 2=100") as caught:
            without(catalog, Target("speech", "v1", "3"), None)
        assert caught.value.kind is Kind.CONFLICT

    def test_as_long_as_requests_still_flow_to_it_it_stays(self, catalog: Catalog) -> None:
        flowing = gateway(effective={V1: shares(r1=100)})
        with pytest.raises(Refused, match="still gets requests"):
            without(catalog, Target("speech", "v1", "1"), flowing)
        without(catalog, Target("speech", "v1", "1"), gateway(effective={V1: shares(r1=0, r3=100)}))

    def test_the_last_one_goes_with_its_line_only(self, catalog: Catalog) -> None:
        with pytest.raises(Refused, match="all there is of speech/v2: `fairlead delete speech/v2`"):
            without(catalog, Target("speech", "v2", "1"), None)

    @pytest.mark.parametrize(
        ("target", "told"),
        [
            ("nothing", "services: other, speech"),
            ("speech/v9", "lines: v1, v2"),
            ("speech/v1.9", "revisions: 1, 2, 3"),
        ],
    )
    def test_what_is_not_there_is_told_with_what_is(
        self, catalog: Catalog, target: str, told: str
    ) -> None:
        with pytest.raises(Refused, match=told) as caught:
            without(catalog, Target.parse(target), None)
        assert caught.value.kind is Kind.NOT_FOUND

    def test_one_that_was_let_go_is_told_as_such(self, catalog: Catalog) -> None:
        gone = without(catalog, Target("speech", "v1", "1"), None).catalog
        with pytest.raises(Refused, match="kept no longer"):
            without(gone, Target("speech", "v1", "1"), None)


class TestALine:
    def test_it_goes_with_its_traffic_and_the_scopes_that_name_it(self, catalog: Catalog) -> None:
        removal = without(catalog, Target("speech", "v2"), None)
        assert list(removal.catalog.services["speech"].lines) == ["v1"]
        allow = {client: [*map(str, key.allow)] for client, key in removal.catalog.keys.items()}
        assert allow == {"all": ["*"], "line": [], "both": ["speech", "other:read"]}
        assert {key.client: removal.lost(key) for key in removal.keys} == {
            "line": (Scope("speech", "v2", "infer"),),
            "both": (Scope("speech", "v2"),),
        }

    def test_the_pinned_one_stays_while_there_are_others(self, catalog: Catalog) -> None:
        with pytest.raises(Refused, match=r"fairlead pin speech v2"):
            without(catalog, Target("speech", "v1"), None)
        moved = with_pin(catalog, V2)
        with pytest.raises(Refused, match="still leads to v1, until v2 is ready"):
            without(moved, Target("speech", "v1"), gateway(pins={"speech": "v1"}))
        assert (
            "v1"
            not in without(moved, Target("speech", "v1"), None).catalog.services["speech"].lines
        )

    def test_the_last_one_takes_its_service_along(self, catalog: Catalog) -> None:
        removal = without(catalog, Target("other", "v1"), None)
        assert "other" not in removal.catalog.services
        assert removal.catalog.keys["both"].allow == (Scope("speech"), Scope("speech", "v2"))

    def test_its_names_can_be_used_again(self, catalog: Catalog) -> None:
        gone = without(catalog, Target("speech", "v2"), None).catalog
        again = with_revision(gone, revision(V2, "1", "sha256:new"))
        assert again.line(V2).let_go == ()


class TestAService:
    def test_nothing_of_it_is_left(self, catalog: Catalog) -> None:
        removal = without(catalog, Target("speech"), gateway(effective={V1: shares(r3=100)}))
        assert list(removal.catalog.services) == ["other"]
        assert len(removal.revisions) == 4
        assert removal.catalog.keys["line"].allow == ()
        assert removal.catalog.keys["all"] is not None
        assert len(removal.digests) == 4

    def test_an_artifact_that_another_revision_names_stays(self, catalog: Catalog) -> None:
        shared = with_revision(catalog, revision(LineId("other", "v1"), "2", "sha256:speech-v2-1"))
        assert "sha256:speech-v2-1" not in without(shared, Target("speech"), None).digests


class TestWhatRemains:
    def test_it_is_said_until_nothing_is_left(self, catalog: Catalog) -> None:
        removal = without(catalog, Target("speech", "v2"), None)
        removal = replace(removal, catalog=replace(removal.catalog, generation=8))
        (one,) = removal.revisions
        worker = Replica("w", one.id, one.digest, State.READY)
        node = NodeStatus("n", 0.0, 1, 7, (worker,))
        early = gateway(workers=("w",))
        said = list(remains(removal, node, early, [one.digest, "sha256:others"]))
        assert said == [
            "the agent has not read it yet",
            "the gateway has not read it yet",
            "requests to speech/v2.1 are being finished",
            "the files of speech/1 are on this node's disk",
        ]
        node = replace(node, generation=8, replicas=(replace(worker, state=State.DRAINING),))
        late = gateway(generation=8)
        assert list(remains(removal, node, late, [])) == ["worker w of speech/v2.1 is draining"]
        other = replace(worker, digest="sha256:made anew")
        assert list(remains(removal, replace(node, replicas=(other,)), late, [])) == []
        assert list(remains(removal, None, None, [])) == []


def test_a_share_without_traffic_may_go_while_another_revision_comes_up(catalog: Catalog) -> None:
    """The line must not be without an answer because a revision nobody is sent to has gone."""
    ready = {RevisionId("speech", "v1", tag) for tag in "23"}
    before = table_from(catalog, ready, {}, RoutingTable())
    moving = with_traffic(with_revision(catalog, revision(V1, "4")), V1, shares(r4=100))
    gone = without(moving, Target("speech", "v1", "2"), None).catalog
    table = table_from(gone, ready, {}, before)
    assert table.services["speech"].lines["v1"].traffic == shares(r3=100)


def test_a_name_that_means_another_artifact_is_not_routable_by_what_it_was(
    catalog: Catalog,
) -> None:
    before = table_from(catalog, {RevisionId("speech", "v2", "1")}, {}, RoutingTable())
    gone = without(catalog, Target("speech", "v2"), None).catalog
    again = with_revision(gone, revision(V2, "1", "sha256:new"))
    again = with_traffic(again, V2, shares(r1=100))
    old = Replica("w", RevisionId("speech", "v2", "1"), "sha256:speech-v2-1", State.READY)
    ready = NodeStatus("n", 0.0, 1, 9, (old,)).ready_for(again)
    line = table_from(again, ready, {}, before).services["speech"].lines["v2"]
    assert not line.revisions["1"].routable
    assert line.traffic == ()


@given(st.data())
def test_whatever_is_deleted_nothing_else_changes(data: st.DataObject) -> None:
    made = Catalog()
    for service in ("a", "b"):
        for name in ("v1", "v2"):
            line = LineId(service, name)
            count = data.draw(st.integers(1, 3))
            for tag in range(count):
                made = with_revision(made, revision(line, str(tag)))
            made = with_traffic(made, line, shares(**{f"r{count - 1}": 100}))
    target = Target("a", *data.draw(st.sampled_from([(), ("v1",), ("v2",), ("v1", "0")])))
    try:
        after = without(made, target, None).catalog
    except Refused:
        return
    assert after.services["b"] == made.services["b"]
    left = after.services.get("a")
    for name, line_left in left.lines.items() if left else ():
        if name != target.line:
            assert line_left == made.services["a"].lines[name]
        assert all(share.tag in line_left.revisions for share in line_left.traffic)
    assert left is None or left.pin.line in left.lines
