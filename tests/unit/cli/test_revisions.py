"""`fairlead revisions` on what a node says: how far each revision is, also of those without a worker."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fairlead.cli.main import cli
from fairlead.domain.catalog import Revision, with_revision
from fairlead.domain.ids import ArtifactRef, EndpointId, RevisionId
from fairlead.domain.release import EndpointSpec
from fairlead.domain.status import NodeStatus, Replica, State, node_status_to_bytes
from fairlead.wiring.homes import open_home

ONE = RevisionId("speech", "v1", "1")
STREAM, VALIDATE = (ONE.endpoint(name) for name in ("stream", "validate"))
DIGEST = "sha256:" + "0" * 64


class Node:
    """A home with one revision of two endpoints, and what its agent says."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.control = open_home(root, create=True)
        ends = (EndpointSpec("stream", 0, 4, 1, ("/say",)), EndpointSpec("validate", 0, 1, 0))
        revision = Revision(ONE, ArtifactRef("voice", 1), DIGEST, ends, "", 0.0)
        catalogs = self.control.catalogs
        catalogs.commit(with_revision(catalogs.read(), revision), "test")

    def says(self, *replicas: Replica, cold: tuple[EndpointId, ...]) -> None:
        now = self.control.clock.now()
        status = NodeStatus("local", now, os.getpid(), 1, replicas, cold=cold)
        self.control.home.node_status.parent.mkdir(exist_ok=True)
        self.control.home.node_status.write_bytes(node_status_to_bytes(status))

    def listed(self, *options: str) -> str:
        command = ["revisions", "--home", str(self.root), *options]
        result = CliRunner().invoke(cli, command, standalone_mode=False)
        assert result.return_value == 0, result.exception
        return result.stdout

    def row(self) -> str:
        return self.listed().splitlines()[1]

    def here(self) -> dict[str, Any]:
        ((only,),) = [one["nodes"] for one in json.loads(self.listed("--json"))["revisions"]]
        return dict(only)


def replica(state: State, endpoint: str = "") -> Replica:
    return Replica("w1", ONE, DIGEST, state, socket="/run/w1", endpoint=endpoint)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path / "home")


def test_a_revision_that_is_scaled_to_zero_is_cold(node: Node) -> None:
    node.says(cold=(STREAM, VALIDATE))
    assert "  cold on local  " in node.row()
    cold = {"node": "local", "state": "cold", "workers": 0, "reason": ""}
    assert node.here() == {**cold, "cold": ["stream", "validate"]}


def test_endpoints_that_are_cold_are_named_beside_what_is_ready(node: Node) -> None:
    node.says(replica(State.READY, "validate"), cold=(STREAM,))
    assert "  ready on local (cold: stream)  " in node.row()
    assert (node.here()["state"], node.here()["cold"]) == ("ready", ["stream"])


def test_one_that_is_going_cold_or_coming_up_is_told_as_both(node: Node) -> None:
    for state in (State.DRAINING, State.STARTING):
        node.says(replica(state), cold=(STREAM, VALIDATE))
        assert f"  {state} on local (cold: stream, validate)  " in node.row()


def test_one_that_is_ready_and_one_that_is_not_wanted_are_not_cold(node: Node) -> None:
    node.says(replica(State.READY), cold=())
    assert "  ready on local  " in node.row()
    assert node.here()["cold"] == []
    node.says(cold=(EndpointId("speech", "v1", "2", "stream"),))
    assert "cold" not in node.row()
    assert (node.here()["state"], node.here()["cold"]) == (None, [])
