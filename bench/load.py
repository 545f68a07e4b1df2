"""One question to a server, and many of them: by wrk over HTTP, by h2load and grpcio over gRPC."""

import json
import math
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from time import perf_counter, sleep
from typing import Any, Protocol

from bench.processes import Tree
from bench.subject import BENCH, HOST, Case, Contender, Failed, Load, Place, Plan
from bench.theirs import interpreter

_SCRIPT = BENCH / "wrk.lua"
_CLIENT = BENCH / "clients" / "grpc_client.py"
_METHOD = "inference.GRPCInferenceService/ModelInfer"
_STICKY_KEYS = 200  # different callers, so that a 90/10 split really splits
_MOST_COPIED = 1 << 16  # bytes of a body up to which wrk holds one for each sticky key
_ANSWER_SECONDS = 15.0
_START_SECONDS = 60.0
_MORE_SECONDS = 45.0  # that a load generator may take beyond its time
_STREAMS_EACH = 8  # requests under way on one HTTP/2 connection


@dataclass(frozen=True)
class Burst:
    """What a load generator saw in one go."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    bad: int  # answers that were no right ones, and connections that broke
    load_cores: float  # what it used itself


class Question(Protocol):
    """What a started server is asked."""

    def ask(self) -> None:
        """Ask once; raises Failed unless the right answer comes back."""
        ...

    def first_answer(self, tree: Tree, since: float) -> float:
        """Seconds from `since` to the first right answer; raises Failed after a minute."""
        ...

    def load(self, connections: int, seconds: float) -> Burst:
        """Keep that many requests under way; raises Failed if there are no figures."""
        ...


def question(way: Load, contender: Contender, place: Place, plan: Plan) -> Question:
    """How this contender is asked in that way."""
    if way == "wrk":
        return Http(contender, place, plan)
    return Grpc(place, plan, by_h2load=way == "h2load")


def check(case: Case, found: Any) -> None:
    """Raise Failed unless these are the case's expected rows."""
    wanted = case.expected
    same = len(found) == len(wanted) and all(
        len(row) == len(right)
        and all(
            math.isclose(a, b, rel_tol=0, abs_tol=case.tolerance) for a, b in _pairs(row, right)
        )
        for row, right in _pairs(found, wanted)
    )
    if not same:
        raise Failed(f"wrong answer: {str(found)[:200]} instead of {str(wanted)[:200]}")


class Http:
    """Asked over HTTP, loaded by wrk."""

    def __init__(self, contender: Contender, place: Place, plan: Plan) -> None:
        assert contender.dialect is not None
        self._case, self._dialect = place.case, contender.dialect
        self._port = place.port
        self._headers = contender.dialect.headers(place.case)
        self._headers |= {"X-Api-Key": plan.key} if plan.key else {}
        self._body = place.home / f"{place.case.name}.body"
        self._body.write_bytes(contender.dialect.body(place.case))

    def ask(self) -> None:
        connection = HTTPConnection(HOST, self._port, timeout=_ANSWER_SECONDS)
        path = self._dialect.path(self._case)
        try:
            connection.request("POST", path, self._body.read_bytes(), self._headers)
            response = connection.getresponse()
            body = response.read()
        except (OSError, HTTPException) as error:
            raise Failed(f"no answer: {error!r}") from None
        finally:
            connection.close()
        shown = body[:200].decode(errors="replace")
        if not 200 <= response.status <= 299:  # noqa: PLR2004 - HTTP's own
            raise Failed(f"status {response.status}: {shown}")
        headers = {name.lower(): value for name, value in response.getheaders()}
        try:
            found = self._dialect.numbers(self._case, headers, body)
        except (ValueError, KeyError, IndexError, TypeError):
            raise Failed(f"not an answer: {shown}") from None
        check(self._case, found)

    def first_answer(self, tree: Tree, since: float) -> float:
        while True:
            try:
                self.ask()
                return perf_counter() - since
            except Failed as error:
                if tree.has_ended or perf_counter() - since > _START_SECONDS:
                    raise did_not_start(tree, error) from None
                sleep(0.01)

    def load(self, connections: int, seconds: float) -> Burst:
        keys = _STICKY_KEYS if self._body.stat().st_size <= _MOST_COPIED else 1
        command = ["wrk", "--threads", "1", "--connections", str(connections)]
        command += [
            "--duration",
            f"{max(1, round(seconds))}s",
            "--timeout",
            "10s",
            "--script",
            str(_SCRIPT),
        ]
        command += [f"http://{HOST}:{self._port}", "--", self._dialect.path(self._case)]
        command += [str(self._body), str(keys)]
        command += [f"{name}: {value}" for name, value in self._headers.items()]
        output, cores = _run(command, seconds)
        return _burst(output, cores)


class Grpc:
    """Asked by grpcio, loaded by h2load or by grpcio."""

    def __init__(self, place: Place, plan: Plan, *, by_h2load: bool) -> None:
        case = place.case
        self._case, self._by_h2load = case, by_h2load
        self._address = f"{HOST}:{plan.grpc_port}"
        self._metadata = {"accept-version": "v1", "x-sticky-key": "caller-1"} if plan.key else {}
        self._metadata |= {"x-api-key": plan.key} if plan.key else {}
        self._folder = place.home
        self._file = place.home / "case.json"
        wanted = {"name": case.name, "source": case.source, "rows": case.rows}
        self._file.write_text(json.dumps(wanted))
        self._answer_bytes = 0

    def _client(self, what: str, *more: str) -> list[str]:
        command = [str(interpreter("tools")), str(_CLIENT), what, str(self._file)]
        command += ["--address", self._address, "--metadata", json.dumps(self._metadata)]
        return [*command, *more]

    def ask(self) -> None:
        self._take(_run(self._client("ask", "--seconds", "0"), 1)[0])

    def _take(self, output: str) -> None:
        answer = json.loads(output)
        if "failed" in answer:
            raise Failed(answer["failed"])
        check(self._case, answer["numbers"])
        self._answer_bytes = answer["bytes"]

    def first_answer(self, tree: Tree, since: float) -> float:
        command = self._client("ask", "--seconds", str(_START_SECONDS))
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
            try:
                while client.poll() is None and not tree.has_ended:
                    sleep(0.02)
                spent = perf_counter() - since
                client.kill()
                assert client.stdout is not None
                self._take(client.stdout.read() or '{"failed": "no answer"}')
            except Failed as error:
                raise did_not_start(tree, error) from None
            finally:
                client.kill()
        return spent

    def load(self, connections: int, seconds: float) -> Burst:
        if not self._by_h2load:
            more = ("--connections", str(connections), "--seconds", f"{seconds:g}")
            return _burst(*_run(self._client("load", *more), seconds))
        frame, log = self._folder / "frame", self._folder / "h2load.log"
        if not frame.exists():
            _run(self._client("frame", "--out", str(frame)), 5)
        log.unlink(missing_ok=True)
        clients = max(1, connections // _STREAMS_EACH)
        command = ["h2load", "--threads=1", f"--clients={clients}", f"--data={frame}"]
        command += [f"--max-concurrent-streams={connections // clients}", f"--log-file={log}"]
        command += [f"--duration={max(1, round(seconds))}"]
        headers = {"content-type": "application/grpc", "te": "trailers"} | self._metadata
        command += [f"--header={name}: {value}" for name, value in headers.items()]
        output, cores = _run([*command, f"http://{self._address}/{_METHOD}"], seconds)
        return read_h2load(
            output, log.read_text().splitlines(), self._answer_bytes, connections, cores
        )


def read_h2load(
    output: str, log: Sequence[str], answer_bytes: int, under_way: int, cores: float
) -> Burst:
    """The figures of a run of h2load; raises Failed if it prints none.

    An error over gRPC is a 200 without a message, which h2load takes for a success: that is seen by
    the bytes that came.
    """
    time = re.search(r"finished in ([\d.]+)(us|ms|s),", output)
    counts = re.search(r"requests: .*?(\d+) succeeded, (\d+) failed", output)
    data = re.search(r"\((\d+)\) data", output)
    statuses = re.search(r"status codes: (\d+) 2xx", output)
    if not (time and counts and data and statuses and log):
        raise Failed(f"h2load gave no figures: {output[-300:]}")
    seconds = float(time[1]) * {"us": 1e-6, "ms": 1e-3, "s": 1.0}[time[2]]
    done, failed = int(statuses[1]), int(counts[2])
    empty = done - int(data[1]) // (answer_bytes + 5)
    # What was under way at the end may have sent its data and not yet its end, or the reverse.
    bad = failed + (empty if empty > under_way else 0)
    latencies = sorted(int(line.split("\t")[2]) for line in log)
    p50, p99 = (latencies[int(share * (len(latencies) - 1))] / 1e3 for share in (0.5, 0.99))
    return Burst(done - max(bad - failed, 0), seconds, p50, p99, bad, cores)


def did_not_start(tree: Tree, error: Failed) -> Failed:
    """What is said of a server that did not start: in one line, and then the end of its log."""
    log = tree.log.read_text(errors="replace")[-1500:].strip()
    what = "it ended" if tree.has_ended else "it did not answer"
    last = log.splitlines()[-1].strip() if tree.has_ended and log else ""
    said = f": {last}" if last else ""
    return Failed(f"{what} ({error}){said}\n{log}")


def _run(command: list[str], seconds: float) -> tuple[str, float]:
    """What a load generator printed, and the cores it used; raises Failed."""
    before, began = os.times(), perf_counter()
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=seconds + _MORE_SECONDS
        )
    except subprocess.CalledProcessError as error:
        said = (error.stderr or error.stdout).strip()[-500:]
        raise Failed(f"{Path(command[0]).name} failed: {said}") from None
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{Path(command[0]).name} did not end: {error}") from None
    after = os.times()
    spent = after.children_user + after.children_system
    spent -= before.children_user + before.children_system
    return done.stdout, spent / max(perf_counter() - began, 1e-3)


def _burst(output: str, cores: float) -> Burst:
    try:
        figures = json.loads(output.strip().splitlines()[-1])
        return Burst(
            figures["requests"],
            figures["microseconds"] / 1e6,
            figures["p50"] / 1e3,
            figures["p99"] / 1e3,
            figures["bad_status"] + figures["broken"],
            cores,
        )
    except (ValueError, IndexError, KeyError) as error:
        raise Failed(f"the load generator gave no figures: {error}") from None


def _pairs(left: Any, right: Any) -> Any:
    return zip(left, right, strict=True)


def is_there(tool: str) -> bool:
    """Is this load generator installed?"""
    return shutil.which(tool) is not None
