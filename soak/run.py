"""Release revision after revision under constant load: `python soak/run.py [--revisions 500] [--seed 1]`.

Starts `fairlead up` in a home of its own, changes it by the ordinary commands, checks every answer, looks
at memory, processes, descriptors and files, and writes a report with a plot and a verdict. Ctrl-C ends it
in order, with the report of what was done. Exits with 0 if every bar is reached, 1 if one is missed,
2 if it could not run, 130 if it was stopped.
"""

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import environment

from soak import churn_results, plan, report
from soak.churn import Churn
from soak.load import Target, loading
from soak.results import Results, reached, verdicts
from soak.soaking import Options, Soak
from soak.subject import Broken, Subject

RESULTS = Path(__file__).resolve().parent / "results"
_EXIT_MISSED, _EXIT_BROKEN, _EXIT_STOPPED = 1, 2, 130


def soak(folder: Path, options: Options, results: Results) -> None:
    """Fill the results. Raises KeyboardInterrupt when stopped; what was found until then is in them."""
    subject = Subject(folder, options.seed)
    try:
        subject.start()
        target = Target(subject.port, subject.key, subject.node_status, options.seed, options.pace)
        with loading(target) as load:
            Soak(subject, load, options, results).run()
        results.exit_code, results.left = subject.stop()
    except (Broken, RuntimeError) as error:
        results.problems.append(str(error))
    finally:
        subject.end()


def empty(options: Options) -> Results:
    """Nothing found out yet."""
    return Results(
        machine=environment.machine(),
        seed=options.seed,
        wanted=options.revisions,
        workers=len(plan.LINES) + 1,
    )


def _save(results: Results, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "soak.svg").write_text(report.drawing(results))
    (out / "README.md").write_text(report.page(results, "soak.svg"))
    (out / "soak.json").write_text(json.dumps(report.raw(results)) + "\n")
    failures = [asdict(one) for one in results.book.failures]
    if failures:
        (out / "failures.json").write_text(json.dumps(failures, indent=1, default=str) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Revision after revision under constant load: does anything fail, leak or grow?"
    )
    parser.add_argument("--revisions", type=_count, default=500, help="how many (default 500)")
    parser.add_argument(
        "--churn", action="store_true", help="random load, unload, infer and cancel instead"
    )
    parser.add_argument(
        "--minutes", type=float, default=30.0, help="of a churn (default 30)", metavar="M"
    )
    parser.add_argument("--seed", type=int, default=1, help="of what is done and asked (default 1)")
    parser.add_argument(
        "--pace", type=float, default=1.0, help="of the load; 1 is about 500 requests a second"
    )
    parser.add_argument("--no-kills", action="store_true", help="kill no worker on the way")
    parser.add_argument("--keep", action="store_true", help="keep the home, to look at it")
    parser.add_argument("--out", type=Path, help="directory of the report (default soak/results/…)")
    return parser.parse_args()


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("write a whole number from 1 up")
    return number


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


def _churn(arguments: argparse.Namespace) -> int:
    """The other kind of soak: models of one server come and go."""
    results = churn_results.Results(environment.machine(), arguments.seed, arguments.minutes)
    out = arguments.out or RESULTS / f"{time.strftime('%Y-%m-%d')}-churn"
    stopped = False
    with tempfile.TemporaryDirectory(prefix="fl-churn-") as folder:
        try:
            Churn(Path(folder), results).run()
        except KeyboardInterrupt:
            stopped = True
            results.problems.append(f"stopped after {results.seconds / 60:.1f} minutes")
        except Broken as error:
            results.problems.append(str(error))
    out.mkdir(parents=True, exist_ok=True)
    (out / "README.md").write_text(churn_results.page(results, report.MARKS))
    (out / "churn.json").write_text(json.dumps(asdict(results), indent=1) + "\n")
    for one in churn_results.verdicts(results):
        print(f"{report.MARKS[one.reached]}  {one.text}")
    print(f"report: {out / 'README.md'}")
    if stopped:
        return _EXIT_STOPPED
    if not results.answers:
        return _EXIT_BROKEN
    return 0 if churn_results.reached(results) else _EXIT_MISSED


def main() -> int:
    arguments = _arguments()
    signal.signal(signal.SIGTERM, _stop)
    if arguments.churn:
        return _churn(arguments)
    options = Options(
        arguments.revisions, arguments.seed, arguments.pace, kills=not arguments.no_kills
    )
    results = empty(options)
    out = arguments.out or RESULTS / f"{time.strftime('%Y-%m-%d')}-{arguments.revisions}"
    stopped = False
    folder = Path(tempfile.mkdtemp(prefix="fl-soak-"))
    try:
        soak(folder, options, results)
    except KeyboardInterrupt:
        stopped = True
        results.problems.append(f"stopped after {results.done} revisions")
    finally:
        if arguments.keep:
            print(f"the home is kept in {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    _save(results, out)
    for one in verdicts(results):
        print(f"{report.MARKS[one.reached]}  {one.text}")
    print(f"report: {out / 'README.md'}")
    if stopped:
        return _EXIT_STOPPED
    if not results.done:
        return _EXIT_BROKEN
    return 0 if reached(results) else _EXIT_MISSED


if __name__ == "__main__":
    sys.exit(main())
