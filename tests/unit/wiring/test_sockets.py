"""Whoever listens on a socket that somebody has removed is started anew, and nobody else is."""

from __future__ import annotations

from asyncio.subprocess import Process
from pathlib import Path
from typing import cast

import pytest

from fairlead.domain.ids import RevisionId
from fairlead.domain.layout import Home
from fairlead.domain.status import NodeStatus, Replica, State
from fairlead.kits.clock import FakeClock
from fairlead.kits.supervise import Child, ChildSpec
from fairlead.wiring.sockets import SocketWatch


class Running:
    """A process, as far as it is asked."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def kill(self) -> None:
        self.returncode = -9


class Place:
    def __init__(self, root: Path) -> None:
        self.home = Home(root, root / "s")
        self.clock = FakeClock()
        self.told: list[str] = []
        self.children = {
            name: Child(ChildSpec(name, [], {}, root / name)) for name in ("gateway", "agent")
        }
        self.processes: dict[str, Running] = {}
        self.node: NodeStatus | None = None
        self.watch = SocketWatch(self.home, self.clock, self.told.append)

    def start(self, name: str, pid: int) -> None:
        self.processes[name] = Running(pid)
        self.children[name].process = cast("Process", self.processes[name])

    def listen(self) -> None:
        self.home.sockets.mkdir(mode=0o700, exist_ok=True)
        for path in (self.home.front_socket, self.home.activator_socket, self.home.agent_socket):
            path.touch()

    def remove(self) -> None:
        for path in self.home.sockets.iterdir():
            path.unlink()
        self.home.sockets.rmdir()

    def look(self, seconds: float = 0.0) -> list[str]:
        """Who was ended, after so long."""
        self.clock.advance(seconds)
        self.watch.look(self.children["gateway"], self.children["agent"], lambda: self.node)
        return [name for name, one in self.processes.items() if one.returncode is not None]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path)
    made.start("gateway", 1)
    made.start("agent", 2)
    return made


def test_who_does_not_listen_yet_is_left_alone(place: Place) -> None:
    assert place.look() == []
    assert place.look(60) == []


def test_a_socket_that_is_replaced_is_no_loss(place: Place) -> None:
    place.listen()
    place.look()
    place.home.front_socket.unlink()
    assert place.look(0.5) == []
    place.listen()
    assert place.look(0.5) == []
    place.home.front_socket.unlink()
    assert place.look(0.9) == [], "it is counted anew"


def test_whoever_nobody_reaches_is_started_anew_the_agent_after_its_workers(place: Place) -> None:
    worker = place.home.sockets / "w.sock"
    one = Replica("w", RevisionId("a", "v1", "1"), "d", State.READY, "", str(worker))
    place.node = NodeStatus("n", 0.0, 2, 1, (one,))
    place.listen()
    place.look()
    place.remove()
    place.look()
    assert place.look(1) == ["gateway"]
    assert place.home.sockets.stat().st_mode & 0o777 == 0o700, "there is a place for others"
    place.start("gateway", 3)
    assert place.look(60) == [], "the new one has to have listened first"
    worker.touch()
    assert place.look() == ["agent"]
    assert [line.partition(": ")[2] for line in place.told] == [
        "starting the gateway anew",
        "starting the agent anew",
    ]


def test_where_there_can_be_no_others_it_is_told_once_and_nobody_is_ended(place: Place) -> None:
    place.listen()
    place.look()
    place.remove()
    place.home.sockets.write_bytes(b"a file where the directory should be")
    place.look()
    assert place.look(2) == []
    assert place.look(2) == []
    (told,) = place.told
    assert "there can be no others" in told
