"""The Fairlead that is soaked: `fairlead up` in a home of its own, changed by its ordinary commands."""

import http.client
import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.processes import Tree

from soak import models, plan, wire

NEIGHBOUR = "neighbour"  # a service beside the soaked one, switched off and on
SERVICE = models.NAME
_READY_SECONDS = 90.0
_COMMAND_SECONDS = 180.0
_END_SECONDS = 40.0
_REST_SECONDS = 60.0  # also on a machine that is busy with other things
_FAIRLEAD = (sys.executable, "-m", "fairlead")


class Broken(Exception):
    """Fairlead did not do what it was told: the soak cannot go on."""


def until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """Wait for a condition with a deadline; returns what it returned."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > end:
            raise Broken(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.02)
    return found


@dataclass(frozen=True, slots=True)
class Change:
    """One command and how long it took."""

    command: str
    seconds: float


class Subject:
    """One home and its `fairlead up`."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.models = folder / "models"
        # Whatever Fairlead leaves there can be counted. A short name: sockets lie below it.
        self.temporary = Path(tempfile.mkdtemp(prefix="fl-soak-"))
        self.seed = seed
        self.port = _free_port()
        self.changes: list[Change] = []
        self._tree: Tree | None = None

    @property
    def tree(self) -> Tree:
        if self._tree is None:
            raise Broken("Fairlead was not started")
        return self._tree

    def start(self) -> None:
        """Start it with one revision of each line and of the neighbour; returns when all serve."""
        for version in range(1, plan.FIRST_ARTIFACTS + 1):
            self.write_model(version)
        files = [
            self.release(SERVICE, line, 1, number) for number, line in enumerate(plan.LINES, 1)
        ]
        files.append(self.release(NEIGHBOUR, "v1", 1, 1))
        environment = {
            "TMPDIR": str(self.temporary),
            "XDG_RUNTIME_DIR": "",
            "FAIRLEAD_HOME": str(self.home),
            # Every revision a process of its own: how many there are, what each keeps, and whose callers a kill may
            # cost an answer is then known beforehand, and looks at rest can be compared.
            "FAIRLEAD_POOL_SIZE": "1",
            "PYTHONPATH": str(Path(__file__).parents[1] / "src"),
        }
        command = [*_FAIRLEAD, "up", *map(str, files), "--models", str(self.models)]
        command += ["--port", str(self.port)]
        self._tree = Tree(command, environment, self.folder / "up.out")
        until(self._started, _READY_SECONDS, f"ready: {self.told()[-500:]}")

    def _started(self) -> bool:
        if self.tree.has_ended:
            raise Broken(f"`fairlead up` ended: {self.told()[-500:]}")
        return "Ready after" in self.told()

    def told(self) -> str:
        return (self.folder / "up.out").read_text(errors="replace")

    def command(self, *arguments: str) -> str:
        """Run an ordinary command on this home; returns what it printed. Raises Broken if it fails."""
        began = time.monotonic()
        done = subprocess.run(
            [*_FAIRLEAD, *arguments],
            env=self.tree.environment,
            capture_output=True,
            text=True,
            timeout=_COMMAND_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for us; a change that has begun is finished
        )
        if done.returncode != 0:
            raise Broken(f"`fairlead {' '.join(arguments)}`: {done.stderr or done.stdout}")
        self.changes.append(Change(arguments[0], time.monotonic() - began))
        return done.stdout.strip()

    def write_model(self, version: int) -> Path:
        folder = self.models / models.NAME / str(version)
        return folder if folder.exists() else models.write(folder, self.seed, version)

    def release(
        self,
        service: str,
        line: str,
        number: int,
        artifact: int,
        traffic: Mapping[int, int] | None = None,
    ) -> Path:
        """A release file for one revision; it takes all traffic if nothing else is said."""
        path = self.folder / "releases" / f"{service}-{line}-{number}.json"
        path.parent.mkdir(exist_ok=True)
        shares = traffic or {number: 100}
        document = {
            "service": service,
            "model": line,
            "version": str(number),
            "artifact": f"{models.NAME}/{artifact}",
            "traffic": [{"tag": str(tag), "percent": share} for tag, share in shares.items()],
        }
        path.write_text(json.dumps(document))
        return path

    @property
    def key(self) -> str:
        return (self.home / "demo-key").read_text().strip()

    @property
    def node_status(self) -> Path:
        return self.home / "node" / "status.json"

    @property
    def sockets(self) -> Path:
        """The directory of its sockets."""
        found = [one for one in self.temporary.glob("fairlead-*") if one.is_dir()]
        if len(found) != 1:
            raise Broken(f"one directory of sockets was expected, found {found}")
        return found[0]

    def replicas(self) -> list[dict[str, Any]]:
        """What the node says of its workers."""
        found: list[dict[str, Any]] = json.loads(self.node_status.read_bytes())["replicas"]
        return found

    def rest(self, workers: int) -> None:
        """Wait until only these many workers are left, all ready, and nobody still ends."""

        def at_rest() -> bool:
            there = self.replicas()
            records = len(list((self.home / "node" / "workers").glob("*.json")))
            ready = all(one["state"] == "ready" for one in there)
            return ready and len(there) == records == workers

        until(at_rest, _REST_SECONDS, f"{workers} workers and no more: {self.replicas()}")

    def ask(
        self, key: str, version: str = "", service: str = SERVICE
    ) -> tuple[int, dict[str, str], bytes]:
        """One request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        headers = {"X-Api-Key": key, "Content-Type": "application/json"}
        if version:
            headers["Accept-Version"] = version
        body = wire.question(self.seed, range(1))
        try:
            connection.request("POST", f"/v2/models/{service}/infer", body, headers)
            answer = connection.getresponse()
            named = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, named, answer.read()
        finally:
            connection.close()

    def envoy(self, path: str) -> Any:
        """What Envoy's admin interface answers, as JSON."""
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(5)
            line.connect(str(self.sockets / "envoy.sock"))
            line.sendall(f"GET {path} HTTP/1.1\r\nHost: soak\r\nConnection: close\r\n\r\n".encode())
            connection = http.client.HTTPResponse(line)
            connection.begin()
            return json.loads(connection.read())

    def stop(self) -> tuple[int, list[str]]:
        """Stop it as Ctrl-C does; returns the exit code and what it left behind."""
        self.tree.signal(signal.SIGINT)
        try:
            code = self.tree.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            return -1, [f"`fairlead up` did not end within {_END_SECONDS:.0f} s"]
        left = [f"process {one.pid} ({_words(one.cmdline())})" for one in self.tree.members()]
        left += [f"{one} in the temporary directory" for one in sorted(self.temporary.rglob("*"))]
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                left.append(f"somebody still listens on port {self.port}")
        running = ("up.json", "gateway/status.json", "gateway/envoy/process.json")
        left += [f"{name} in the home" for name in running if (self.home / name).exists()]
        left += [str(one) for one in (self.home / "node" / "workers").glob("*")]
        return code, left

    def end(self) -> None:
        """Whatever happened, nothing of it runs on."""
        if self._tree is not None:
            self._tree.end()
        shutil.rmtree(self.temporary, ignore_errors=True)


def _words(command: Sequence[str]) -> str:
    return " ".join(command)[:120]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
