"""An agent whose small models share processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from fairlead.adapters.memory.workers import Behaviour
from fairlead.agent import records
from fairlead.domain.ids import RevisionId
from fairlead.domain.status import State
from fairlead.kits.processes import Exit

Eventually = Callable[..., Any]
NAMES = ("ants", "bees", "cats")


@pytest.fixture
def small(world: Any) -> Any:
    """Three services of one small tensor graph each."""
    for name in NAMES:
        world.release(f"{name}/v1.1", world.publish(name, engine="onnx"))
    return world


def pids(world: Any) -> dict[str, int]:
    """The process of each ready revision."""
    status = world.status()
    found = status.ready() if status else {}
    return {str(key): value[0].pid for key, value in found.items()}


def all_ready(world: Any) -> Callable[[], dict[str, int] | None]:
    return lambda: found if len(found := pids(world)) == len(NAMES) else None


class TestCompany:
    async def test_small_models_share_a_process_and_nothing_else(
        self, small: Any, eventually: Eventually
    ) -> None:
        async with small.agent():
            found = await eventually(all_ready(small))
            assert len(set(found.values())) == 1
            replicas = small.status().replicas
            assert (
                len({one.socket for one in replicas}) == len({one.worker for one in replicas}) == 3
            )
            assert len(small.launcher.started) == 1
            assert len(records.known(small.home)) == 1

    async def test_code_and_large_graphs_do_not(self, world: Any, eventually: Eventually) -> None:
        world.settings = replace(world.settings, pool_artifact_bytes=1_000)
        world.release("ants/v1.1", world.publish("ants", engine="onnx"))
        world.release("bees/v1.1", world.publish("bees", engine="onnx", files={"w": bytes(1_000)}))
        world.release("cats/v1.1", world.publish("cats"))
        async with world.agent():
            found = await eventually(all_ready(world))
            assert len(set(found.values())) == 3

    async def test_one_that_cannot_be_loaded_fails_alone_and_says_why(
        self, small: Any, eventually: Eventually
    ) -> None:
        bees = RevisionId("bees", "v1", "1")
        small.launcher.behave = lambda spec: Behaviour(
            fails="the graph has a hole" if spec.revision == bees else ""
        )
        async with small.agent():
            await eventually(lambda: len(small.ready()) == 2)
            state, reason = await eventually(
                lambda: (found := small.state(bees)) and "hole" in found[1] and found
            )
            assert state is State.FAILED
            assert reason == "the graph has a hole"
            shared = set(pids(small).values())
            assert len(shared) == 1
            small.launcher.behave = lambda _: Behaviour()
            found = await eventually(all_ready(small))
            assert found["bees/v1.1"] not in shared, "it is tried again alone"
            assert {found["ants/v1.1"], found["cats/v1.1"]} == shared, "nobody else was touched"

    async def test_one_that_answers_wrongly_leaves_its_neighbours_in_peace(
        self, small: Any, eventually: Eventually
    ) -> None:
        small.launcher.behave = lambda spec: Behaviour(
            answers=(lambda _: {"a": 7}) if spec.revision.service == "bees" else None
        )
        async with small.agent():
            await eventually(lambda: len(small.ready()) == 2)
            bees = next(
                one for one in small.launcher.workers if one.spec.revision.service == "bees"
            )
            await eventually(lambda: bees.retired)
            assert bees.exit is None
            await eventually(lambda: not bees.spec.socket.exists())


class TestDeath:
    async def test_what_died_in_company_comes_back_in_company_once_and_then_alone(
        self, small: Any, eventually: Eventually
    ) -> None:
        async with small.agent():
            first = await eventually(all_ready(small))
            small.launcher.kill(small.launcher.running()[0].spec.worker)
            second = await eventually(
                lambda: (found := all_ready(small)()) and found != first and found
            )
            assert len(set(second.values())) == 1
            small.launcher.kill(small.launcher.running()[0].spec.worker)
            third = await eventually(
                lambda: (found := all_ready(small)()) and found != second and found
            )
            assert len(set(third.values())) == 3

    async def test_one_that_hangs_takes_all_its_process_along_and_they_come_back(
        self, small: Any, eventually: Eventually
    ) -> None:
        small.settings = replace(small.settings, health_seconds=0.05, hung_seconds=0.2)
        async with small.agent():
            first = await eventually(all_ready(small))
            for worker in small.launcher.running():
                worker.behaviour.silent = worker.behaviour.stubborn = True
            await eventually(lambda: (found := all_ready(small)()) and found != first and found)

    async def test_a_pool_that_ends_at_once_is_tried_again_after_a_pause_and_then_apart(
        self, small: Any, eventually: Eventually
    ) -> None:
        small.launcher.behave = lambda _: Behaviour(
            exits=Exit(code=3) if len(small.launcher.started) <= 2 else None
        )
        async with small.agent():
            found = await eventually(all_ready(small), 8.0)
            assert len(set(found.values())) == 3


class TestChange:
    async def test_a_change_touches_no_process_that_runs_and_joins_it_later(
        self, small: Any, eventually: Eventually
    ) -> None:
        small.settings = replace(small.settings, compact_seconds=0.3)
        async with small.agent():
            before = await eventually(all_ready(small))
            small.release("bees/v1.2", small.publish("bees", 2, engine="onnx"))
            found = await eventually(
                lambda: (found := pids(small)) and "bees/v1.2" in found and found
            )
            assert found["bees/v1.2"] not in before.values()
            assert found["ants/v1.1"] == before["ants/v1.1"]

            def together() -> bool:
                now = pids(small)
                assert {"ants/v1.1", "cats/v1.1", "bees/v1.2"} <= set(now), "nobody is missed"
                return len(now) == 3 and len(set(now.values())) == 1 and now != before

            await eventually(together, 8.0)
            await eventually(lambda: len({one.process for one in small.launcher.running()}) == 1)
            assert len(small.launcher.started) == 3

    async def test_what_a_rollout_leads_stays_where_it_is(
        self, small: Any, eventually: Eventually
    ) -> None:
        small.settings = replace(small.settings, compact_seconds=0.2)
        small.led = lambda: {RevisionId("bees", "v1", "2").line_id}
        async with small.agent():
            await eventually(all_ready(small))
            small.release("bees/v1.2", small.publish("bees", 2, engine="onnx"))
            await eventually(lambda: set(pids(small)) == {"ants/v1.1", "cats/v1.1", "bees/v1.2"})
            asked = small.looks
            await eventually(lambda: small.looks >= asked + 3)
            assert len(small.launcher.started) == 2
            small.led = tuple
            await eventually(lambda: len(small.launcher.started) == 3)

    async def test_one_that_does_not_leave_is_given_up_and_its_neighbours_serve_on(
        self, small: Any, eventually: Eventually
    ) -> None:
        async with small.agent():
            before = await eventually(all_ready(small))
            bees = next(
                one for one in small.launcher.workers if one.spec.revision.service == "bees"
            )
            bees.behaviour.stubborn = True
            small.release("bees/v1.2", small.publish("bees", 2, engine="onnx"))
            await eventually(
                lambda: "bees/v1.2" in pids(small) and "bees/v1.1" not in str(small.status())
            )
            await eventually(lambda: not bees.spec.socket.exists())
            assert bees.exit is None
            assert pids(small)["ants/v1.1"] == before["ants/v1.1"]


class TestAdoption:
    async def test_the_next_agent_adopts_all_of_a_process_but_those_that_have_left(
        self, small: Any, eventually: Eventually
    ) -> None:
        async with small.agent(kill=True):
            await eventually(all_ready(small))
            small.release("bees/v1.2", small.publish("bees", 2, engine="onnx"))
            before = await eventually(
                lambda: (
                    (found := small.ready())
                    and set(found) == {"ants/v1.1", "cats/v1.1", "bees/v1.2"}
                    and found
                )
            )
            gone = next(
                one
                for one in small.launcher.workers
                if one.spec.revision.revision == "1" and one.spec.revision.service == "bees"
            )
            await eventually(lambda: gone.retired)
            kept = next(
                record
                for name in records.known(small.home)
                if (record := records.read(small.home, name)) and gone.process == record.process
            )
            await eventually(lambda: gone.spec not in records.read(small.home, kept.name).specs)
        async with small.agent():
            await eventually(lambda: small.status() and small.ready() == before)
            assert len(small.launcher.started) == 2

    async def test_a_process_in_which_a_stranger_answers_is_ended(
        self, small: Any, eventually: Eventually
    ) -> None:
        async with small.agent(kill=True):
            before = await eventually(all_ready(small))
        small.launcher.running()[1].behaviour.digest = "sha256:" + "0" * 64
        async with small.agent():
            await eventually(lambda: (found := all_ready(small)()) and found != before)
