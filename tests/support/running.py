"""Fairlead, started as a user starts it, in a home of the test's own."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil

from support.effort import PATIENCE

ROOT = Path(__file__).parents[2]
T = TypeVar("T")
FAIRLEAD = [sys.executable, "-m", "fairlead"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(
    condition: Callable[[], T | None], seconds: float = 40.0, what: str = "what was waited for"
) -> T:
    """Wait for a condition; returns what it returned. `seconds` is how long that takes at the very most when nobody disturbs."""
    end = time.monotonic() + seconds * PATIENCE
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds * PATIENCE} s: {what}")
        time.sleep(0.01)


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def version(self) -> str:
        return self.headers.get("x-served-version", "")


class Fairlead:
    """One `fairlead up`. Whatever a test does, `close` leaves no process of it."""

    def __init__(
        self,
        directory: Path,
        *arguments: str,
        environment: dict[str, str] | None = None,
        like: Path | None = None,
    ) -> None:
        """`like` is a home to begin with a copy of, where nothing has run yet."""
        self.directory = directory
        self.home = directory / ".fairlead"
        if like is not None:
            shutil.copytree(like, self.home)
        self.port = free_port()
        self.arguments = arguments
        self.environment = {**os.environ, **(environment or {})}
        self.process: subprocess.Popen[str] | None = None
        self.output = directory / "up.out"
        self.scheme = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def start(self, *, ready: bool = True, seconds: float = 60.0) -> float:
        """Start it; returns the seconds until everything was proved ready."""
        self.directory.mkdir(parents=True, exist_ok=True)
        command = [
            *FAIRLEAD,
            "up",
            *self.arguments,
            "--home",
            str(self.home),
            "--port",
            str(self.port),
        ]
        began = time.monotonic()
        before = self.told().count("Ready after")
        with self.output.open("a") as output:
            self.process = subprocess.Popen(
                command,
                cwd=self.directory,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        if ready:
            until(
                lambda: self.told().count("Ready after") > before or self._ended(),
                seconds,
                f"ready\n{self.told()}",
            )
            assert self.process.poll() is None, self.told()
        return time.monotonic() - began

    def told(self) -> str:
        return self.output.read_text() if self.output.exists() else ""

    def _ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def stop(self, number: int = signal.SIGINT, seconds: float = 30.0) -> int:
        """Stop it as Ctrl-C does; returns the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(seconds)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()

    def processes(self) -> list[psutil.Process]:
        """Every process that has this home in its command line: ours, wherever it hangs in the tree."""
        marker = str(self.home)
        found = []
        for process in psutil.process_iter(["cmdline", "status"]):
            command = " ".join(process.info["cmdline"] or [])
            if (
                marker in command
                and process.info["status"] != psutil.STATUS_ZOMBIE
                and process.pid != os.getpid()
            ):
                found.append(process)
        return found

    def cli(
        self, *arguments: str, code: int | None = 0, seconds: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Run another command on this home, as from a second terminal."""
        done = subprocess.run(
            [*FAIRLEAD, *arguments],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert code is None or done.returncode == code, (
            f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        return done

    @property
    def key(self) -> str:
        return (self.home / "demo-key").read_text().strip()

    def ask(
        self,
        path: str,
        body: Any = None,
        *,
        method: str | None = None,
        key: str | None = "",
        **headers: str,
    ) -> Reply:
        """One request on a connection of its own. `key` "" is the demo key, None is none."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if key is not None:
            sent["X-Api-Key"] = key or self.key
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method or ("GET" if body is None else "POST"), path, data, sent)
            answer = connection.getresponse()
            return Reply(
                answer.status,
                {name.lower(): value for name, value in answer.getheaders()},
                answer.read(),
            )
        finally:
            connection.close()

    def health(self) -> dict[str, Any] | None:
        """What /healthz says; None if nobody answers."""
        try:
            reply = self.ask("/healthz", key=None)
        except (OSError, http.client.HTTPException):
            return None
        try:
            return {"http": reply.status, **reply.json}
        except ValueError:
            return {"http": reply.status}

    def healthy(self) -> bool:
        found = self.health()
        return found is not None and found["http"] == 200 and found.get("status") == "ok"

    def replicas(self) -> dict[str, dict[str, Any]]:
        """One of the node's replicas by served version: `service/line.revision`."""
        return {
            "{service}/{line}.{revision}".format(**replica["revision"]): replica
            for replica in self.every_replica()
        }

    def every_replica(self) -> list[dict[str, Any]]:
        """The ready ones; endpoints that scale apart have replicas of their own."""
        status = json.loads((self.home / "node" / "status.json").read_bytes())
        return [one for one in status["replicas"] if one["state"] == "ready"]


@contextlib.contextmanager
def fairlead(directory: Path, *arguments: str, **options: Any) -> Iterator[Fairlead]:
    """A Fairlead that is ready, and gone afterwards."""
    running = Fairlead(directory, *arguments, **options)
    try:
        running.start()
        yield running
    finally:
        running.close()
