"""An agent that really runs, on fake workers and a store in memory."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from fairlead.adapters.memory.workers import Behaviour
from fairlead.agent import records
from fairlead.agent.loop import run_agent
from fairlead.agent.ports import Ports
from fairlead.api.held import Held
from fairlead.domain.catalog_file import catalog_from_bytes
from fairlead.domain.errors import FairleadError, Kind, Refused
from fairlead.domain.health import held_units
from fairlead.domain.ids import ArtifactRef
from fairlead.domain.manifest import Manifest
from fairlead.domain.status import NodeStatus, State
from fairlead.kits.clock import SystemClock
from fairlead.kits.files import write_atomic
from fairlead.kits.processes import Exit
from support.plain import NO_TLS

Eventually = Callable[..., Awaitable[Any]]


class Unexpected:
    """Artifacts whose adapter forgets to say what went wrong."""

    def manifest(self, ref: ArtifactRef) -> Manifest:
        raise RuntimeError("of its own")


class Reports:
    """Somewhere to report to that is away at first."""

    def __init__(self) -> None:
        self.away = True
        self.refused = 0
        self.written: list[NodeStatus] = []

    def write(self, status: NodeStatus) -> None:
        if self.away:
            self.refused += 1
            raise FairleadError("the store does not answer", kind=Kind.UNAVAILABLE)
        self.written.append(status)


async def metrics_of(world: Any) -> dict[str, dict[str, float]]:
    """Values by worker label (or the empty text), by sample name."""
    transport = httpx.AsyncHTTPTransport(uds=str(world.home.agent_socket), verify=NO_TLS)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://agent", timeout=40
    ) as client:
        answer = await client.get("/metrics", headers={"accept": "application/openmetrics-text"})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    found: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(answer.text):  # type: ignore[no-untyped-call]
        for sample in family.samples:
            found.setdefault(sample.name, {})[sample.labels.get("worker", "")] = sample.value
    return found


class TestBringingUp:
    async def test_what_the_catalog_asks_for_is_pulled_started_and_proved(
        self, world: Any, eventually: Eventually
    ) -> None:
        world.release("digits/v1.1", world.publish("digits"))
        async with world.agent():
            ready = await eventually(world.ready)
            assert list(ready) == ["digits/v1.1"]
            assert world.launcher.running()[0].requests == 1

    async def test_a_worker_may_load_pickles_only_if_its_node_says_so(
        self, world: Any, eventually: Eventually
    ) -> None:
        world.release("digits/v1.1", world.publish("digits"))
        async with world.agent():
            await eventually(world.ready)
            assert world.launcher.running()[0].spec.allow_pickle is False
        world.settings = replace(world.settings, allow_pickle=True)
        world.release("digits/v1.2", world.publish("digits", 2))
        async with world.agent():
            await eventually(lambda: "digits/v1.2" in world.ready())
            specs = {one.spec.revision.revision: one.spec for one in world.launcher.running()}
            assert specs["2"].allow_pickle is True

    async def test_a_worker_is_told_which_pod_it_is_in(
        self, world: Any, eventually: Eventually
    ) -> None:
        world.settings = replace(world.settings, pod_name="digits-7d9f")
        world.release("digits/v1.1", world.publish("digits"))
        async with world.agent():
            await eventually(world.ready)
            assert world.launcher.running()[0].spec.pod_name == "digits-7d9f"

    async def test_a_revision_gets_as_many_workers_as_its_release_says(
        self, world: Any, eventually: Eventually
    ) -> None:
        world.release("digits/v1.1", world.publish("digits"), replicas=5)
        async with world.agent():
            await eventually(lambda: len(world.ready().get("digits/v1.1", ())) == 5)
            assert len(world.launcher.workers) == 5

    async def test_a_wrong_golden_answer_is_never_ready_and_says_which(
        self, world: Any, eventually: Eventually
    ) -> None:
        world.launcher.behave = lambda _: Behaviour(answers=lambda _: {"a": 7})
        revision = world.release("digits/v1.1", world.publish("digits"))
        async with world.agent():
            state, reason = await eventually(
                lambda: (found := world.state(revision)) and found[0] is State.FAILED and found
            )
            assert (state, reason) == (
                State.FAILED,
                "golden example 1 of 1: a: 1 expected within 0, 7 answered",
            )
            await eventually(lambda: not world.launcher.running())
            assert world.ready() == {}

    async def test_a_worker_that_claims_another_artifact_is_never_ready(
        self, world: Any, eventually: Eventually
    ) -> None:
        world.launcher.behave = lambda _: Behaviour(digest="sha256:" + "0" * 64)
        revision = world.release("digits/v1.1", world.publish("digits"))
        async with world.agent():
            _, reason = await eventually(
                lambda: (found := world.state(revision)) and found[0] is State.FAILED and found
            )
            assert "found worker" in reason
            assert "sha256:0000" in reason

    async def test_a_worker_that_ends_while_it_starts_leaves_its_last_words(
        self, world: Any, eventually: Eventually
    ) -> None:
        world.launcher.behave = lambda _: Behaviour(exits=Exit(code=3))
        revision = world.release("digits/v1.1", world.publish("digits"))
        world.home.logs.mkdir(parents=True)
        line = json.dumps({"levelname": "ERROR", "message": "model.py has no class Model"})

        def behave(spec: Any) -> Behaviour:
            log = world.home.logs / f"worker-digits-v1.1-{spec.worker}.jsonl"
            log.write_text(f"{line}\n")
            return Behaviour(exits=Exit(code=3))

        world.launcher.behave = behave
        async with world.agent():
            _, reason = await eventually(
                lambda: (found := world.state(revision)) and found[0] is State.FAILED and found
            )
            assert reason.endswith(": exit code 3: model.py has no class Model")

    async def test_a_worker_that_cannot_even_be_started_is_a_failure_with_its_reason(
        self, world: Any, eventually: Eventually
    ) -> None:
        def behave(_: Any) -> Behaviour:
            raise FairleadError("no more processes")

        world.launcher.behave = behave
        revision = world.release("digits/v1.1", world.publish("digits"))
        async with world.agent():
            found = await eventually(
                lambda: (found := world.state(revision)) and found[0] is State.FAILED and found
            )
            assert found == (State.FAILED, "no more processes")
            assert list(world.home.workers.iterdir()) == []

    async def test_a_store_that_fails_in_a_way_of_its_own_does_not_end_the_agent(
        self, world: Any, eventually: Eventually
    ) -> None:
        manifest = world.publish("digits")
        world.artifacts = Unexpected()
        revision = world.release("digits/v1.1", manifest)
        async with world.agent():
            found = await eventually(
                lambda: (found := world.state(revision)) and found[0] is State.FAILED and found
            )
            assert found == (State.FAILED, "RuntimeError: of its own")

    async def test_a_worker_that_never_loads_fails_at_its_deadline(
        self, world: Any, eventually: Eventually
    ) -> None:
        world.settings = replace(world.settings, startup_seconds=0.2)
        world.launcher.behave = lambda _: Behaviour(loads=False)
        revision = world.release("digits/v1.1", world.publish("digits"))
        async with world.agent():
            _, reason = await eventually(
                lambda: (found := world.state(revision)) and found[0] is State.FAILED and found
            )
            assert reason == "not loaded after 0.2 s"

    async def test_a_flipped_bit_in_the_store_is_never_ready_and_names_the_file(
        self, world: Any, eventually: Eventually
    ) -> None:
        manifest = world.publish("digits")
        entry = next(file for file in manifest.files if file.path == "model.py")
        world.store.put(f"blobs/sha256/{entry.sha256}", b"# a modeL")
        revision = world.release("digits/v1.1", manifest)
        async with world.agent():
            _, reason = await eventually(
                lambda: (found := world.state(revision)) and found[0] is State.FAILED and found
            )
            assert f"artifact digits/1: model.py: expected sha256 {entry.sha256}, found " in reason
            assert world.launcher.workers == []
            assert not world.home.artifact(manifest.digest).exists()
            # Repaired, it is served without anybody doing anything.
            world.store.put(f"blobs/sha256/{entry.sha256}", b"# a model")
            await eventually(world.ready)

    async def test_files_that_change_on_the_disk_are_noticed_and_pulled_again(
        self, world: Any, eventually: Eventually
    ) -> None:
        manifest = world.publish("digits")
        revision = world.release("digits/v1.1", manifest)
        async with world.agent():
            await eventually(world.ready)
        damaged = world.home.artifact(manifest.digest) / "golden.json"
        damaged.write_bytes(damaged.read_bytes().replace(b'"a": 1', b'"a": 2'))
        world.launcher.behave = lambda _: Behaviour(answers=lambda _: {"a": 1})
        async with world.agent():
            await eventually(lambda: (world.state(revision) or ("",))[0] is State.FAILED)
            await eventually(world.ready)
        assert b'"a": 1' in damaged.read_bytes()


class TestDeath:
    async def test_a_killed_worker_is_replaced_at_once(
        self, world: Any, eventually: Eventually
    ) -> None:
        revision = world.release("digits/v1.1", world.publish("digits"))
        async with world.agent():
            first = (await eventually(world.ready))[str(revision)]
            world.launcher.kill(first[0])
            await eventually(lambda: world.ready().get(str(revision)) not in (None, first), 0.9)
            assert len(world.launcher.workers) == 2
            assert not world.home.worker_socket(first[0]).exists()

    async def test_a_worker_that_runs_and_does_not_answer_is_replaced(
        self, world: Any, eventually: Eventually
    ) -> None:
        world.settings = replace(world.settings, health_seconds=0.05, hung_seconds=0.3)
        revision = world.release("digits/v1.1", world.publish("digits"))
        async with world.agent():
            (first,) = (await eventually(world.ready))[str(revision)]
            world.launcher.running()[0].behaviour.silent = True
            await eventually(lambda: world.ready().get(str(revision)) not in (None, [first]))
            assert world.launcher.workers[0].exit

    async def test_a_worker_whose_runs_do_not_end_is_told_of_and_replaced(
        self, world: Any, eventually: Eventually
    ) -> None:
        world.settings = replace(world.settings, health_seconds=0.05, held_seconds=5.0)
        revision = world.release("digits/v1.1", world.publish("digits"))

        def held() -> Any:
            found = held_units(world.status()).items()
            return [why for unit, why in found if unit.revision == revision]

        async with world.agent():
            (first,) = (await eventually(world.ready))[str(revision)]
            behaviour = world.launcher.running()[0].behaviour
            behaviour.held = Held(0.2, 10.0)  # as long as a request may take
            await asyncio.sleep(0.2)
            assert held() == []
            behaviour.held = Held(41.0, 3.0)
            (why,) = await eventually(held)
            assert re.fullmatch(r"a run has gone on for \d+ s; nobody else is answered", why)
            behaviour.held = None
            await eventually(lambda: not held())
            assert world.ready()[str(revision)] == [first]
            behaviour.held = Held(41.0, 7.0)
            await eventually(lambda: world.ready().get(str(revision)) not in (None, [first]))
            assert world.launcher.workers[0].exit
            assert len(world.launcher.workers) == 2

    async def test_the_next_agent_adopts_what_a_killed_one_left(
        self, world: Any, eventually: Eventually
    ) -> None:
        world.release("digits/v1.1", world.publish("digits"), replicas=2)
        async with world.agent(kill=True):
            before = await eventually(
                lambda: len(world.ready().get("digits/v1.1", ())) == 2 and world.ready()
            )
        world.home.node_status.unlink()
        async with world.agent():
            await eventually(world.status)
            assert world.ready() == before, "the first status knows them all"
            assert len(world.launcher.workers) == 2

    async def test_a_worker_of_which_only_the_intention_was_written_down_is_found(
        self, world: Any, eventually: Eventually
    ) -> None:
        world.release("digits/v1.1", world.publish("digits"))
        async with world.agent(kill=True):
            (before,) = (await eventually(world.ready)).values()
        record = records.read(world.home, before[0])
        assert record is not None
        records.announce(world.home, *record.specs)
        async with world.agent():
            (after,) = (await eventually(world.ready)).values()
            assert after == before
            assert len(world.launcher.workers) == 1

    async def test_a_silent_survivor_gets_the_time_to_load_and_is_proved(
        self, world: Any, eventually: Eventually
    ) -> None:
        revision = world.release("digits/v1.1", world.publish("digits"))
        world.launcher.behave = lambda _: Behaviour(loads=False)
        async with world.agent(kill=True):
            await eventually(world.launcher.running)
        (survivor,) = world.launcher.running()
        async with world.agent():
            await eventually(lambda: (world.state(revision) or ("",))[0] is State.STARTING)
            survivor.behaviour.loads = True
            (ready,) = (await eventually(world.ready)).values()
            assert ready == [survivor.spec.worker]
            assert survivor.requests == 1

    async def test_a_survivor_that_answers_wrongly_now_is_replaced(
        self, world: Any, eventually: Eventually
    ) -> None:
        world.release("digits/v1.1", world.publish("digits"))
        async with world.agent(kill=True):
            await eventually(world.ready)
        (survivor,) = world.launcher.running()
        survivor.behaviour.answers = lambda _: {"a": 7}
        async with world.agent():
            await eventually(lambda: survivor.exit)
            await eventually(
                lambda: world.ready() and survivor.spec.worker not in str(world.ready())
            )

    async def test_a_stray_that_answers_as_somebody_else_is_ended(
        self, world: Any, eventually: Eventually
    ) -> None:
        world.release("digits/v1.1", world.publish("digits"))
        async with world.agent(kill=True):
            await eventually(world.ready)
        stray = world.launcher.running()[0]
        stray.behaviour.digest = "sha256:" + "0" * 64
        async with world.agent():
            await eventually(lambda: stray.exit)
            await eventually(lambda: world.ready() and stray.spec.worker not in str(world.ready()))
            assert stray.signals == [signal.SIGKILL]

    async def test_records_and_sockets_of_the_dead_are_removed(
        self, world: Any, eventually: Eventually
    ) -> None:
        world.release("digits/v1.1", world.publish("digits"))
        async with world.agent(kill=True):
            await eventually(world.ready)
        dead = world.launcher.running()[0].spec.worker
        world.launcher.kill(dead)
        world.home.worker_socket("0123abcd").touch()
        async with world.agent():
            await eventually(lambda: world.ready() and dead not in str(world.ready()))
            assert {path.stem for path in world.home.workers.iterdir()} == {
                world.launcher.running()[0].spec.worker
            }
            assert not world.home.worker_socket("0123abcd").exists()

    async def test_a_worker_that_never_got_ready_is_tried_again_after_a_pause(
        self, world: Any, eventually: Eventually
    ) -> None:
        world.launcher.behave = lambda _: Behaviour(exits=Exit(code=1))
        world.release("digits/v1.1", world.publish("digits"))
        async with world.agent():
            await eventually(lambda: len(world.launcher.workers) == 1)
            began = time.perf_counter()
            await eventually(lambda: len(world.launcher.workers) == 2)
            assert time.perf_counter() - began > 0.8


class TestRetiring:
    async def test_the_old_revision_serves_until_the_gateway_has_left_it(
        self, world: Any, eventually: Eventually
    ) -> None:
        old = world.release("digits/v1.1", world.publish("digits"))
        async with world.agent():
            (before,) = (await eventually(world.ready)).values()
            world.gateway_says(before, "1")
            new = world.release("digits/v1.2", world.publish("digits", 2))
            world.gateway_says(before, "1")
            await eventually(lambda: str(new) in world.ready())
            assert world.ready()[str(old)] == before
            world.gateway_says(world.ready()[str(new)], "2")
            await eventually(lambda: str(old) not in world.ready())
            await eventually(lambda: len(world.launcher.running()) == 1)
            assert list(world.ready()) == [str(new)]

    async def test_an_old_worker_that_dies_while_it_is_still_routed_is_replaced(
        self, world: Any, eventually: Eventually
    ) -> None:
        old = world.release("digits/v1.1", world.publish("digits"))
        world.launcher.behave = lambda spec: Behaviour(loads=spec.revision == old)
        async with world.agent():
            (before,) = (await eventually(world.ready)).values()
            world.release("digits/v1.2", world.publish("digits", 2))
            world.gateway_says(before, "1")
            world.launcher.kill(before[0])
            after = await eventually(
                lambda: world.ready() and before != world.ready().get(str(old)) and world.ready()
            )
            assert list(after) == [str(old)]

    async def test_without_a_gateway_the_old_one_stays_until_the_new_one_is_ready(
        self, world: Any, eventually: Eventually
    ) -> None:
        old = world.release("digits/v1.1", world.publish("digits"))
        gate = Behaviour(loads=False)
        async with world.agent():
            await eventually(world.ready)
            world.launcher.behave = lambda _: gate
            new = world.release("digits/v1.2", world.publish("digits", 2))
            await eventually(lambda: len(world.launcher.running()) == 2)
            await asyncio.sleep(0.2)
            assert list(world.ready()) == [str(old)]
            gate.loads = True
            await eventually(lambda: list(world.ready()) == [str(new)])
            await eventually(lambda: len(world.launcher.running()) == 1)

    async def test_a_worker_that_does_not_end_is_ended(
        self, world: Any, eventually: Eventually
    ) -> None:
        world.launcher.behave = lambda _: Behaviour(stubborn=True)
        world.release("digits/v1.1", world.publish("digits"))
        async with world.agent():
            await eventually(world.ready)
            world.clear_catalog()
            await eventually(lambda: not world.launcher.running())
            assert world.launcher.workers[0].signals == [signal.SIGTERM, signal.SIGKILL]

    async def test_an_artifact_nobody_uses_is_removed_after_its_grace(
        self, world: Any, eventually: Eventually
    ) -> None:
        world.settings = replace(world.settings, clean_up_seconds=0.3)
        manifest = world.publish("digits")
        world.release("digits/v1.1", manifest)
        async with world.agent():
            await eventually(world.ready)
            world.clear_catalog()
            await eventually(lambda: not world.launcher.running())
            assert world.home.artifact(manifest.digest).exists()
            await eventually(lambda: not world.home.artifact(manifest.digest).exists())


class TestWithoutTheStore:
    async def test_the_agent_goes_on_with_the_catalog_on_its_disk(
        self, world: Any, eventually: Eventually
    ) -> None:
        world.release("digits/v1.1", world.publish("digits"))
        async with world.agent():
            await eventually(world.ready)
            world.store.broken = True
            await eventually(lambda: "going on with generation 1" in world.status().problem)
            assert world.ready()
        async with world.agent():
            await eventually(world.ready)
            world.store.broken = False
            await eventually(lambda: world.status().problem == "")

    async def test_a_damaged_copy_of_the_catalog_is_said_and_replaced_when_the_store_is_back(
        self, world: Any, eventually: Eventually
    ) -> None:
        world.release("digits/v1.1", world.publish("digits"))
        write_atomic(world.home.node_catalog, b"half")
        world.store.broken = True
        async with world.agent():
            await eventually(
                lambda: world.status() and "catalog.json: is not JSON" in world.status().problem
            )
            world.store.broken = False
            await eventually(world.ready)
        assert catalog_from_bytes(world.home.node_catalog.read_bytes()).generation == 1

    async def test_a_report_goes_to_the_store_whenever_it_is_there(
        self, world: Any, eventually: Eventually
    ) -> None:
        reports = Reports()
        world.reports = reports
        world.release("digits/v1.1", world.publish("digits"))
        async with world.agent():
            await eventually(lambda: reports.refused)
            reports.away = False
            await eventually(lambda: reports.written and reports.written[-1].ready())
            assert reports.written[-1].node == "local"

    async def test_a_gateway_status_that_cannot_be_read_is_no_obstacle(
        self, world: Any, eventually: Eventually
    ) -> None:
        write_atomic(world.home.gateway_status, b"{}")
        world.release("digits/v1.1", world.publish("digits"))
        async with world.agent():
            await eventually(world.ready)

    async def test_a_fresh_node_says_that_it_knows_nothing_yet(
        self, world: Any, eventually: Eventually
    ) -> None:
        world.store.broken = True
        async with world.agent():
            status = await eventually(
                lambda: world.status() and world.status().problem and world.status()
            )
            assert status.problem == (
                "the store cannot be read: the store does not answer; nothing is known yet"
            )


class TestEnding:
    async def test_a_stand_alone_agent_leaves_its_workers_running(
        self, world: Any, eventually: Eventually
    ) -> None:
        world.release("digits/v1.1", world.publish("digits"))
        ports = Ports(world.catalogs, world.artifacts, world.launcher, SystemClock())
        async with asyncio.TaskGroup() as group:
            agent = group.create_task(run_agent(world.settings, world.home, ports))
            before = await eventually(world.ready)
            os.kill(os.getpid(), signal.SIGTERM)
        assert agent.result() == 0
        assert world.ready() == before
        assert len(world.launcher.running()) == 1

    async def test_an_owned_agent_takes_its_workers_along_even_the_stubborn(
        self, world: Any, eventually: Eventually
    ) -> None:
        world.settings = replace(world.settings, shutdown_seconds=0.2)
        world.launcher.behave = lambda _: Behaviour(stubborn=True)
        world.release("digits/v1.1", world.publish("digits"), replicas=2)
        async with world.agent():
            await eventually(lambda: len(world.ready().get("digits/v1.1", ())) == 2)
        assert world.launcher.running() == []
        assert list(world.home.workers.iterdir()) == []
        assert world.status().replicas == ()
        assert list(world.home.sockets.iterdir()) == []

    async def test_a_second_agent_is_refused(self, world: Any, eventually: Eventually) -> None:
        async with world.agent():
            await eventually(world.status)
            ports = Ports(world.catalogs, world.artifacts, world.launcher, SystemClock())
            with pytest.raises(Refused, match="another agent runs in") as caught:
                await run_agent(world.settings, world.home, ports)
            assert caught.value.kind is Kind.CONFLICT


class TestMetrics:
    async def test_a_worker_whose_metrics_cannot_be_read_is_left_out(
        self, world: Any, eventually: Eventually
    ) -> None:
        world.launcher.behave = lambda _: Behaviour(metrics="no metrics {")
        world.release("digits/v1.1", world.publish("digits"))
        async with world.agent():
            await eventually(world.ready)
            found = await metrics_of(world)
            assert "fake_requests_total" not in found
            assert found["fairlead_agent_pulls_total"]

    async def test_totals_do_not_go_back_when_a_worker_dies(
        self, world: Any, eventually: Eventually
    ) -> None:
        world.release("digits/v1.1", world.publish("digits"), replicas=2)
        async with world.agent():
            workers = await eventually(
                lambda: (
                    len(world.ready().get("digits/v1.1", ())) == 2 and world.ready()["digits/v1.1"]
                )
            )
            first = await metrics_of(world)
            assert first["fake_requests_total"] == dict.fromkeys(workers, 1.0)
            world.launcher.kill(workers[0])
            await eventually(
                lambda: world.ready().get("digits/v1.1") not in (None, workers, workers[1:])
            )
            then = await metrics_of(world)
            assert then["fake_requests_total"]["ended"] == 1.0
            assert sum(then["fake_requests_total"].values()) == 3.0
            assert set(then["fake_busy"]) == set(world.ready()["digits/v1.1"])
            assert then["fairlead_agent_worker_deaths_total"] == {"": 1.0}
            assert then["fairlead_agent_revision_deaths_total"] == {"": 1.0}
            assert then["fairlead_agent_worker_starts_total"] == {"": 3.0}
