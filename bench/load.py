"""One question to a server, and many of them by wrk."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from time import perf_counter, sleep

from bench.contenders import Contender
from bench.processes import Tree

_SCRIPT = Path(__file__).resolve().parent / "wrk.lua"
_STICKY_KEYS = 200  # different callers, so that a 90/10 split really splits
_TOLERANCE = 1e-4
_ANSWER_SECONDS = 5.0
_START_SECONDS = 60.0


class Failed(Exception):
    """A server did not start, or did not answer as it must."""


@dataclass(frozen=True)
class Burst:
    """What wrk saw in one go."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    bad: int  # answers other than 2xx, and connections that broke


@dataclass(frozen=True)
class Question:
    """What a contender is asked and what it must answer."""

    contender: Contender
    port: int
    key: str | None
    body_file: Path
    expected: list[float]

    def ask(self) -> None:
        """Ask once; raises Failed unless the right probabilities come back."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=_ANSWER_SECONDS)
        headers = {"Content-Type": "application/json", "Accept-Version": "v1"}
        headers |= {"X-Api-Key": self.key} if self.key else {}
        try:
            connection.request("POST", self.contender.path, self.body_file.read_bytes(), headers)
            response = connection.getresponse()
            body = response.read()
        except (OSError, HTTPException) as error:
            raise Failed(f"no answer: {error!r}") from None
        finally:
            connection.close()
        self._check(response.status, body)

    def _check(self, status: int, body: bytes) -> None:
        shown = body[:200].decode(errors="replace")
        if not 200 <= status <= 299:  # noqa: PLR2004 - HTTP's own
            raise Failed(f"status {status}: {shown}")
        try:
            found = self.contender.probabilities(body)
        except (ValueError, KeyError, IndexError, TypeError):
            raise Failed(f"not an answer: {shown}") from None
        pairs = zip(found, self.expected, strict=False)
        if len(found) != len(self.expected) or any(abs(a - b) > _TOLERANCE for a, b in pairs):
            raise Failed(f"wrong probabilities: {found} instead of {self.expected}")

    def first_answer(self, tree: Tree, since: float) -> float:
        """Seconds from `since` to the first right answer; raises Failed after a minute."""
        while True:
            try:
                self.ask()
                return perf_counter() - since
            except Failed as error:
                if tree.has_ended or perf_counter() - since > _START_SECONDS:
                    log = tree.log.read_text(errors="replace")[-2000:]
                    what = "ended" if tree.has_ended else "did not answer"
                    message = f"{self.contender.name} {what} ({error}); its log:\n{log}"
                    raise Failed(message) from None
                sleep(0.01)

    def load(self, connections: int, seconds: float) -> Burst:
        """Keep that many connections busy; raises Failed if wrk gives no figures."""
        command = ["wrk", "--threads", "1", "--connections", str(connections)]
        command += ["--duration", f"{seconds:g}s", "--timeout", "10s", "--script", str(_SCRIPT)]
        command += [f"http://127.0.0.1:{self.port}", "--", self.contender.path]
        command += [str(self.body_file), self.key or "-", str(_STICKY_KEYS)]
        try:
            run = subprocess.run(
                command, capture_output=True, text=True, check=True, timeout=seconds + 30
            )
            figures = json.loads(run.stdout.strip().splitlines()[-1])
        except subprocess.CalledProcessError as error:
            raise Failed(f"wrk failed: {error.stderr or error.stdout}") from None
        except (subprocess.TimeoutExpired, ValueError, IndexError) as error:
            raise Failed(f"wrk gave no figures: {error}") from None
        return Burst(
            figures["requests"],
            figures["microseconds"] / 1e6,
            figures["p50"] / 1e3,
            figures["p99"] / 1e3,
            figures["bad_status"] + figures["broken"],
        )


def is_there() -> bool:
    """Is wrk installed?"""
    return shutil.which("wrk") is not None
