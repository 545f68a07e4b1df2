"""Looking at a home again and again: what has changed is read, and nothing else is."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from fairlead.domain.catalog import Catalog
from fairlead.domain.errors import FairleadError
from fairlead.domain.status import (
    GatewayStatus,
    NodeStatus,
    gateway_status_to_bytes,
    node_status_to_bytes,
)
from fairlead.kits import files
from fairlead.kits.clock import FakeClock
from fairlead.wiring.homes import Control, open_home
from fairlead.wiring.observe import Observer, observe

NODE = NodeStatus("local", 100.0, 7, 1, ())
GATEWAY = GatewayStatus(100.0, 8, 1, "http://127.0.0.1:1", (), {}, {})


@pytest.fixture
def control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Control:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/tmp")
    return replace(open_home(tmp_path / "home", create=True), clock=FakeClock(100.0))


def tell(control: Control, node: NodeStatus, gateway: GatewayStatus) -> None:
    files.write_atomic(control.home.node_status, node_status_to_bytes(node))
    files.write_atomic(control.home.gateway_status, gateway_status_to_bytes(gateway))


def test_what_changed_is_seen_and_what_did_not_is_not_read_again(control: Control) -> None:
    observer = Observer(control)
    assert (observer.look().node, observer.look().gateway) == (None, None)
    tell(control, NODE, GATEWAY)
    first = observer.look()
    assert (first.node, first.gateway) == (NODE, GATEWAY)
    files.write_atomic(
        control.home.gateway_status, gateway_status_to_bytes(replace(GATEWAY, generation=2))
    )
    second = observer.look()
    assert second.node is first.node
    assert second.gateway == replace(GATEWAY, generation=2)
    assert observe(control) == second


def test_what_the_agent_says_is_known_while_the_store_is_away(control: Control) -> None:
    """`up` asks for it where sockets were removed, and must not end with what serves because of a store."""
    control.catalogs.commit(Catalog(), "first")
    (head,) = control.home.root.rglob("catalog/head")
    head.unlink()
    observer = Observer(control)
    tell(control, NODE, GATEWAY)
    with pytest.raises(FairleadError, match="was there and is gone"):
        observer.look()
    assert observer.node() == NODE
    tell(control, replace(NODE, written_at=90.0), GATEWAY)
    assert observer.node() is None


def test_what_is_damaged_or_gone_or_old_says_nothing(control: Control) -> None:
    observer = Observer(control)
    tell(control, NODE, GATEWAY)
    assert observer.look().node == NODE
    files.write_atomic(control.home.node_status, b"{")
    assert observer.look().node is None
    control.home.gateway_status.unlink()
    assert observer.look().gateway is None
    tell(control, replace(NODE, written_at=90.0), replace(GATEWAY, written_at=110.0))
    old = observer.look()
    assert (old.node, old.gateway) == (None, None)


def test_who_runs_and_cannot_say_so_is_not_said_to_be_gone(control: Control) -> None:
    """A disk that is full takes no status: everything serves, and whoever looks must not take it for dead."""
    old = replace(NODE, written_at=80.0, pid=os.getpid())
    tell(control, old, replace(GATEWAY, written_at=80.0))
    gone = ["the agent does not run", "the gateway does not run"]
    assert observe(control).problems() == gone
    lock = files.try_lock(control.home.agent_lock)
    assert lock is not None
    silent = "the agent runs, but has said nothing for 20 s: `fairlead doctor` looks why"
    assert observe(control).problems() == [silent, gone[1]]
    assert observe(control).agent_away == silent
    os.close(lock)
    assert observe(control).problems() == gone
