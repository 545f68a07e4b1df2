"""What is told of the kill switches as they open and close, with an Envoy that only remembers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fairlead.adapters.memory.envoy import MemoryEnvoy
from fairlead.domain.catalog import Kill, told_to_callers, with_kill
from fairlead.domain.errors import Refused
from fairlead.domain.ids import EndpointId, RevisionId
from fairlead.domain.kill_switch import KillSwitch
from fairlead.domain.release import EndpointSpec
from fairlead.domain.status import (
    GatewayStatus,
    OpenSwitch,
    Replica,
    State,
    gateway_status_from_bytes,
    gateway_status_to_bytes,
)
from fairlead.domain.table import RoutingTable
from fairlead.gateway.behind import Behind
from fairlead.gateway.clusters import cluster_name, worker_cluster
from fairlead.gateway.failures import HeldOff
from fairlead.gateway.index import index
from fairlead.gateway.state import View
from fairlead.gateway.switches import Switches
from fairlead.kits.clock import FakeClock
from support.gateway import DIGEST, catalog, revision

REVISION = RevisionId("speech", "v9", "2")
PREDICT = EndpointId("speech", "v9", "2")
STREAM = EndpointId("speech", "v9", "2", "stream")


def replica(worker: str) -> Replica:
    return Replica(worker, REVISION, DIGEST, State.READY, socket=f"/run/{worker}.sock")


class Gateway:
    """Two endpoints of one revision on the same two workers."""

    def __init__(self) -> None:
        self.envoy = MemoryEnvoy()
        self.envoy.alive = True
        self.clock = FakeClock()
        self.view = View(index(RoutingTable()), index(RoutingTable()))
        self.held: dict[EndpointId, HeldOff] = {}  # what the activator says
        self.switches = Switches(self.envoy, self.view, KillSwitch(), self.clock, lambda: self.held)

    async def routes_to(self, *workers: str) -> None:
        behind = tuple(map(replica, workers))
        self.view.behind = Behind({REVISION: behind})
        there = [
            worker_cluster(one, behind, EndpointSpec(one.endpoint), KillSwitch())
            for one in (PREDICT, STREAM)
        ]
        await self.envoy.set_clusters([*self.envoy.clusters().values(), *there])

    def off(self, endpoint: EndpointId, *workers: str) -> None:
        name = cluster_name(endpoint, self.view.behind.of(endpoint))
        self.envoy.off[name] = frozenset(replica(one).socket for one in workers)

    async def look(self, seconds: float = 1.0) -> tuple[OpenSwitch, ...]:
        self.clock.advance(seconds)
        await self.switches.look()
        return self.view.switches


@pytest.fixture
async def gateway() -> Gateway:
    made = Gateway()
    await made.routes_to("a", "b")
    return made


async def test_a_switch_is_told_by_endpoint_from_its_first_worker_on(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert await gateway.look() == ()
    gateway.off(STREAM, "b")
    (switch,) = await gateway.look()
    began = gateway.clock.now()
    assert switch == OpenSwitch(STREAM, ("b",), 2, began, began + 60)
    assert not switch.whole
    gateway.off(STREAM, "a", "b")
    (switch,) = await gateway.look()
    assert switch == OpenSwitch(STREAM, ("a", "b"), 2, began, began + 60)
    assert switch.whole
    assert gateway.view.trips == {STREAM: 2}
    gateway.envoy.off.clear()
    assert await gateway.look(60) == ()
    texts = [one.getMessage() for one in caplog.records]
    assert texts == [
        "speech/v9.2/stream: worker b is switched off for 60 s: 25 % or more of its requests failed",
        "speech/v9.2/stream: worker a is switched off for 60 s: 25 % or more of its requests failed",
        "speech/v9.2/stream: worker a is tried again after 60 s switched off",
        "speech/v9.2/stream: worker b is tried again after 61 s switched off",
    ]


async def test_switches_behind_the_activator_are_told_like_any_other(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    gateway.view.behind = Behind({REVISION: ()}, frozenset({STREAM}), frozenset({STREAM}))
    gateway.held[STREAM] = HeldOff(("c", "d"), frozenset({"d"}))
    (switch,) = await gateway.look()
    began = gateway.clock.now()
    assert switch == OpenSwitch(STREAM, ("d",), 2, began, began + 60)
    gateway.held[STREAM] = HeldOff(("d",), frozenset({"d"}))
    (switch,) = await gateway.look()
    assert switch.whole
    assert gateway.view.trips == {STREAM: 1}
    gateway.held.clear()
    assert await gateway.look(58) == ()
    assert caplog.messages[-1] == (
        "speech/v9.2/stream: worker d has been replaced after 59 s switched off"
    )


async def test_while_envoy_is_away_nothing_has_changed(gateway: Gateway) -> None:
    gateway.off(PREDICT, "a")
    before = await gateway.look()
    gateway.envoy.alive = False
    assert await gateway.look() == before != ()


async def test_workers_that_have_been_replaced_leave_no_switch_behind(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    gateway.off(PREDICT, "a", "b")
    await gateway.look()
    await gateway.routes_to("c")  # the old cluster is still there, and drains
    assert await gateway.look(5) == ()
    assert caplog.messages[-1] == (
        "speech/v9.2/predict: worker b has been replaced after 5 s switched off"
    )


async def test_the_next_gateway_tells_no_second_time_what_is_open(gateway: Gateway) -> None:
    gateway.off(PREDICT, "a")
    before = await gateway.look()
    view = replace(gateway.view, trips={})
    await Switches(gateway.envoy, view, KillSwitch(), gateway.clock).look()
    assert (view.switches, view.trips) == (before, {})


def test_a_status_keeps_its_open_switches() -> None:
    status = GatewayStatus(1.0, 2, 3, "u", switches=(OpenSwitch(STREAM, ("a",), 2, 5.0, 65.0),))
    assert gateway_status_from_bytes(gateway_status_to_bytes(status)) == status


@pytest.mark.parametrize("message", ["", "  ", "two\nlines", "bell\a", "\x1b[31mred", "x" * 501])
def test_a_message_for_callers_is_one_short_line(message: str) -> None:
    with pytest.raises(Refused, match="write one line, at most 500 characters"):
        told_to_callers(message)


def test_a_service_is_killed_with_the_message_as_it_is_told() -> None:
    wanted = catalog(
        revision("speech/v9.2"), traffic={"speech/v9": {"2": 100}}, pins={"speech": "v9"}, keys={}
    )
    killed = with_kill(wanted, "speech", Kill(told_to_callers(" zurück um 12 Uhr "), 0.0))
    assert killed.services["speech"].kill == Kill("zurück um 12 Uhr", 0.0)
