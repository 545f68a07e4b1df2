"""Measure Fairlead and its peers side by side: `python bench/run.py [--quick] [--only NAME,...]`.

Each round starts every server in turn, checks its answer, loads it at 1, 8 and 32 connections and ends
it. Prints a table and writes it, with every single figure, to bench/results/. Exits with 1 if a bar is
missed, 2 if a run is invalid.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter, sleep

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import environment, load, processes, report
from bench.contenders import CONTENDERS, MLSERVER, ROOT, Contender, Place

RESULTS = ROOT / "bench" / "results"
_REST_SECONDS = 0.5  # between a start or a load and the next load


@dataclass(frozen=True)
class Settings:
    """How long and how often."""

    rounds: int
    seconds: float
    warm_seconds: float
    connections: tuple[int, ...]


FULL = Settings(rounds=3, seconds=5.0, warm_seconds=2.0, connections=(1, 8, 32))
QUICK = Settings(rounds=1, seconds=2.0, warm_seconds=1.0, connections=(1, 8, 32))


def run(contenders: Sequence[Contender], settings: Settings) -> report.Results:
    """All rounds; raises load.Failed with the reason if a server does not do its part."""
    measurements: list[report.Measurement] = []
    starts: list[report.Start] = []
    with tempfile.TemporaryDirectory(prefix="fairlead-bench-") as folder:
        pixels, expected = _example()
        floor = _floor(settings.seconds)
        print(f"floor: {floor:,.0f} runs/s in one process", flush=True)
        for number in range(1, settings.rounds + 1):
            for contender in contenders:
                home = Path(folder) / contender.short
                home.mkdir(exist_ok=True)
                body_file = home / "body.json"
                body_file.write_bytes(contender.body(pixels))
                place = Place(environment.MODELS, home, processes.free_ports())
                for result in _measure(contender, place, number, settings, expected):
                    if isinstance(result, report.Start):
                        starts.append(result)
                    else:
                        measurements.append(result)
                        _tell(result)
    peers = any(contender.name == MLSERVER for contender in contenders)
    about = environment.machine(peers=peers) | {
        "run": f"{settings.rounds} rounds of {settings.seconds:g} s"
    }
    return report.Results(about, floor, measurements, starts)


def _measure(
    contender: Contender, place: Place, number: int, settings: Settings, expected: list[float]
) -> Iterator[report.Measurement | report.Start]:
    plan = contender.plan(place)
    question = load.Question(contender, place.port, plan.key, place.home / "body.json", expected)
    if number == 1 and contender.prepares:
        # What happens only once (publishing) is not part of a start.
        with processes.started(plan.command, plan.environment, place.home / "log") as tree:
            question.first_answer(tree, perf_counter())
    since = perf_counter()
    with processes.started(plan.command, plan.environment, place.home / "log") as tree:
        cold = question.first_answer(tree, since)
        question.load(max(settings.connections), settings.warm_seconds)
        for connections in settings.connections:
            sleep(_REST_SECONDS)
            before, all_before = tree.usage().cpu_seconds, processes.busy_seconds()
            began = perf_counter()
            burst = question.load(connections, settings.seconds)
            spent, everybody = (
                tree.usage().cpu_seconds - before,
                processes.busy_seconds() - all_before,
            )
            others = max(everybody - spent, 0.0) / (perf_counter() - began)
            yield report.Measurement(
                contender.name,
                number,
                connections,
                burst.requests / burst.seconds,
                burst.p50_ms,
                burst.p99_ms,
                spent / max(burst.requests, 1) * 1e6,
                burst.bad,
                others,
            )
        question.ask()
        held = tree.usage()
        yield report.Start(contender.name, number, cold, held.pss_mib, held.rss_mib, held.processes)


def _example() -> tuple[list[float], list[float]]:
    """One picture of the digits example and its probabilities, as scikit-learn gave them."""
    golden = json.loads((environment.MODELS / "digits" / "1" / "golden.json").read_bytes())
    example = golden["examples"][0]
    return example["request"]["pixels"][0], example["response"]["probabilities"][0]


def _floor(seconds: float) -> float:
    command = [sys.executable, str(ROOT / "bench" / "floor.py")]
    command += [str(environment.MODELS / "digits" / "1" / "model.onnx"), str(seconds)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=seconds + 60)
    return float(done.stdout)


def _tell(one: report.Measurement) -> None:
    wrong = f"  {one.bad} BAD" if one.bad else ""
    wrong += f"  others used {one.others:.1f} cores" if one.others > report.BUSY_CORES else ""
    print(
        f"round {one.round}  {one.contender:40} {one.connections:3} connections "
        f"{one.requests_per_second:9,.0f}/s  p50 {one.p50_ms:7.2f}  p99 {one.p99_ms:7.2f} ms  "
        f"{one.cpu_us:5.0f} µs{wrong}",
        flush=True,
    )


def _save(results: report.Results, what: str) -> Path:
    RESULTS.mkdir(exist_ok=True)
    stem = f"{datetime.now(UTC):%Y-%m-%d}-{what}"
    page = RESULTS / f"{stem}.md"
    page.write_text(report.page(results))
    (RESULTS / f"{stem}.json").write_text(json.dumps(asdict(results), indent=1) + "\n")
    return page


def _chosen(only: str | None, parser: argparse.ArgumentParser) -> list[Contender]:
    wanted = only.split(",") if only else [contender.short for contender in CONTENDERS]
    unknown = set(wanted) - {contender.short for contender in CONTENDERS}
    if unknown:
        known = ", ".join(contender.short for contender in CONTENDERS)
        parser.error(f"--only {min(unknown)!r} is unknown; there are: {known}")
    return [contender for contender in CONTENDERS if contender.short in wanted]


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure Fairlead and its peers side by side.")
    parser.add_argument(
        "--quick", action="store_true", help="one short round, to see that it works"
    )
    parser.add_argument("--only", metavar="NAME,...", help="only these servers")
    parser.add_argument("--name", default="small", help="last part of the report's file name")
    arguments = parser.parse_args()
    contenders = _chosen(arguments.only, parser)
    signal.signal(signal.SIGTERM, _stop)
    environment.prepare(peers=any(contender.name == MLSERVER for contender in contenders))
    try:
        results = run(contenders, QUICK if arguments.quick else FULL)
    except load.Failed as error:
        print(f"INVALID: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; nothing is left running", file=sys.stderr)
        return 130
    what = f"{arguments.name}{'-quick' if arguments.quick else ''}{'-partial' if arguments.only else ''}"
    print(f"\n{report.page(results)}\nwritten to {_save(results, what)}")
    if results.bad():
        return 2
    return 0 if all(reached for _, reached in report.verdicts(results)) else 1


if __name__ == "__main__":
    sys.exit(main())
