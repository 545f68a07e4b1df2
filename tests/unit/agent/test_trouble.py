"""A disk that fails and a wall clock that is set: the agent says so where it can, and goes on."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fairlead.adapters.memory.workers import Behaviour
from fairlead.agent import pull, records
from fairlead.api.worker import WorkerSpec
from fairlead.domain.catalog_file import catalog_from_bytes
from fairlead.domain.ids import RevisionId
from fairlead.domain.status import NodeStatus, State
from fairlead.kits import processes
from fairlead.kits.clock import SystemClock
from fairlead.kits.processes import Exit

Eventually = Callable[..., Awaitable[Any]]


class SetClock(SystemClock):
    """A wall clock somebody sets."""

    ahead = 0.0

    def now(self) -> float:
        return super().now() + self.ahead


class Reports:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.written: list[NodeStatus] = []

    def write(self, status: NodeStatus) -> None:
        self.written.append(status)


def in_the_way(path: Path) -> None:
    """Let every write to this file fail: a directory cannot be replaced by a file."""
    path.unlink(missing_ok=True)
    path.mkdir(parents=True)


def fails_to_read(*_: Any) -> Any:
    raise OSError(errno.EIO, os.strerror(errno.EIO), "model.py")


class TestDisk:
    async def test_a_catalog_that_cannot_be_kept_is_followed_all_the_same(
        self, world: Any, eventually: Eventually
    ) -> None:
        in_the_way(world.home.node_catalog)
        world.release("digits/v1.1", world.publish("digits"))
        async with world.agent():
            await eventually(world.ready)
            path = world.home.node_catalog
            assert world.status().problem == f"{path} cannot be written: Is a directory"
            world.home.node_catalog.rmdir()
            await eventually(lambda: world.status().problem == "")
            assert catalog_from_bytes(path.read_bytes()).generation == 1

    async def test_a_copy_of_the_catalog_that_cannot_be_read_is_said_while_the_store_is_away(
        self, world: Any, eventually: Eventually
    ) -> None:
        in_the_way(world.home.node_catalog)
        world.store.broken = True
        async with world.agent():
            status = await eventually(
                lambda: world.status() and world.status().problem and world.status()
            )
            assert "Is a directory" in status.problem

    async def test_a_status_that_cannot_be_written_is_told_to_the_store_and_workers_are_minded(
        self, world: Any, eventually: Eventually
    ) -> None:
        world.reports = reports = Reports()
        in_the_way(world.home.node_status)
        world.release("digits/v1.1", world.publish("digits"))
        async with world.agent():
            await eventually(lambda: reports.written and reports.written[-1].ready())
            await eventually(lambda: "cannot be written" in reports.written[-1].problem)
            world.launcher.kill(world.launcher.running()[0].spec.worker)
            await eventually(world.launcher.running)
            world.home.node_status.rmdir()
            await eventually(lambda: world.status() and world.status().problem == "")

    async def test_an_unused_artifact_that_cannot_be_removed_stays_until_it_can(
        self, world: Any, eventually: Eventually
    ) -> None:
        world.settings = replace(world.settings, clean_up_seconds=0.1)
        manifest = world.publish("digits")
        artifact = world.home.artifact(manifest.digest)
        world.release("digits/v1.1", manifest)
        async with world.agent():
            await eventually(world.ready)
            shutil.rmtree(world.home.downloads)
            world.home.downloads.write_text("in the way")
            world.clear_catalog()
            await eventually(lambda: not world.launcher.running())
            written = world.status().written_at
            await eventually(lambda: world.status().written_at > written + 0.3)
            assert artifact.exists()
            world.home.downloads.unlink()
            await eventually(lambda: not artifact.exists())

    async def test_a_damaged_artifact_that_cannot_be_replaced_says_why_until_it_can(
        self, world: Any, eventually: Eventually
    ) -> None:
        manifest = world.publish("digits")
        revision = world.release("digits/v1.1", manifest)
        async with world.agent():
            await eventually(world.ready)
            shutil.rmtree(world.home.downloads)
            world.home.downloads.write_text("in the way")
            (world.home.artifact(manifest.digest) / "model.py").write_bytes(b"# a modeL")
            world.launcher.behave = lambda _: Behaviour(exits=Exit(code=1))
            world.launcher.kill(world.launcher.running()[0].spec.worker)
            await eventually(lambda: "downloads" in (world.state(revision) or ("", ""))[1])
            world.launcher.behave = lambda _: Behaviour()
            world.home.downloads.unlink()
            await eventually(world.ready, 8.0)

    async def test_files_that_cannot_be_read_any_more_do_not_end_the_agent(
        self, world: Any, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # The kernel's own EIO cannot be had in a test.
        monkeypatch.setattr(pull, "verify", fails_to_read)
        world.launcher.behave = lambda _: Behaviour(exits=Exit(code=1))
        revision = world.release("digits/v1.1", world.publish("digits"))
        async with world.agent():
            await eventually(lambda: (world.state(revision) or ("",))[0] is State.FAILED)
            world.launcher.behave = lambda _: Behaviour()
            await eventually(world.ready)

    async def test_a_file_that_cannot_be_read_is_as_bad_as_a_wrong_one(
        self, world: Any, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        manifest = world.publish("digits")
        world.release("digits/v1.1", manifest)
        async with world.agent():
            await eventually(world.ready)
        monkeypatch.setattr(pull, "_sha256", fails_to_read)
        found = pull.verify(world.home, manifest.digest)
        assert found is not None
        assert found.endswith("cannot be read: Input/output error")

    async def test_downloads_that_cannot_be_cleared_are_a_problem_and_no_end(
        self, world: Any, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world.release("digits/v1.1", world.publish("digits"))
        with monkeypatch.context() as patched:
            patched.setattr(pull, "clear_downloads", fails_to_read)
            async with world.agent(kill=True):
                await eventually(world.ready)
                problem = f"{world.home.downloads} cannot be cleared: Input/output error"
                assert world.status().problem == problem
        async with world.agent():
            await eventually(lambda: world.status().problem == "")

    def test_a_process_that_cannot_be_written_down_is_known_nevertheless(self, world: Any) -> None:
        spec = WorkerSpec(
            "0123abcd", RevisionId("digits", "v1", "1"), world.scratch, "sha256:" + "0" * 64
        )
        record = records.announce(world.home, spec)
        in_the_way(world.home.workers / "0123abcd.json")
        process = processes.identify(os.getpid())
        assert process is not None
        assert records.started(world.home, record, process).process == process
        records.remove(world.home, "0123abcd")
        assert not records.spec_file(world.home, "0123abcd").exists(), "the rest goes"


class TestClock:
    async def test_a_clock_that_is_set_back_stops_neither_heartbeat_nor_retries(
        self, world: Any, eventually: Eventually
    ) -> None:
        world.clock = SetClock()
        world.launcher.behave = lambda _: Behaviour(exits=Exit(code=1))
        revision = world.release("digits/v1.1", world.publish("digits"))
        async with world.agent():
            await eventually(lambda: (world.state(revision) or ("",))[0] is State.FAILED)
            world.clock.ahead = -3_600.0
            before = world.status().written_at
            await eventually(lambda: world.status().written_at < before - 1_800, 1.0)
            then = world.status().written_at
            await eventually(lambda: world.status().written_at > then)
            world.launcher.behave = lambda _: Behaviour()
            await eventually(world.ready)

    async def test_a_clock_that_is_set_back_gives_no_worker_longer_to_end(
        self, world: Any, eventually: Eventually
    ) -> None:
        world.clock = SetClock()
        world.launcher.behave = lambda _: Behaviour(stubborn=True)
        world.release("digits/v1.1", world.publish("digits"))
        async with world.agent():
            await eventually(world.ready)
            (worker,) = world.launcher.running()
            world.clear_catalog()
            await eventually(lambda: worker.signals)
            world.clock.ahead = -3_600.0
            await eventually(lambda: not world.launcher.running())

    async def test_a_clock_that_is_set_forward_does_not_cut_a_drain_short(
        self, world: Any, eventually: Eventually
    ) -> None:
        world.clock = SetClock()
        world.settings = replace(world.settings, drain_seconds=30.0)
        world.launcher.behave = lambda _: Behaviour(stubborn=True)
        world.release("digits/v1.1", world.publish("digits"))
        async with world.agent():
            await eventually(world.ready)
            (worker,) = world.launcher.running()
            world.clear_catalog()
            await eventually(lambda: worker.signals)
            world.clock.ahead = 3_600.0
            before = world.status().written_at
            await eventually(lambda: world.status().written_at > before + 1_800)
            beats = world.status().written_at
            await eventually(lambda: world.status().written_at > beats)
            assert len(worker.signals) == 1, "asked, and not yet ended"
            worker.behaviour.stubborn = False
