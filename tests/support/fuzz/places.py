"""What is attacked: everything the examples make, behind the gateway, on a worker's socket, and in `fairlead serve`."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from fairlead.domain.layout import Home
from support.fuzz.batches import Target
from support.plain import NO_TLS
from support.running import FAIRLEAD, ROOT, Fairlead, fairlead, free_port, until

_SMALL = ("digits", "sentiment")  # services whose models share processes
_BAD_WORDS = ("Traceback (most recent call last)", "never retrieved", "Fatal error", "Segmentation")


@dataclass
class Places:
    """A running Fairlead, a stand-alone server beside it, and their ports."""

    running: Fairlead
    serve_url: str
    serve_log: Path
    targets: list[Target] = field(default_factory=list)
    last_worker: Path = Path()

    @property
    def home(self) -> Home[Path]:
        return Home(self.running.home, self.worker().parent)

    def worker(self) -> Path:
        """The socket of the model that everybody asks; the last one while it has none because it died."""
        found = self.running.replicas().get("digits/v1.1")
        self.last_worker = Path(found["socket"]) if found else self.last_worker
        return self.last_worker

    def logs(self) -> Mapping[str, str]:
        """Everything that was written, by file; Envoy's access log aside."""
        files = [self.running.output, self.serve_log, *self.home.logs.rglob("*")]
        return {
            str(path): path.read_text(errors="replace")
            for path in files
            if path.is_file() and "access" not in path.name
        }

    def bad_lines(self) -> list[str]:
        """Lines of a log that no caller's bytes may cause."""
        return [
            f"{name}: {line[:300]}"
            for name, text in self.logs().items()
            for line in text.splitlines()
            if any(word in line for word in _BAD_WORDS)
        ]

    def failures(self) -> list[str]:
        """What the gateway answered with 500 and above, HTTP/2 too: its access log knows."""
        found = []
        for path in self.home.logs.rglob("access*"):
            for line in path.read_text(errors="replace").splitlines():
                entry = json.loads(line) if line.startswith("{") else {}
                status = int(entry.get("status") or 0)
                # A translated call is answered 200; what it says for itself is UNKNOWN, DATA_LOSS or INTERNAL.
                # Who breaks the protocol in the middle of a call gets no answer: Envoy ends the connection.
                code = str(entry.get("grpc")).rpartition(" ")[2]
                broken = code in ("2", "13", "15") and "DPE" not in str(entry.get("flags"))
                if broken or (status >= 500 and status not in (501, 505)):
                    found.append(line[:400])
        return found

    def forwarded(self) -> tuple[int, int]:
        """Requests that Envoy says it sent to workers, and that workers say they got to run a model."""
        transport = httpx.HTTPTransport(uds=str(self.home.envoy_admin_socket), verify=NO_TLS)
        with httpx.Client(transport=transport, base_url="http://envoy") as admin:
            text = admin.get("/stats", params={"filter": r"^cluster\..*@.*upstream_rq_total$"}).text
        sent = sum(int(line.rpartition(": ")[2]) for line in text.splitlines())
        # Each socket of a shared process tells of all of it.
        processes = {one["pid"]: one["socket"] for one in self.running.every_replica()}
        got = sum(
            _counted(socket, r"fairlead_requests_total\{.*?\}") for socket in processes.values()
        )
        return sent, got

    def behind_the_gateway(self) -> dict[str, int]:
        """The processes that a caller's bytes reach, by name."""
        workers = {one["worker"]: int(one["pid"]) for one in self.running.every_replica()}
        return {"envoy": self._envoy(), **workers}

    def deaths(self) -> dict[str, int]:
        """What changes when one of them dies. A worker whose work another has taken over ends too; that is no death."""
        socket = str(self.home.agent_socket)
        died = _counted(socket, r"fairlead_agent_worker_deaths_total")
        failed = _counted(socket, r"fairlead_agent_worker_failures_total")
        return {"envoy": self._envoy(), "dead workers": died, "failed workers": failed}

    def _envoy(self) -> int:
        return int(json.loads(self.home.envoy_process.read_bytes())["pid"])

    def resting(self) -> bool:
        """Nothing is about to move: those that share processes are in as few as they will be, one for every second core."""
        status = json.loads(self.home.node_status.read_bytes())
        states = {one["state"] for one in status["replicas"]}
        shared = [one for one in status["replicas"] if one["revision"]["service"] in _SMALL]
        lines = {(one["revision"]["service"], one["revision"]["line"]) for one in shared}
        fewest = max(1, min(len(lines), (os.cpu_count() or 1) // 2))
        return states == {"ready"} and len({one["pid"] for one in shared}) <= fewest


@contextlib.contextmanager
def places(directory: Path, *more: str, like: Path | None = None) -> Iterator[Places]:
    """Start both, and end them. `more` is for `up`, `like` a home to begin with a copy of: one of them has the models."""
    files = [str(path) for path in sorted(ROOT.glob("examples/*/release*.*"))]
    with fairlead(directory, *files, *more, "--pin", "sentiment=v2", like=like) as running:
        port = free_port()
        log = directory / "serve.out"
        named = ("digits/1", "lsh/1", "sentiment/3", "--no-access-log")
        command = [*FAIRLEAD, "serve", *named, "--home", str(running.home), "--port", str(port)]
        with log.open("wb") as output:
            serving = subprocess.Popen(command, cwd=directory, stdout=output, stderr=output)
        url = f"http://127.0.0.1:{port}"
        try:
            until(lambda: _ready(url), 60, "serve is ready")
            found = Places(running, url, log)
            found.targets = _targets(found, serving, port)
            yield found
        finally:
            serving.terminate()
            serving.wait(20)


def _ready(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{url}/healthz", timeout=2, verify=NO_TLS).status_code == 200
    return False


def _counted(socket: str, series: str) -> int:
    """The sum of these series in what a process tells of itself."""
    transport = httpx.HTTPTransport(uds=socket, verify=NO_TLS)
    with httpx.Client(transport=transport, base_url="http://process", timeout=20) as client:
        metrics = client.get("/metrics").text
    counts = re.findall(rf"^{series} ([0-9.e+]+)", metrics, re.MULTILINE)
    return sum(int(float(count)) for count in counts)


def _targets(found: Places, serving: subprocess.Popen[bytes], port: int) -> list[Target]:
    def ended() -> dict[str, int]:
        return {"its end": -1 if serving.poll() is None else serving.returncode}

    behind, deaths = found.behind_the_gateway, found.deaths
    gateway, alone = ("127.0.0.1", found.running.port), ("127.0.0.1", port)
    return [
        Target("gateway", lambda: gateway, found.running.key, frames=True, pids=behind, steady=deaths),
        Target("worker", found.worker, "none", frames=False, pids=behind, steady=deaths),
        Target("serve", lambda: alone, "none", frames=False, pids=lambda: {"serve": serving.pid}, steady=ended),
    ]  # fmt: skip
