"""A command says `live` of its own change only: not when somebody has taken that back while it waited."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fairlead.domain import catalog as catalogs
from fairlead.domain.catalog import Catalog, Revision
from fairlead.domain.errors import FairleadError, Kind, Refused
from fairlead.domain.ids import ArtifactRef, LineId, RevisionId
from fairlead.domain.release import EndpointSpec, TrafficShare
from fairlead.domain.status import (
    GatewayStatus,
    NodeStatus,
    Replica,
    State,
    gateway_status_to_bytes,
    node_status_to_bytes,
)
from fairlead.domain.superseded import Made
from fairlead.kits import files
from fairlead.kits.clock import FakeClock
from fairlead.wiring.homes import Control, open_home
from fairlead.wiring.settle import settle

LINE = LineId("sl", "v1")
OLD, NEW = (TrafficShare("1", 100),), (TrafficShare("2", 100),)


class Meanwhile(FakeClock):
    """Somebody does something while the command waits."""

    def __init__(self) -> None:
        super().__init__(100.0)
        self.what: Callable[[], None] | None = None

    def pause(self, seconds: float) -> None:
        super().pause(seconds)
        what, self.what = self.what, None
        if what is not None:
            what()


@pytest.fixture
def clock() -> Meanwhile:
    return Meanwhile()


@pytest.fixture
def control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Meanwhile) -> Control:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/tmp")
    return replace(open_home(tmp_path / "home", create=True), clock=clock)


def two(traffic: tuple[TrafficShare, ...]) -> Catalog:
    found = Catalog()
    for tag in ("1", "2"):
        made = Revision(
            RevisionId("sl", "v1", tag),
            ArtifactRef("sl", int(tag)),
            f"sha256:{tag}",
            (EndpointSpec("predict"),),
            "x",
            5.0,
        )
        found = catalogs.with_revision(found, made)
    return catalogs.with_traffic(found, LINE, traffic)


def applied(control: Control) -> Made:
    """v1.2 is in the catalog, and what runs still serves v1.1."""
    catalog = control.catalogs.commit(two(NEW), "apply")
    serving(control, "1", OLD)
    return Made(catalog, lines=frozenset({LINE}))


def serving(control: Control, tag: str, traffic: tuple[TrafficShare, ...]) -> None:
    """Agent and gateway serve this revision, and have read the newest catalog."""
    generation = control.catalogs.read().generation
    there = Replica("w", RevisionId("sl", "v1", tag), f"sha256:{tag}", State.READY, "", "/w", 7, 1)
    now = control.clock.now()
    node = NodeStatus("local", now, 7, generation, (there,))
    gateway = GatewayStatus(
        now,
        8,
        generation,
        "http://127.0.0.1:1",
        ("w",),
        {LINE: traffic},
        {"sl": "v1"},
        keys=files.mark(control.home.keys),
    )
    files.write_atomic(control.home.node_status, node_status_to_bytes(node))
    files.write_atomic(control.home.gateway_status, gateway_status_to_bytes(gateway))


def test_a_change_that_gets_live_is_live(control: Control, clock: Meanwhile) -> None:
    made, told = applied(control), list[str]()
    clock.what = lambda: serving(control, "2", NEW)
    settle(control, made, 5.0, told.append)
    assert told == ["live after 0.0 s"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda catalog: replace(catalog, services={}), "service sl was deleted"),
        (
            lambda catalog: catalogs.with_traffic(catalog, LINE, OLD),
            "traffic of sl/v1 was moved to 1=100",
        ),
    ],
)
def test_a_change_that_somebody_takes_back_is_superseded_and_never_live(
    control: Control, clock: Meanwhile, change: Callable[[Catalog], Catalog], said: str
) -> None:
    made, told = applied(control), list[str]()

    def taken_back() -> None:
        control.catalogs.commit(change(control.catalogs.read()), "somebody else")
        serving(control, "1", OLD)  # all that the newest catalog says is in force

    clock.what = taken_back
    with pytest.raises(Refused, match=f"superseded before it was live: {said}; ") as caught:
        settle(control, made, 5.0, told.append)
    assert caught.value.kind is Kind.CONFLICT
    assert told == []


def test_where_nothing_runs_there_is_nothing_to_wait_for(control: Control) -> None:
    told: list[str] = []
    made = Made(control.catalogs.commit(two(NEW), "apply"), lines=frozenset({LINE}))
    settle(control, made, 5.0, told.append)
    assert told == ["nothing runs here; it takes effect with the next `fairlead up`"]


def test_a_gateway_that_has_fallen_silent_is_not_taken_for_none(control: Control) -> None:
    """Started on its own, it is known by its lock alone."""
    made, told = applied(control), list[str]()
    status = GatewayStatus(control.clock.now() - 60, os.getpid(), 1, "", (), {}, {})
    files.write_atomic(control.home.gateway_status, gateway_status_to_bytes(status))
    lock = files.try_lock(control.home.gateway_lock)
    assert lock is not None
    with pytest.raises(FairleadError, match="not live yet"):
        settle(control, made, 0.0, told.append)
    assert any("the gateway runs, but has said nothing for 60 s" in one for one in told)
    os.close(lock)


def test_what_does_not_get_live_in_time_is_told(control: Control) -> None:
    made, told = applied(control), list[str]()
    with pytest.raises(FairleadError, match="in the catalog but not live yet") as caught:
        settle(control, made, 2.0, told.append)
    assert caught.value.kind is Kind.DEADLINE
    missing = [
        "sl/v1.2 is not ready (not started)",
        "traffic of sl/v1 has not moved yet",
    ]
    assert told == [f"{what}: {one}" for what in ("waiting", "not live") for one in missing]
