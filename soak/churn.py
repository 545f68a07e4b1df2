"""Random load, unload, infer and cancel on one `fairlead serve`: does it grow, stick or forget to count down?

`python soak/run.py --churn [--minutes 30] [--seed 1]`. Now and then everybody rests with every model loaded: then
the server must hold what it held before, and its counters say that nothing is in progress.
"""

import asyncio
import http.client
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil
from bench import models, processes
from bench.subject import Case

from soak.churn_clients import Crowd, Model
from soak.churn_results import Rest, Results
from soak.subject import Broken

_SMALL = 10  # models of some KiB; beside them a large one and a slow one
_ASKERS, _HURRIED, _LEAVERS, _CHANGERS = 6, 2, 3, 2
_START_SECONDS = 90.0
_END_SECONDS = 40.0
_RESTS = 20
_LEAST_SECONDS_BETWEEN_RESTS = 3.0
_QUIET_SECONDS = 1.0
_OK = 200
_MIB = 1 << 20


class Churn:
    """One churn of a server of its own."""

    def __init__(self, folder: Path, results: Results, *, quiet: bool = False) -> None:
        self._folder = folder
        self._results = results
        self._quiet = quiet
        self._began = time.monotonic()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = int(probe.getsockname()[1])

    def run(self) -> None:
        """Fill the results. Raises Broken if there is nothing to churn, KeyboardInterrupt when stopped."""
        cases = self._cases()
        command = [sys.executable, "-m", "fairlead", "serve", *(str(one.folder) for one in cases)]
        command += ["--port", str(self._port), "--no-access-log"]
        source = {"PYTHONPATH": str(Path(__file__).parents[1] / "src")}
        with processes.started(command, source, self._folder / "serve.out") as tree:
            self._wait(tree)
            try:
                asyncio.run(self._churn(tree, cases))
            finally:
                self._results.seconds = time.monotonic() - self._began
            self._stop(tree)

    def _cases(self) -> list[Case]:
        out = self._folder / "models"
        models.build(models.OUT, lambda line: print(line, file=sys.stderr))
        small = [
            models.as_case(models.small(out, f"small{number}", number)) for number in range(_SMALL)
        ]
        return [*small, models.mlp(), models.conv()]

    def _wait(self, tree: processes.Tree) -> None:
        until = time.monotonic() + _START_SECONDS
        while self._get("/v2/health/ready")[0] != _OK:
            if tree.has_ended or time.monotonic() > until:
                raise Broken(f"`fairlead serve` is not ready: {tree.log.read_text()[-500:]}")
            time.sleep(0.05)
        self._began = time.monotonic()

    async def _churn(self, tree: processes.Tree, cases: Sequence[Case]) -> None:
        choice = random.Random(self._results.seed)
        crowd = Crowd(self._port, [Model(case) for case in cases], self._results, choice)
        answer = await crowd.call("/v2/repository/index")
        if answer.status != _OK:
            raise Broken(f"this Fairlead neither loads nor unloads by request: {answer.status}")
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(crowd.asks("asked")) for _ in range(_ASKERS)]
            tasks += [group.create_task(crowd.asks("hurried")) for _ in range(_HURRIED)]
            tasks += [group.create_task(crowd.leaves()) for _ in range(_LEAVERS)]
            tasks += [
                group.create_task(crowd.changes(crowd.models[number::_CHANGERS]))
                for number in range(_CHANGERS)
            ]
            try:
                await self._periods(tree, crowd)
            except TimeoutError:
                self._results.problems.append("what is under way does not come to an end")
            finally:
                for task in tasks:
                    task.cancel()

    async def _periods(self, tree: processes.Tree, crowd: Crowd) -> None:
        seconds = self._results.minutes * 60
        period = max(seconds / _RESTS, _LEAST_SECONDS_BETWEEN_RESTS)
        while True:
            left = self._began + seconds - time.monotonic()
            if left <= 0:
                return
            crowd.going.set()
            await asyncio.sleep(min(period, left))
            await crowd.calm()
            await asyncio.sleep(_QUIET_SECONDS)
            self._results.rests.append(self._look(tree))
            self._tell()

    def _look(self, tree: processes.Tree) -> Rest:
        private = resident = 0.0
        handles = threads = 0
        for process in tree.members():
            with suppress(psutil.Error):
                memory = process.memory_full_info()
                private += memory.uss / _MIB
                resident += memory.rss / _MIB
                handles += process.num_fds()
                threads += process.num_threads()
        at = time.monotonic() - self._began
        progress = in_progress(self._get("/metrics")[1])
        return Rest(at, self._results.loads, private, resident, handles, threads, progress)

    def _get(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except (OSError, http.client.HTTPException) as error:
            return 0, repr(error)
        finally:
            connection.close()

    def _tell(self) -> None:
        if self._quiet:
            return
        results, rest = self._results, self._results.rests[-1]
        print(
            f"{rest.at / 60:5.1f} of {results.minutes:g} min  {results.asked:,} requests  "
            f"{results.loads:,} loads  {len(results.failures)} failed  {rest.private_mib:.1f} MiB",
            file=sys.stderr,
            flush=True,
        )

    def _stop(self, tree: processes.Tree) -> None:
        tree.signal(signal.SIGINT)
        try:
            self._results.exit_code = tree.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._results.exit_code = -1
        self._results.left = [f"process {one.pid}" for one in tree.members()]


def in_progress(exposition: str) -> float:
    """The sum of what a server's metrics say is in progress; its own answer to this question is none."""
    lines = exposition.splitlines()
    values = [
        float(line.rpartition(" ")[2])
        for line in lines
        if line.startswith("fairlead_requests_in_progress")
    ]
    if not values:
        return -1.0  # no counters, no zero
    return sum(values)
