"""Sockets that somebody has removed under the processes that listen there, as whoever supervises these sees it.

They lie in a directory that others tidy: `/tmp`, or a session's runtime directory, which goes with its last login.
Whoever listens on a socket that has no name any more is reached by nobody, and does not notice.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fairlead.domain.errors import FairleadError
from fairlead.domain.layout import Home
from fairlead.domain.status import NodeStatus, State
from fairlead.kits.clock import Clock
from fairlead.kits.supervise import Child
from fairlead.wiring.homes import make_sockets

_GONE_SECONDS = 1.0  # a start replaces a socket in less


@dataclass(slots=True)
class _Listener:
    pid: int = 0
    there: bool = False
    gone_at: float | None = None


class SocketWatch:
    """Ends the gateway and the agent whose sockets were removed; their supervisor starts them anew, and they make others."""

    def __init__(self, home: Home[Path], clock: Clock, tell: Callable[[str], None]) -> None:
        self._home = home
        self._clock = clock
        self._tell = tell
        self._listeners: dict[str, _Listener] = {}

    def look(self, gateway: Child, agent: Child, node: Callable[[], NodeStatus | None]) -> None:
        """Look once. The agent waits until it has replaced its workers: the next one would give those too their time."""
        if self._lost(gateway, self._home.front_socket, self._home.activator_socket):
            self._end(gateway)
        if self._lost(agent, self._home.agent_socket) and _reachable(node()):
            self._end(agent)

    def _lost(self, child: Child, *paths: Path) -> bool:
        """Has this very process listened there, and does it do so no more?"""
        one = self._listeners.setdefault(child.spec.name, _Listener())
        if one.pid != child.pid:
            one.pid, one.there, one.gone_at = child.pid, False, None
        if all(path.exists() for path in paths):
            one.there, one.gone_at = True, None
            return False
        if not one.there or not one.pid:
            return False
        now = self._clock.monotonic()
        one.gone_at = now if one.gone_at is None else one.gone_at
        return now - one.gone_at >= _GONE_SECONDS

    def _end(self, child: Child) -> None:
        self._listeners[child.spec.name].there = False
        removed = f"sockets in {self._home.sockets} were removed"
        try:
            make_sockets(self._home)
        except FairleadError as error:  # the directory above has gone too
            self._tell(
                f"{removed}, and there can be no others: {error}; end this and start it anew"
            )
            return
        self._tell(f"{removed}: starting the {child.spec.name} anew")
        if child.process is not None:
            with contextlib.suppress(ProcessLookupError):
                child.process.kill()  # what it leads serves on meanwhile, where it can


def _reachable(node: NodeStatus | None) -> bool:
    """Have all ready workers their sockets?"""
    if node is None:
        return False
    return all(Path(one.socket).exists() for one in node.replicas if one.state is State.READY)
