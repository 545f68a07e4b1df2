"""Deleting over a store in memory: what a rollout is at stays, whoever is faster."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from fairlead.adapters.memory.artifacts import MemoryArtifacts
from fairlead.adapters.memory.store import MemoryObjectStore
from fairlead.adapters.store.catalogs import StoredCatalogs
from fairlead.adapters.store.rollouts import StoredRollouts
from fairlead.control import releases
from fairlead.control.deleting import Deleting
from fairlead.control.releases import SourcedRelease
from fairlead.control.rollouts import Desk
from fairlead.domain.errors import FairleadError, Kind, Refused
from fairlead.domain.judge import Policy
from fairlead.domain.release import release_from_document
from fairlead.domain.removal import Target
from fairlead.domain.rollout import Outcome, Record
from fairlead.kits.clock import FakeClock

LINE = Target("speech", "v9")


def release(version: str, service: str = "speech") -> SourcedRelease:
    document: dict[str, Any] = {"service": service, "model": "v9", "version": version}
    document["artifact"] = f"{service}/{version}"
    return SourcedRelease(f"{version}.yaml", release_from_document(document, "file"))


@dataclass
class Stage:
    clock: FakeClock = field(default_factory=FakeClock)
    store: MemoryObjectStore = field(default_factory=MemoryObjectStore)

    def __post_init__(self) -> None:
        self.catalogs = StoredCatalogs(self.store, self.clock)
        self.rollouts = StoredRollouts(self.store)
        self.desk = Desk(self.catalogs, self.rollouts, self.clock)
        self.deleting = Deleting(self.catalogs, self.rollouts, self.clock, lambda: None)
        self.apply(release("1"), release("1", "other"))

    def apply(self, *sourced: SourcedRelease) -> None:
        releases.apply(self.catalogs, MemoryArtifacts(), self.clock, list(sourced))

    def begin(self) -> Record:
        process = {"pid": 1, "started": 1, "boot": "b"}
        return self.desk.begin(MemoryArtifacts(), release("2"), Policy(), process)


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_it_is_one_commit_and_stands_in_the_audit(stage: Stage) -> None:
    before = stage.catalogs.read().generation
    removal = stage.deleting.delete(LINE)
    assert removal.catalog == stage.catalogs.read()
    assert removal.catalog.generation == before + 1
    assert list(removal.catalog.services) == ["other"]
    assert "delete speech/v9" in stage.store.get(f"audit/{before + 1:08d}.json")[0].decode()
    with pytest.raises(Refused, match="there is no service 'speech'"):
        stage.deleting.delete(LINE)


def test_a_plan_changes_nothing(stage: Stage) -> None:
    assert [str(one.id) for one in stage.deleting.plan(LINE).revisions] == ["speech/v9.1"]
    assert "speech" in stage.catalogs.read().services


@pytest.mark.parametrize("target", ["speech", "speech/v9", "speech/v9.2"])
def test_what_a_rollout_is_at_stays(stage: Stage, target: str) -> None:
    stage.apply(release("2"), release("3"))
    stage.apply(release("1"))  # unchanged; 3 has the traffic
    process = {"pid": 1, "started": 1, "boot": "b"}
    record = stage.desk.begin(MemoryArtifacts(), release("4"), Policy(), process)
    with pytest.raises(Refused, match=r"rollout .* of speech/v9\.4 has not ended") as caught:
        stage.deleting.delete(Target.parse(target))
    assert caught.value.kind is Kind.CONFLICT
    stage.deleting.delete(Target("other"))  # nobody is at that
    stage.desk.end(record, Outcome.STOPPED, ("over",))
    stage.deleting.delete(Target.parse(target))


def test_a_rollout_that_begins_meanwhile_is_seen(stage: Stage) -> None:
    """It writes its journal and changes the catalog after the first look, and before the commit."""
    commit = stage.catalogs.commit
    began: list[Record] = []

    class Late(StoredCatalogs):
        def commit(self, catalog: Any, message: str) -> Any:
            if not began:
                began.append(stage.begin())
            return commit(catalog, message)

    late = Late(stage.store, stage.clock)
    with pytest.raises(Refused, match="has not ended"):
        Deleting(late, stage.rollouts, stage.clock, lambda: None).delete(LINE)
    assert "speech" in stage.catalogs.read().services
    assert began


def test_a_rollout_that_comes_too_late_stops(stage: Stage) -> None:
    """Its journal is written after the look; the line has gone by the time it touches the catalog."""

    class Slow(StoredRollouts):
        def append(self, rollout: str, entry: Any) -> None:
            if entry.number == 1:
                stage.deleting.delete(LINE)
            super().append(rollout, entry)

    stage.desk = Desk(stage.catalogs, Slow(stage.store), stage.clock)
    with pytest.raises(FairleadError, match="there is no service 'speech'"):
        stage.begin()
    assert stage.rollouts.unfinished() == []
    assert list(stage.catalogs.read().services) == ["other"]
