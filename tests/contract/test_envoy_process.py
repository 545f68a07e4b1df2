"""The adapter against the real binary: taking over, refusing, starting again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from fairlead.adapters.envoy.admin import Admin
from fairlead.adapters.envoy.files import xds_file
from fairlead.domain.errors import FairleadError
from fairlead.domain.keys import EVERYTHING, KeyRecord, Quota, Rate
from fairlead.domain.table import RoutingTable
from fairlead.gateway.behind import Behind
from fairlead.gateway.listener import bootstrap
from fairlead.gateway.quotas import gate_listeners
from fairlead.gateway.run import run_gateway
from fairlead.gateway.snapshot import Snapshot, snapshot
from fairlead.kits import processes
from support.gateway import CLOCK, World, eventually, new_world

pytestmark = [pytest.mark.enable_socket, pytest.mark.timeout(60)]


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    async with new_world() as world:
        yield world


def empty(world: World) -> Snapshot:
    return snapshot(RoutingTable(), Behind(), {"secret": "demo"}, world.settings, world.home)


async def started(world: World) -> Snapshot:
    first = empty(world)
    assert not await world.envoy.adopt(first.bootstrap)
    await world.envoy.start(first.bootstrap)
    await world.envoy.set_clusters(list(first.clusters.values()))
    await world.envoy.set_routes(first.routes)
    await world.envoy.set_listeners([first.listener])
    return first


async def test_what_is_there_already_is_not_written_again(world: World) -> None:
    first = await started(world)
    before = await world.envoy.stats("update_attempt")
    assert not await world.envoy.set_clusters(list(first.clusters.values()))
    assert not await world.envoy.set_routes(first.routes)
    assert not await world.envoy.set_listeners([first.listener])
    assert await world.envoy.stats("update_attempt") == before
    await world.envoy.stop(3)


async def test_routes_that_are_none_are_refused_without_the_keys_and_never_written(
    world: World,
) -> None:
    first = await started(world)
    table = {"credentials": [{"key": "very-secret", "client": "demo"}]}
    hosts = first.routes["virtual_hosts"]
    bad: dict[str, Any] = {
        **first.routes,
        "virtual_hosts": [{**hosts[0], "metadata": {"x": table}}],
    }
    with pytest.raises(FairleadError, match="Envoy refused the new rds") as caught:
        await world.envoy.set_routes(bad)
    assert "very-secret" not in str(caught.value)
    assert "metadata" in str(caught.value) or "cannot find field" in str(caught.value)
    assert world.envoy.routes() == first.routes
    assert await _taken(world, "1")()
    await world.envoy.stop(3)


async def test_refused_routes_raise_without_the_keys_and_leave_the_old_ones(world: World) -> None:
    first = await started(world)
    table = {"credentials": [{"key": "very-secret", "client": "demo"}]}
    (only,) = first.routes["virtual_hosts"]
    known = {"metadata": {"filter_metadata": {"x": table}}}
    bad: dict[str, Any] = {**first.routes, "virtual_hosts": [only, {**only, **known}]}
    with pytest.raises(FairleadError, match=r"refused the new rds: .*single wildcard") as caught:
        await world.envoy.set_routes(bad)
    assert "very-secret" not in str(caught.value)
    assert world.envoy.routes() == first.routes
    assert "very-secret" not in (world.home.logs / "envoy.log").read_text()
    await eventually(_taken(world, "3"), 5, "the old routes are back")
    await world.envoy.stop(3)


async def test_what_the_first_listener_makes_envoy_refuse_is_told_and_forgotten(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before there is a listener nobody reads the routes, so what they are worth is found out with it."""
    first = empty(world)
    assert not await world.envoy.adopt(first.bootstrap)
    await world.envoy.start(first.bootstrap)
    await world.envoy.set_clusters(list(first.clusters.values()))
    (only,) = first.routes["virtual_hosts"]
    bad = {**first.routes, "virtual_hosts": [only, {**only}]}
    assert await world.envoy.set_routes(bad)
    with pytest.raises(FairleadError, match=r"refused the new rds: .*wildcard"):
        await world.envoy.set_listeners([first.listener])
    with pytest.raises(FairleadError, match=r"refused the new rds: .*wildcard"):
        await world.envoy.set_routes(bad)
    # A good one that takes longer than the time after which refusals are counted.
    ask = Admin.text
    answers = iter(["not yet"] * 60)

    async def slow(admin: Admin, name: str) -> str:
        return next(answers, "") or await ask(admin, name)

    monkeypatch.setattr(Admin, "text", slow)
    assert await world.envoy.set_routes(first.routes)
    await world.envoy.stop(3)


def _taken(world: World, version: str) -> Any:
    async def taken() -> bool:
        text = (world.home.gateway / "envoy" / "rds.json").read_text()
        return bool(json.loads(text)["version_info"] == version)

    return taken


async def test_a_cluster_that_makes_no_sense_is_refused_with_envoys_reason(world: World) -> None:
    first = await started(world)
    nameless = {**first.clusters["front"], "name": ""}
    with pytest.raises(FairleadError, match=r"refused .* cds: .*Name"):
        await world.envoy.set_clusters([nameless])
    await world.envoy.stop(3)


async def test_a_listener_inside_envoy_is_refused_with_envoys_reason(world: World) -> None:
    first = await started(world)
    key = KeyRecord("app", (EVERYTHING,), 0.0, "", Quota(Rate(1, 1, 1)))
    gates = gate_listeners(RoutingTable(keys={"app": key}), world.settings, world.home)
    (gate,) = gates.values()
    wrong = json.loads(
        json.dumps(gate).replace('"fill_interval": "1s"', '"fill_interval": "0.01s"')
    )
    with pytest.raises(FairleadError, match=r"refused .* lds: .*50ms"):
        await world.envoy.set_listeners([first.listener, wrong])
    assert list(world.envoy.listeners()) == ["gateway"]
    assert await world.envoy.set_listeners([first.listener, gate])
    assert list(world.envoy.listeners()) == ["gateway", gate["name"]]
    await world.envoy.stop(3)


async def test_an_envoy_that_is_too_busy_to_answer_at_once_is_adopted_later(world: World) -> None:
    first = await started(world)
    pid = world.envoy_pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        following = world.new_envoy()
        adopting = asyncio.ensure_future(following.adopt(first.bootstrap))
        done, _ = await asyncio.wait({adopting}, timeout=2.5)  # longer than one answer may take
        assert not done
    finally:
        os.kill(pid, signal.SIGCONT)
    assert await adopting
    assert world.envoy_pid() == pid
    await following.stop(3)


async def test_the_next_gateway_adopts_a_living_envoy(world: World) -> None:
    first = await started(world)
    pid = world.envoy_pid()
    following = world.new_envoy()
    assert await following.adopt(first.bootstrap)
    assert world.envoy_pid() == pid
    assert following.routes() == first.routes
    assert not await following.set_routes(first.routes)
    await following.stop(3)
    assert processes.identify(pid) is None


async def test_an_envoy_that_was_started_otherwise_is_ended(world: World) -> None:
    first = await started(world)
    pid = world.envoy_pid()
    other = {**first.bootstrap, "node": {"id": "another", "cluster": "another"}}
    assert not await world.new_envoy().adopt(other)
    assert processes.identify(pid) is None


async def test_its_end_is_told_and_the_next_one_finds_the_last_configuration(world: World) -> None:
    first = await started(world)
    pid = world.envoy_pid()
    os.kill(pid, signal.SIGKILL)
    assert await world.envoy.ended() in ("killed by SIGKILL", "ended")
    assert await world.envoy.stats("anything") == {}
    await world.envoy.start(first.bootstrap)
    assert world.envoy_pid() != pid
    active = await world.envoy.stats(r"^listener_manager\.total_listeners_active$")
    assert list(active.values()) == [1]
    await world.envoy.stop(3)


async def test_what_was_written_while_none_ran_and_keeps_it_from_starting_gives_way_to_what_was_read_last(
    world: World,
) -> None:
    first = await started(world)
    await _killed(world)
    (only,) = first.routes["virtual_hosts"]
    bad = {**first.routes, "virtual_hosts": [only, {**only}]}
    assert await world.envoy.set_routes(bad)
    with pytest.raises(FairleadError, match=r"refused the new rds: .*wildcard"):
        await world.envoy.start(first.bootstrap)
    await world.envoy.start(first.bootstrap)
    assert world.envoy.routes() == first.routes
    with pytest.raises(FairleadError, match=r"refused the new rds: .*wildcard"):
        await world.envoy.set_routes(bad)
    await world.envoy.stop(3)


async def test_what_was_written_while_none_ran_is_tried_again_where_the_old_does_not_start_either(
    world: World,
) -> None:
    first = await started(world)
    await _killed(world)
    new = {**first.routes, "ignore_port_in_host_matching": True}
    assert await world.envoy.set_routes(new)
    wrong = {**first.bootstrap, "no_such_field": 1}
    for left in (first.routes, new):
        with pytest.raises(FairleadError, match="Envoy ended at once"):
            await world.envoy.start(wrong)
        assert world.envoy.routes() == left
    await world.envoy.start(first.bootstrap)
    assert not await world.envoy.set_routes(new)
    await world.envoy.stop(3)


async def test_what_envoy_dies_of_while_it_reads_is_put_back(world: World) -> None:
    first = await started(world)
    pid = world.envoy_pid()
    os.kill(pid, signal.SIGSTOP)
    new = {**first.routes, "ignore_port_in_host_matching": True}
    setting = asyncio.ensure_future(world.envoy.set_routes(new))
    await eventually(_taken(world, "2"), 5, "the new routes are on the disk")
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(FairleadError, match="Envoy ended while it read the new rds"):
        await setting
    assert world.envoy.routes() == first.routes
    await world.envoy.start(first.bootstrap)
    assert await world.envoy.set_routes(new)
    await world.envoy.stop(3)


async def _killed(world: World) -> None:
    os.kill(world.envoy_pid(), signal.SIGKILL)
    await world.envoy.ended()


async def test_a_bootstrap_it_cannot_read_is_said_with_its_own_words(world: World) -> None:
    with pytest.raises(FairleadError, match=r"Envoy ended at once: .*no_such_field"):
        await world.envoy.start({**bootstrap(world.home), "no_such_field": 1})


def test_what_the_disk_does_not_take_changes_nothing(tmp_path: Path) -> None:
    file = xds_file(tmp_path, "lds")
    file.write([{"name": "one"}])
    file.path.unlink()
    file.path.parent.rmdir()
    file.path.parent.write_bytes(b"a file where a directory should be")
    with pytest.raises(OSError, match=r"exists|directory"):
        file.write([{"name": "two"}])
    assert (file.version, file.resources) == (1, [{"name": "one"}])
    file.path.parent.unlink()
    file.write([{"name": "two"}])
    assert (file.version, file.resources) == (2, [{"name": "two"}])


async def test_a_first_start_that_envoy_refuses_is_refused_and_leaves_nothing_behind() -> None:
    async with new_world() as world:
        (world.home.logs / "access.jsonl").mkdir(parents=True)  # no file Envoy could write
        with pytest.raises(FairleadError, match="Envoy refused the new lds"):
            await run_gateway(world.settings, world.home, world.catalogs, world.envoy, CLOCK)
        assert world.envoy_pid() == 0


async def test_a_first_start_without_a_right_certificate_is_refused_and_leaves_nothing_behind(
    tmp_path: Path,
) -> None:
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("no certificate")
    async with new_world(certificate=wrong, private_key=wrong) as world:
        with pytest.raises(FairleadError, match="are no pair"):
            await run_gateway(world.settings, world.home, world.catalogs, world.envoy, CLOCK)
        assert world.envoy_pid() == 0
