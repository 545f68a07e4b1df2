"""Planning and applying releases, over values and over a store in memory."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from fairlead.adapters.memory.artifacts import MemoryArtifacts
from fairlead.adapters.memory.store import MemoryObjectStore
from fairlead.adapters.store.catalogs import StoredCatalogs
from fairlead.control import catalogs as changing, releases
from fairlead.control.releases import SourcedRelease
from fairlead.domain.batching import Batching
from fairlead.domain.catalog import (
    KEPT_REVISIONS,
    Catalog,
    Pin,
    Service,
    with_pin,
    with_traffic,
)
from fairlead.domain.errors import InvalidInput, Refused
from fairlead.domain.ids import ArtifactRef, LineId, RevisionId
from fairlead.domain.manifest import Manifest
from fairlead.domain.release import TrafficShare, release_from_document
from fairlead.domain.signature import DataType, TensorSignature, TensorSpec
from fairlead.kits.clock import FakeClock

ARTIFACTS = MemoryArtifacts([ArtifactRef("speech", version) for version in range(1, 6)])


def release(version: str = "1", source: str = "", **changes: Any) -> SourcedRelease:
    document = {
        "service": "speech",
        "model": "v9",
        "version": version,
        "artifact": f"speech/{version}",
    } | changes
    name = source or f"v9.{version}.yaml"
    return SourcedRelease(name, release_from_document(document, name))


def split(**percents: int) -> list[dict[str, Any]]:
    return [{"tag": tag[1:], "percent": percent} for tag, percent in percents.items()]


@pytest.fixture
def catalogs() -> StoredCatalogs:
    return StoredCatalogs(MemoryObjectStore(), FakeClock())


def apply(catalogs: StoredCatalogs, *those: SourcedRelease) -> releases.Plan:
    return releases.apply(catalogs, ARTIFACTS, FakeClock(), list(those))[0]


def test_a_first_release_makes_service_revision_traffic_and_pin(catalogs: StoredCatalogs) -> None:
    plan = apply(catalogs, release())
    assert plan.changes == (
        "+ service speech, pinned to its first line v9",
        f"+ revision speech/v9.1 from artifact speech/1 (3.0 MiB, {ARTIFACTS.manifest(ArtifactRef('speech', 1)).digest[:19]}…)",
        "~ traffic speech/v9: none -> 1=100",
    )
    catalog = catalogs.read()
    assert set(catalog.live()) == {RevisionId("speech", "v9", "1")}
    assert catalog.services["speech"].pin.line == "v9"
    assert not catalog.services["speech"].pin.by_hand


def test_batching_that_contradicts_what_the_model_says_is_refused_with_its_key(
    catalogs: StoredCatalogs,
) -> None:
    class Small(MemoryArtifacts):
        def manifest(self, ref: ArtifactRef) -> Manifest:
            return dataclasses.replace(super().manifest(ref), batching=Batching(max_batch_size=8))

    asked = release(endpoints={"predict": {"batching": {"preferredBatchSizes": [16]}}})
    with pytest.raises(InvalidInput, match=r"endpoints\.predict\.batching\.preferredBatchSizes"):
        releases.apply(catalogs, Small(), FakeClock(), [asked])
    apply(catalogs, asked)  # the model says nothing: it is fine
    kept = catalogs.read().live()[RevisionId("speech", "v9", "1")]
    assert kept.endpoints[0].batching == Batching(preferred_batch_sizes=(16,))


def test_batching_is_judged_by_what_it_is_over_what_the_model_says(
    catalogs: StoredCatalogs,
) -> None:
    class Patient(MemoryArtifacts):
        def manifest(self, ref: ArtifactRef) -> Manifest:
            said = Batching(default_timeout_microseconds=1000, priority_levels=2)
            return dataclasses.replace(super().manifest(ref), batching=said)

    for version, said in enumerate(({"timeoutAction": "delay"}, {"defaultPriorityLevel": 2}), 1):
        asked = release(str(version), endpoints={"predict": {"batching": said}})
        releases.apply(catalogs, Patient(), FakeClock(), [asked])
        with pytest.raises(InvalidInput, match=r"endpoints\.predict\.batching\.\w+: is .*say"):
            apply(catalogs, release(str(version + 2), endpoints={"predict": {"batching": said}}))


def test_an_endpoints_own_time_must_not_end_before_the_wait_that_its_model_says(
    catalogs: StoredCatalogs,
) -> None:
    class Waiting(MemoryArtifacts):
        def manifest(self, ref: ArtifactRef) -> Manifest:
            said = Batching(max_queue_delay_microseconds=1_000_000)
            return dataclasses.replace(super().manifest(ref), batching=said)

    longer, as_long = (
        release(str(seconds), endpoints={"predict": {"timeoutSeconds": seconds}})
        for seconds in (2, 1)
    )
    releases.apply(catalogs, Waiting(), FakeClock(), [longer])
    with pytest.raises(InvalidInput, match=r"batching\.maxQueueDelayMicroseconds: is 1000000"):
        releases.apply(catalogs, Waiting(), FakeClock(), [as_long])


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"padVariableLengthInputs": {"z": 0}}, r"Inputs\.z: is no input of the model; inputs: x"),
        ({"padVariableLengthInputs": {"x": "a"}}, r"Inputs\.x: is 'a'; write a value of FP32"),
        ({"enabled": True}, r"enabled: is true; .* the first dimension of output 'y' is always 1"),
    ],
)
def test_batching_that_the_models_signature_has_no_place_for_is_refused_with_its_key(
    catalogs: StoredCatalogs, said: dict[str, Any], message: str
) -> None:
    first = 1 if "enabled" in said else -1
    signature = TensorSignature(
        (TensorSpec("x", DataType.FP32, (-1, -1)),),
        (TensorSpec("y", DataType.FP32, (first, 2)),),
    )

    class Tensors(MemoryArtifacts):
        def manifest(self, ref: ArtifactRef) -> Manifest:
            return dataclasses.replace(super().manifest(ref), signature=signature)

    asked = release(endpoints={"predict": {"batching": said}})
    with pytest.raises(InvalidInput, match=r"yaml: endpoints\.predict\.batching\.\w*" + message):
        releases.apply(catalogs, Tensors(), FakeClock(), [asked])
    documents = release(endpoints={"predict": {"batching": {"padVariableLengthInputs": {"x": 0}}}})
    with pytest.raises(InvalidInput, match="the model takes documents"):
        apply(catalogs, documents)


def test_older_revisions_are_applied_first_whatever_the_order_of_the_files(
    catalogs: StoredCatalogs,
) -> None:
    canary = release("2", traffic=split(r1=90, r2=10))
    apply(catalogs, canary, release("1"))
    assert catalogs.read().line(LineId("speech", "v9")).traffic == (
        TrafficShare("1", 90),
        TrafficShare("2", 10),
    )


def test_a_line_keeps_its_newest_revisions_and_those_with_traffic(
    catalogs: StoredCatalogs,
) -> None:
    clock = FakeClock()
    artifacts = MemoryArtifacts()
    in_use = {RevisionId("speech", "v9", "3")}  # it serves: what came after was never proved
    for number in range(1, KEPT_REVISIONS + 7):
        traffic = split(r1=50, **{f"r{number}": 50}) if number > 1 else split(r1=100)
        clock.advance(1)
        one = release(str(number), traffic=traffic)
        releases.apply(catalogs, artifacts, clock, [one], in_use)
    line = catalogs.read().line(LineId("speech", "v9"))
    assert set(line.revisions) == {"1", "3", *map(str, range(6, KEPT_REVISIONS + 7))}
    assert line.let_go == ("2", "4", "5")
    before = catalogs.read()
    plan, _ = releases.apply(catalogs, artifacts, clock, [release("4")], in_use)
    assert plan.changes == ()
    assert plan.drift == (
        "! speech/v9.4 is kept no longer: a line keeps its newest 20 without traffic; "
        "to have it back, give the file a new version",
    )
    newest = release(
        str(KEPT_REVISIONS + 6), traffic=split(r1=50, **{f"r{KEPT_REVISIONS + 6}": 50})
    )
    plan, _ = releases.apply(catalogs, artifacts, clock, [newest], ())
    assert plan.changes == (), "also when what was in use is not any more"
    assert catalogs.read() == before, "whoever applies all files again changes nothing"


def test_the_oldest_by_date_goes_first_whatever_it_is_called(catalogs: StoredCatalogs) -> None:
    clock = FakeClock()
    names = [f"{number * 7919 % 10007:x}" for number in range(1, KEPT_REVISIONS + 4)]
    for name in names:
        clock.advance(1)
        releases.apply(
            catalogs,
            MemoryArtifacts(),
            clock,
            [release(name, artifact="speech/1", traffic=[{"tag": name, "percent": 100}])],
            (),
        )
    assert catalogs.read().line(LineId("speech", "v9")).let_go == tuple(names[:2])


def test_the_same_files_again_change_nothing_and_commands_stand(catalogs: StoredCatalogs) -> None:
    those = [release("1"), release("2", traffic=split(r1=90, r2=10))]
    apply(catalogs, *those)
    line = LineId("speech", "v9")
    moved = (TrafficShare("1", 50), TrafficShare("2", 50))
    changing.change(
        catalogs, FakeClock(), lambda catalog: with_traffic(catalog, line, moved), "by hand"
    )
    before = catalogs.read()
    plan = apply(catalogs, *those)
    assert plan.changes == ()
    assert plan.drift == (
        "! drift speech/v9: the file says 1=90 2=10, the catalog 1=50 2=50; "
        "to follow the file: fairlead traffic speech v9 1=90 2=10",
    )
    assert catalogs.read() == before


def test_a_changed_file_moves_traffic_and_says_what_serves_no_more(
    catalogs: StoredCatalogs,
) -> None:
    apply(catalogs, release("1"), release("2", traffic=split(r1=90, r2=10)))
    plan = apply(catalogs, release("2", traffic=split(r2=100)))
    assert plan.changes == (
        "~ traffic speech/v9: 1=90 2=10 -> 2=100",
        "- revision speech/v9.1 serves no more once the new ones are ready",
    )
    assert (
        apply(catalogs, release("1", traffic=split(r1=100))).changes == ()
    )  # what was last applied for it
    back = apply(catalogs, release("1", traffic=split(r1=90, r2=10)))
    assert back.changes == ("~ traffic speech/v9: 2=100 -> 1=90 2=10",)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"artifact": "speech/3"}, "artifact (-speech/1 +speech/3)"),
        ({"endpoints": {"predict": {"concurrency": 3}}}, "endpoints"),
        (
            {"provideApiKeyAuthForLegacyContainerSupport": "true"},
            "provideApiKeyAuthForLegacyContainerSupport",
        ),
    ],
)
def test_a_revision_never_changes(
    catalogs: StoredCatalogs, change: dict[str, Any], told: str
) -> None:
    apply(catalogs, release("1"))
    before = catalogs.read()
    with pytest.raises(InvalidInput) as caught:
        apply(catalogs, release("1", **change))
    assert str(caught.value) == (
        "v9.1.yaml: version: speech/v9.1 exists already and revisions never change, "
        f"but this file changes its {told}; give the new revision a version of its own"
    )
    assert catalogs.read() == before


@pytest.mark.parametrize(
    ("those", "message"),
    [
        (
            [release("2", traffic=split(r1=90, r2=10))],
            "v9.2.yaml: traffic: line speech/v9 has no revision '1'; revisions: 2; "
            "apply the file that creates that revision first, or with this one",
        ),
        ([release("9")], "v9.9.yaml: artifact: the store has no artifact speech/9"),
        (
            [release("1", service=None)],
            "v9.1.yaml: service: is missing; say which service this line belongs to: service: speech",
        ),
        (
            [release("1", artifact=None, image="repo/image@sha256:0")],
            "v9.1.yaml: artifact: is missing; this target runs artifacts: artifact: <name>/<version>",
        ),
        (
            [
                release("1", endpoints={"predict": {"paths": ["/say"]}}),
                release(
                    "2",
                    source="other.yaml",
                    service="other",
                    endpoints={"predict": {"paths": ["/say"]}},
                ),
            ],
            "v9.1.yaml: endpoints.predict.paths: /say of line v9 belongs to service other; choose another path or line",
        ),
    ],
)
def test_a_release_that_cannot_be_applied_is_refused_and_nothing_changes(
    catalogs: StoredCatalogs, those: list[SourcedRelease], message: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        apply(catalogs, *those)
    assert str(caught.value) == message
    assert catalogs.read() == Catalog()


def test_planning_writes_nothing(catalogs: StoredCatalogs) -> None:
    manifests = releases.manifests_of(ARTIFACTS, [release()])
    plan = releases.plan(catalogs.read(), [release()], manifests, 0.0)
    assert plan.changes
    assert catalogs.read() == Catalog()


def test_a_command_about_something_unknown_lists_what_there_is(catalogs: StoredCatalogs) -> None:
    apply(catalogs, release())
    catalog = catalogs.read()
    for line, message in [
        (LineId("speach", "v9"), "there is no service 'speach'; services: speech"),
        (LineId("speech", "v8"), "service 'speech' has no line 'v8'; lines: v9"),
    ]:
        with pytest.raises(Refused) as caught:
            with_pin(catalog, line)
        assert str(caught.value) == message


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        ("model-7x", "model-7, model-97, model-87, model-79, model-78 and 95 more"),
        ("zzz", "model-0, model-1, model-10, model-11, model-12 and 95 more"),
    ],
)
def test_of_many_services_only_a_few_are_listed(asked: str, shown: str) -> None:
    """A thousand names would bury what was wrong."""
    names = [f"model-{number}" for number in range(100)]
    catalog = Catalog(
        services={name: Service(name, {}, Pin("v1", by_hand=False)) for name in names}
    )
    with pytest.raises(Refused) as caught:
        catalog.service(asked)
    assert str(caught.value) == (
        f"there is no service '{asked}'; services: {shown}: `fairlead status` lists them"
    )
