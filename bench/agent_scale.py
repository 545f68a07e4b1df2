"""Many small services on one node: memory, idle CPU, and how soon a release of one of them is ready.

`python bench/agent_scale.py --services 1000` starts an agent of its own on a fresh home, without a gateway, and
measures the agent's part: `ready` is what the node's status says. Every service has an artifact of its own
(the same small graph, published under another name), so nothing is shared that would not be in real life.
"""

import argparse
import dataclasses
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.processes import Tree, Usage  # noqa: E402 - runs as a script
from fairlead.agent.pools import processes_for  # noqa: E402
from fairlead.agent.settings import AgentSettings  # noqa: E402
from fairlead.control import catalogs as changing  # noqa: E402
from fairlead.domain.catalog import (  # noqa: E402
    Catalog,
    Revision,
    with_revision,
    with_traffic,
)
from fairlead.domain.errors import FairleadError  # noqa: E402
from fairlead.domain.golden import golden_from_bytes  # noqa: E402
from fairlead.domain.ids import ArtifactRef, RevisionId  # noqa: E402
from fairlead.domain.manifest import Manifest, manifest_from_bytes  # noqa: E402
from fairlead.domain.release import EndpointSpec, TrafficShare  # noqa: E402
from fairlead.domain.status import NodeStatus, node_status_from_bytes  # noqa: E402
from fairlead.wiring.homes import Control, open_home  # noqa: E402

_SECONDS = 600.0
_IDLE_SECONDS = 20.0


class Node:
    """A home whose store holds one artifact for each service, and its agent."""

    def __init__(self, directory: Path, model: Path) -> None:
        self.control: Control = open_home(directory / "home", create=True)
        self._model = model
        manifest = manifest_from_bytes(_manifest_of(model))
        golden_from_bytes((model / manifest.golden).read_bytes())
        self._manifest = manifest

    def publish(self, name: str, version: int) -> Manifest:
        manifest = dataclasses.replace(self._manifest, ref=ArtifactRef(name, version))
        self.control.artifacts.publish(manifest, self._model)
        return manifest

    def release(self, revisions: list[tuple[str, str, Manifest]]) -> None:
        """All traffic of each service to a new revision, in one change of the catalog."""

        def change(catalog: Catalog) -> Catalog:
            for service, tag, manifest in revisions:
                identity = RevisionId(service, "v1", tag)
                endpoint = EndpointSpec("predict", 1, 1)
                new = Revision(identity, manifest.ref, manifest.digest, (endpoint,), "", 0.0)
                catalog = with_revision(catalog, new)
                catalog = with_traffic(catalog, identity.line_id, (TrafficShare(tag, 100),))
            return catalog

        changing.change(self.control.catalogs, self.control.clock, change, "bench")

    def status(self) -> NodeStatus | None:
        try:
            return node_status_from_bytes(self.control.home.node_status.read_bytes())
        except (OSError, FairleadError):
            return None

    def ready(self) -> dict[str, int]:
        """The process of each ready revision."""
        status = self.status()
        found = status.ready() if status is not None else {}
        return {str(revision): replicas[0].pid for revision, replicas in found.items()}


def _manifest_of(model: Path) -> bytes:
    """The manifest of a built example, as `publish` makes it, found in a scratch home."""
    from fairlead.wiring.publishing import ProverInChild, publish_to  # noqa: PLC0415

    class Kept:
        manifest: Manifest | None = None

        def publish(self, manifest: Manifest, directory: Path) -> str:
            del directory
            self.manifest = manifest
            return "new"

    from fairlead.domain.manifest import manifest_to_bytes  # noqa: PLC0415

    kept = Kept()
    publish_to(kept, model, lambda _: None, ProverInChild(allow_pickle=False))
    assert kept.manifest is not None
    return manifest_to_bytes(kept.manifest)


def until(condition: Callable[[], bool], what: str) -> float:
    """Seconds until it holds."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > _SECONDS:
            raise SystemExit(f"{what}: not within {_SECONDS:g} s")
        time.sleep(0.05)
    return time.monotonic() - began


def measure(node: Node, tree: Tree, services: int) -> dict[str, float]:
    names = [f"s{number:04d}" for number in range(services)]
    figures: dict[str, float] = {}
    figures["all ready, s"] = until(lambda: len(node.ready()) == services, "all ready")
    figures["worker processes at first"] = len(set(node.ready().values()))
    defaults = AgentSettings(cores=os.cpu_count() or 1)
    fewest = processes_for([RevisionId(name, "v1", "1") for name in names], defaults)

    def calm() -> bool:
        return len(node.ready()) == services and len(set(node.ready().values())) <= fewest

    figures["few processes after, s"] = until(calm, "few processes")
    time.sleep(5)
    before, began = tree.usage(), time.monotonic()
    time.sleep(_IDLE_SECONDS)
    after, seconds = tree.usage(), time.monotonic() - began
    figures["idle CPU, % of a core"] = 100 * _spent(before, after) / seconds
    figures["memory (PSS), MiB"] = after.pss_mib
    figures["worker processes"] = len(set(node.ready().values()))
    manifest = node.publish(names[services // 2], 2)
    node.release([(names[services // 2], "2", manifest)])
    new = f"{names[services // 2]}/v1.2"
    figures["a release of one ready, s"] = until(lambda: new in node.ready(), "the release")
    figures["and in a shared process after, s"] = until(calm, "few processes again")
    return figures


def _spent(before: Usage, after: Usage) -> float:
    return after.cpu_seconds - before.cpu_seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--services", type=int, default=1_000)
    parser.add_argument("--model", type=Path, default=ROOT / "build" / "models" / "digits" / "1")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fl-many-") as directory:
        node = Node(Path(directory), options.model.resolve())
        names = [f"s{number:04d}" for number in range(options.services)]
        node.release([(name, "1", node.publish(name, 1)) for name in names])
        home = str(node.control.home.root)
        command = [sys.executable, "-m", "fairlead", "agent", "--home", home]
        tree = Tree(command, {}, Path(directory) / "agent.log")
        try:
            for what, figure in measure(node, tree, options.services).items():
                print(f"{what:<32} {figure:10.1f}")
        finally:
            tree.end()


if __name__ == "__main__":
    main()
