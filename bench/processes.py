"""A server as a tree of processes: started, watched and ended as one."""

import os
import signal
import socket
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.subject import Failed

# Every process below a server inherits this variable, so none is missed that has left its parent.
_MARK = "BENCH_RUN"
_END_SECONDS = 15.0
_MIB = 1 << 20


@dataclass(frozen=True)
class Usage:
    """CPU seconds so far and memory now, of a whole tree."""

    cpu_seconds: float
    pss_mib: float
    rss_mib: float
    processes: int


class Tree:
    """A started server and everything it started."""

    def __init__(self, command: list[str], environment: Mapping[str, str], log: Path) -> None:
        self._mark = uuid.uuid4().hex
        self._was_asked = False
        self.log = log
        # Also for commands that belong to it and are started beside it.
        self.environment = {**os.environ, **environment, _MARK: self._mark}
        with log.open("wb") as output:
            # A session of its own: Ctrl-C reaches only us, and we end the tree in order.
            try:
                self._first = subprocess.Popen(
                    command,
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                raise Failed(f"cannot be started: {error}") from None

    @property
    def pid(self) -> int:
        """Of the first process."""
        return self._first.pid

    @property
    def has_ended(self) -> bool:
        return self._first.poll() is not None

    def signal(self, number: int) -> None:
        """Send a signal to the first process, if it still runs."""
        self._first.send_signal(number)

    def wait(self, seconds: float) -> int:
        """Wait for the first process; returns its exit code. Raises subprocess.TimeoutExpired."""
        return self._first.wait(seconds)

    def usage(self) -> Usage:
        cpu = pss = rss = 0.0
        members = self.members()
        for process in members:
            with suppress(psutil.Error):
                memory = process.memory_full_info()
                cpu += _cpu_seconds(process)
                pss += getattr(memory, "pss", memory.uss)
                rss += memory.rss
        return Usage(cpu, pss / _MIB, rss / _MIB, len(members))

    def cpu_by_role(self) -> dict[str, float]:
        """CPU seconds so far, by what a process is for."""
        spent: dict[str, float] = {}
        for process in self.members():
            with suppress(psutil.Error):
                times = process.cpu_times()
                name = role(process.name(), process.cmdline())
                spent[name] = spent.get(name, 0.0) + times.user + times.system
        return spent

    def forget_peaks(self) -> None:
        """Let the kernel begin anew with each process's most memory (Linux)."""
        for process in self.members():
            with suppress(OSError):
                Path(f"/proc/{process.pid}/clear_refs").write_text("5")

    def peak_mib(self) -> float:
        """The most memory that its processes held since `forget_peaks`, each at its own worst moment."""
        total = 0.0
        for process in self.members():
            with suppress(OSError, StopIteration):
                lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
                peak = next(line for line in lines if line.startswith("VmHWM:"))
                total += int(peak.split()[1]) / 1024
        return total

    def ask_to_end(self) -> None:
        """SIGTERM to the first process, once: a second one may mean something else to it."""
        if not self._was_asked:
            self._was_asked = True
            with suppress(ProcessLookupError):
                self._first.send_signal(signal.SIGTERM)

    def end(self) -> None:
        """SIGTERM to the first process, then SIGKILL to whatever is still there."""
        self.ask_to_end()
        with suppress(subprocess.TimeoutExpired):
            self._first.wait(_END_SECONDS)
        for process in self.members():
            with suppress(psutil.Error):
                process.kill()
        self._first.wait(_END_SECONDS)

    def members(self) -> list[psutil.Process]:
        """Every living process of the tree."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if self.owns(process) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def owns(self, process: psutil.Process) -> bool:
        """Is this process of the tree? Raises psutil.Error if it is gone."""
        return process.pid == self._first.pid or process.environ().get(_MARK) == self._mark


@contextmanager
def started(command: list[str], environment: Mapping[str, str], log: Path) -> Iterator[Tree]:
    """A running tree that is gone afterwards, whatever happens."""
    tree = Tree(command, environment, log)
    try:
        yield tree
    finally:
        tree.end()


def cpu_seconds(trees: Sequence[Tree]) -> list[float]:
    """CPU seconds so far of each of these trees, all looked at once."""
    spent = [0.0] * len(trees)
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            whose = next((index for index, one in enumerate(trees) if one.owns(process)), None)
            if whose is not None:
                spent[whose] += _cpu_seconds(process)
    return spent


def _cpu_seconds(process: psutil.Process) -> float:
    """Of a process and its children that have ended; raises psutil.Error."""
    times = process.cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)


def busy_seconds() -> float:
    """CPU seconds of all processes on this machine but ours: our own, and wrk's, are taken off."""
    times = psutil.cpu_times()
    ours = os.times()
    everybody = times.user + times.system + getattr(times, "nice", 0.0)
    return float(everybody - ours.user - ours.system - ours.children_user - ours.children_system)


def role(name: str, command: list[str]) -> str:
    """What a process of a tree is for, in a word: `envoy`, one of our commands, or its program."""
    if name.startswith("envoy"):
        return "envoy"
    if "fairlead" in command:
        words = command[command.index("fairlead") + 1 :]
        return next((word for word in words if not word.startswith("-")), "fairlead")
    if "fairlead.server.standalone" in command:
        return "serve"
    return name


def command_line(process: psutil.Process) -> list[str]:
    """The words a process was started with; empty if it is gone."""
    with suppress(psutil.Error):
        return process.cmdline()
    return []


def free_ports() -> tuple[int, int, int]:
    """Three ports nobody listens on now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(3)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        first, second, third = (one.getsockname()[1] for one in sockets)
        return first, second, third
