"""Where everything lies on a node. Every derived path and socket name is made here.

A home (`.fairlead/` by default) holds the store of a one-machine installation and one node. Unix sockets
lie in a short directory of their own, because a socket's path may have no more than 107 bytes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import PurePath
from typing import Generic, TypeVar

PathT = TypeVar("PathT", bound=PurePath)

ACCESS_LOG = "access.jsonl"  # among the logs: one line a request, no events
SCHEMA = 1  # of the home as a whole; raised when an older Fairlead could not read it any more


# What Envoy reads as protobuf: with a thousand services these are tens of MiB of JSON.
PROTOBUF_KINDS = frozenset({"cds", "rds"})


def watched_file(envoy: PathT, kind: str) -> PathT:
    """The file of the directory Envoy reads that says one kind of resources; alone in its directory, which is watched."""
    return envoy / kind / f"{kind}.{'pb' if kind in PROTOBUF_KINDS else 'json'}"


@dataclass(frozen=True, slots=True)
class Home(Generic[PathT]):
    """A home directory and its socket directory."""

    root: PathT
    sockets: PathT

    @property
    def marker(self) -> PathT:
        """Says which schema the home has; written first."""
        return self.root / "home.json"

    @property
    def lock(self) -> PathT:
        """Held by the one `fairlead up` that runs here."""
        return self.root / "up.lock"

    @property
    def running(self) -> PathT:
        """What runs here: pid, URL; there only while `fairlead up` runs."""
        return self.root / "up.json"

    @property
    def demo_key(self) -> PathT:
        return self.root / "demo-key"

    @property
    def store(self) -> PathT:
        return self.root / "store"

    @property
    def logs(self) -> PathT:
        return self.root / "logs"

    # The agent's.
    @property
    def node_status(self) -> PathT:
        return self.root / "node" / "status.json"

    @property
    def node_catalog(self) -> PathT:
        """The last catalog the agent saw: what it goes on with while the store is away."""
        return self.root / "node" / "catalog.json"

    @property
    def artifacts(self) -> PathT:
        return self.root / "node" / "artifacts"

    @property
    def downloads(self) -> PathT:
        return self.root / "node" / "downloads"

    @property
    def workers(self) -> PathT:
        """One record for each worker, so that the next agent can adopt it."""
        return self.root / "node" / "workers"

    @property
    def agent_lock(self) -> PathT:
        return self.root / "node" / "agent.lock"

    def artifact(self, digest: str) -> PathT:
        """The directory of one verified artifact."""
        return self.artifacts / digest.replace(":", "-")

    def measured(self, digest: str) -> PathT:
        """What batching gains an artifact here."""
        return self.root / "node" / "measured" / f"{digest.replace(':', '-')}.json"

    def worker_socket(self, worker: str) -> PathT:
        return self.sockets / f"{worker}.sock"

    @property
    def agent_socket(self) -> PathT:
        """Where the agent answers `/metrics`."""
        return self.sockets / "agent.sock"

    # The gateway's.
    @property
    def gateway(self) -> PathT:
        return self.root / "gateway"

    @property
    def gateway_status(self) -> PathT:
        return self.root / "gateway" / "status.json"

    @property
    def envoy(self) -> PathT:
        """The directory Envoy reads."""
        return self.root / "gateway" / "envoy"

    @property
    def envoy_process(self) -> PathT:
        """Who the running Envoy is, so that the next gateway can adopt it."""
        return self.envoy / "process.json"

    @property
    def gateway_last_status(self) -> PathT:
        """The status of a gateway that ended in order: what the next one starts from."""
        return self.root / "gateway" / "last-status.json"

    @property
    def gateway_catalog(self) -> PathT:
        return self.root / "gateway" / "catalog.json"

    @property
    def gateway_lock(self) -> PathT:
        return self.root / "gateway" / "gateway.lock"

    @property
    def keys(self) -> PathT:
        """The keys' secrets; mode 0600; never in the catalog."""
        return self.root / "gateway" / "keys.json"

    @property
    def key_uses(self) -> PathT:
        """When each key was last used, and how often."""
        return self.root / "gateway" / "key-uses.json"

    @property
    def front_socket(self) -> PathT:
        """Where the gateway's own process answers what no worker does."""
        return self.sockets / "front.sock"

    @property
    def activator_socket(self) -> PathT:
        """Where the gateway's own process holds requests until a worker is there for them."""
        return self.sockets / "activator.sock"

    @property
    def envoy_admin_socket(self) -> PathT:
        return self.sockets / "envoy.sock"


def socket_directory_name(root: PurePath) -> str:
    """A short name for a home's socket directory, the same for the same home."""
    return "fairlead-" + hashlib.sha256(str(root).encode()).hexdigest()[:12]
