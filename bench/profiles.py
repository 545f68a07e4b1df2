"""Where the time goes in what missed a bar: the same server under the same load once more, looked into.

CPU by process always; py-spy's samples of Python, and perf's of everything where it is installed and
allowed.
"""

import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter, sleep

from bench import cold, load, processes
from bench.bars import Verdict
from bench.subject import Contender, Failed, Place
from bench.suites import Group
from bench.theirs import interpreter

_SECONDS = 5
_WARM_SECONDS = 1.0
_MORE_SECONDS = 60
_RATE = 199  # samples a second; no divisor of what programs do each second
_SHOWN = 30


def of(verdict: Verdict, groups: Sequence[Group]) -> str:
    """What can be said of a missed bar, as text; empty if there is nothing to look into."""
    if verdict.suite == "cold":
        return cold.profile(verdict.ours)
    for group in groups:
        if group.load == verdict.load and group.case().name == verdict.case:
            for contender in group.contenders:
                if contender.name == verdict.ours:
                    return _under_load(group, contender, verdict)
    return ""


def _under_load(group: Group, contender: Contender, verdict: Verdict) -> str:
    with tempfile.TemporaryDirectory(prefix="fairlead-bench-") as folder:
        place = Place(group.case(), Path(folder), processes.free_ports())
        try:
            plan = contender.plan(place)
            with processes.started(plan.command, plan.environment, place.home / "log") as tree:
                question = load.question(group.load, contender, place, plan)
                question.first_answer(tree, perf_counter())
                question.load(verdict.connections, _WARM_SECONDS)
                return (
                    f"{verdict}\n\n{_looked_into(tree, question, verdict.connections, place.home)}"
                )
        except Failed as error:
            return f"{verdict}\n\nit could not be looked into: {error}\n"


def _looked_into(
    tree: processes.Tree, question: load.Question, connections: int, folder: Path
) -> str:
    before = tree.cpu_by_role()
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(question.load, connections, 3 * _SECONDS)
        sleep(_SECONDS)  # first without a profiler, which costs too
        after = tree.cpu_by_role()
        python = _py_spy(tree, folder)
        everything = _perf(tree, folder)
        loading.result()
    parts = [f"CPU by process, cores over {_SECONDS} s under {connections} connections:"]
    spent = {name: seconds - before.get(name, 0.0) for name, seconds in after.items()}
    most = sorted(spent.items(), key=lambda one: -one[1])
    parts += [f"  {seconds / _SECONDS:5.2f}  {name}" for name, seconds in most]
    return "\n".join([*parts, "", python, "", everything, ""])


def _py_spy(tree: processes.Tree, folder: Path) -> str:
    program = interpreter("tools").parent / "py-spy"
    output = folder / "py-spy.txt"
    command = [program, "record", "--pid", str(tree.pid), "--subprocesses", "--nonblocking"]
    command += ["--duration", str(_SECONDS // 2), "--rate", str(_RATE), "--format", "raw"]
    said = _ran([*map(str, command), "--output", str(output)])
    if not output.exists():
        return f"py-spy gave nothing: {said[-300:]}"
    return by_function(output.read_text().splitlines())


def by_function(stacks: Iterable[str]) -> str:
    """Collapsed stacks (`a;b;c 12`) as two lists: time in a function itself, and with what it calls."""
    alone: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    for line in stacks:
        stack, _, count = line.rpartition(" ")
        frames = [frame for frame in stack.split(";") if not frame.startswith("process ")]
        if frames and count.isdigit():
            alone[frames[-1]] += int(count)
            whole.update(dict.fromkeys(frames, int(count)))
    total = sum(alone.values())
    if not total:
        return "py-spy saw nothing run"
    parts = []
    for title, found in (("Python, in the function itself:", alone), ("with its calls:", whole)):
        parts.append(title)
        most = found.most_common(_SHOWN)
        parts += [f"  {count / total:6.1%}  {frame}" for frame, count in most]
    return "\n".join(parts)


def _perf(tree: processes.Tree, folder: Path) -> str:
    if not shutil.which("perf"):
        return "perf is not installed"
    data = folder / "perf.data"
    pids = ",".join(str(process.pid) for process in tree.members())
    command = ["perf", "record", "--freq", str(_RATE), "--pid", pids, "--output", str(data)]
    said = _ran([*command, "--", "sleep", str(_SECONDS // 2)])
    if not data.exists():
        return f"perf gave nothing: {said[-300:]}"
    wanted = ["perf", "report", "--stdio", "--input", str(data), "--sort", "comm,dso,symbol"]
    lines = _ran([*wanted, "--percent-limit", "0.7"]).splitlines()
    shown = [line.rstrip() for line in lines if line.strip() and not line.startswith("#")]
    return "\n".join(["perf, by process, library and function:", *shown[: 2 * _SHOWN]])


def _ran(command: list[str]) -> str:
    """What a profiler said; a profiler that fails is not worth the run."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS + _MORE_SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stdout + done.stderr
