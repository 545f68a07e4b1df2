"""What is attacked: everything the examples make, behind the gateway, on a worker's socket, and in `fairlead serve`."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from fairlead.domain.layout import Home
from support.fuzz.batches import Target
from support.running import FAIRLEAD, ROOT, Fairlead, fairlead, free_port, until

_BAD_WORDS = ("Traceback (most recent call last)", "never retrieved", "Fatal error", "Segmentation")


@dataclass
class Places:
    """A running Fairlead, a stand-alone server beside it, and their ports."""

    running: Fairlead
    serve_url: str
    serve_log: Path
    targets: list[Target] = field(default_factory=list)

    @property
    def home(self) -> Home[Path]:
        sockets = Path(self.running.replicas()["digits/v1.1"]["socket"]).parent
        return Home(self.running.home, sockets)

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
                broken = str(entry.get("grpc")).rpartition(" ")[2] in ("2", "13", "15")
                if broken or (status >= 500 and status not in (501, 505)):
                    found.append(line[:400])
        return found

    def forwarded(self) -> tuple[int, int]:
        """Requests that Envoy says it sent to workers, and that workers say they got to run a model."""
        transport = httpx.HTTPTransport(uds=str(self.home.envoy_admin_socket))
        with httpx.Client(transport=transport, base_url="http://envoy") as admin:
            text = admin.get("/stats", params={"filter": r"^cluster\..*@.*upstream_rq_total$"}).text
        sent = sum(int(line.rpartition(": ")[2]) for line in text.splitlines())
        got = 0
        # Each socket of a shared process tells of all of it.
        processes = {one["pid"]: one["socket"] for one in self.running.replicas().values()}
        for socket in processes.values():
            transport = httpx.HTTPTransport(uds=socket)
            with httpx.Client(transport=transport, base_url="http://worker") as worker:
                metrics = worker.get("/metrics").text
            counts = re.findall(
                r"^fairlead_requests_total\{.*?\} ([0-9.e+]+)", metrics, re.MULTILINE
            )
            got += sum(int(float(count)) for count in counts)
        return sent, got


@contextlib.contextmanager
def places(directory: Path, models: Path) -> Iterator[Places]:
    """Start both, and end them."""
    files = [str(path) for path in sorted(ROOT.glob("examples/*/release*.*"))]
    with fairlead(directory, *files, "--models", str(models), "--pin", "sentiment=v2") as running:
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
            found.targets = _targets(found, serving.pid, port)
            yield found
        finally:
            serving.terminate()
            serving.wait(20)


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/healthz", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        time.sleep(0.05)
        return False


def _targets(found: Places, serve_pid: int, serve_port: int) -> list[Target]:
    def behind_the_gateway() -> dict[str, int]:
        envoy: dict[str, Any] = json.loads(found.home.envoy_process.read_bytes())
        workers = {name: int(one["pid"]) for name, one in found.running.replicas().items()}
        return {"envoy": int(envoy["pid"]), **workers}

    socket = Path(found.running.replicas()["digits/v1.1"]["socket"])
    gateway = ("127.0.0.1", found.running.port)
    return [
        Target("gateway", gateway, found.running.key, frames=True, pids=behind_the_gateway),
        Target("worker", socket, "none", frames=False, pids=behind_the_gateway),
        Target("serve", ("127.0.0.1", serve_port), "none", frames=False, pids=lambda: {"serve": serve_pid}),
    ]  # fmt: skip
