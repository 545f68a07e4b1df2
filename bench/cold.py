"""How long from nothing to the first right answer: the model server with one model, `up` with ten."""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter, sleep

from bench import dialects, load, models, ours, processes, theirs
from bench.figures import Absent, Fact, Results
from bench.services import Services
from bench.subject import Contender, Failed, Place

_ROUNDS, _QUICK_ROUNDS = 5, 2
_SERVICES = 10
_SUITE = "cold"
_SERVE = "fairlead serve, one small model"
_UP = "fairlead up, ten small models"
_WHAT = "start to first answer"
_REST_SECONDS = 1.0  # so that the end of one start is not in the next
_SHOWN = 40
_LEAST_MICROSECONDS = 2000

Tell = Callable[[str], None]


def measure(folder: Path, results: Results, tell: Tell, *, quick: bool) -> None:
    """Some starts of each, interleaved."""
    compared = (
        (_SERVE, ours.DIRECT_1),
        ("FastAPI, one small model", theirs.FASTAPI),
        ("floor: Python that imports ONNX Runtime and runs the model", None),
    )
    many = Services(folder / "cold", _SERVICES)
    try:
        many.publish(tell)
    except Failed as error:
        results.absents.append(Absent(_UP, "", "", str(error)))
        many.count = 0
    for number in range(_QUICK_ROUNDS if quick else _ROUNDS):
        for subject, contender in compared:
            _note(results, tell, subject, partial(_alone, contender, folder))
        if many.count:
            if number == 0:
                _up(many)  # the first ever applies the releases
            _note(results, tell, _UP, partial(_up, many), f"{_WHAT} of all")


def _note(
    results: Results, tell: Tell, subject: str, act: Callable[[], float], what: str = _WHAT
) -> None:
    sleep(_REST_SECONDS)
    try:
        seconds = act()
    except Failed as error:
        results.absents.append(Absent(subject, "", "", str(error)))
        tell(f"not measured: {error}")
        return
    results.facts.append(Fact(_SUITE, subject, what, seconds, "s"))
    tell(f"{subject}: {seconds:.2f} s")


def _alone(contender: Contender | None, folder: Path) -> float:
    case = models.digits()
    if contender is None:
        program = (
            "import sys, numpy, onnxruntime as o; s = o.InferenceSession(sys.argv[1]); "
            "s.run(None, {'pixels': numpy.zeros((1, 64), numpy.float32)})"
        )
        since = perf_counter()
        subprocess.run([sys.executable, "-c", program, str(case.onnx)], check=True, timeout=60)
        return perf_counter() - since
    home = folder / f"cold-{contender.short}"
    home.mkdir(exist_ok=True)
    place = Place(case, home, processes.free_ports())
    plan = contender.plan(place)
    since = perf_counter()
    with processes.started(plan.command, plan.environment, home / "log") as tree:
        return load.question("wrk", contender, place, plan).first_answer(tree, since)


def _up(many: Services) -> float:
    """Seconds until every service has answered rightly through the gateway."""
    port = processes.free_ports()[0]
    since = perf_counter()
    with processes.started(many.up(port), {}, many.folder / "log") as tree:
        for number in range(1, many.count + 1):
            many.question(number, port).first_answer(tree, since)
        return perf_counter() - since


def profile(subject: str) -> str:
    """Where the time of a start goes: what `up` says and when, or what `serve` imports."""
    return _events() if subject == _UP else _imports()


def _events() -> str:
    with tempfile.TemporaryDirectory(prefix="fairlead-bench-") as name:
        many = Services(Path(name), _SERVICES)
        try:
            many.publish(lambda _: None)
            _up(many)
            seconds = _up(many)
        except Failed as error:
            return f"it could not be looked into: {error}\n"
        said = (many.folder / "log").read_text(errors="replace")
        events = "\n".join(
            line
            for log in sorted((many.home / "logs").glob("*.jsonl"))
            for line in (f"{log.name}:", *log.read_text(errors="replace").splitlines()[-_SHOWN:])
        )
    title = f"{_UP}: all answered after {seconds:.2f} s; what it said, and the ends of its logs:"
    return f"{title}\n{said}\n{events}\n"


def _imports() -> str:
    case = models.digits()
    command = [sys.executable, "-X", "importtime", "-m", "fairlead", "serve", str(case.folder)]
    with tempfile.TemporaryDirectory(prefix="fairlead-bench-") as name:
        folder = Path(name)
        place = Place(case, folder, processes.free_ports())
        command += ["--port", str(place.port), "--no-access-log"]
        contender = Contender("serve", "serve", ours.DIRECT_1.plan, dialects.PROJECT)
        with processes.started(command, {}, folder / "log") as tree:
            plan = contender.plan(place)
            question = load.question("wrk", contender, place, plan)
            try:
                cold = question.first_answer(tree, perf_counter())
            except Failed as error:
                return f"it could not be looked into: {error}\n"
        return _slowest((folder / "log").read_text(errors="replace").splitlines(), cold)


def _slowest(lines: list[str], cold: float) -> str:
    found = []
    for line in lines:
        numbers, _, module = line.removeprefix("import time:").rpartition("|")
        alone, _, whole = numbers.partition("|")
        if alone.strip().isdigit() and whole.strip().isdigit():
            found.append((int(whole), int(alone), module.rstrip()))
    slow = sorted((one for one in found if one[0] >= _LEAST_MICROSECONDS), reverse=True)[:_SHOWN]
    rows = [f"  {whole / 1e3:8.1f}  {alone / 1e3:8.1f}  {module}" for whole, alone, module in slow]
    title = (
        f"imports of `fairlead serve` (first answer after {cold:.2f} s under -X importtime), ms:"
    )
    return "\n".join([title, "  with its own    alone", *rows, ""])
