"""Measure Fairlead and its peers side by side: `python bench/run.py [--suites NAME,...] [--quick]`.

Each suite is one run, all servers in turn, answers checked. Prints tables and verdicts and writes
them, with every single figure, to bench/results/. Exits with 1 if a bar is missed or could not be
measured, 2 if answers were wrong, 130 if it was stopped.
"""

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import bars, cold, environment, profiles, report, rounds, scale, speech
from bench.figures import Results
from bench.subject import BENCH
from bench.suites import SUITES, Group, Suite

RESULTS = BENCH / "results"
_EXIT_MISSED, _EXIT_INVALID, _EXIT_STOPPED = 1, 2, 130
_SPECIAL = {"cold": cold.measure, "scale": scale.measure, "speech": speech.measure}


def _tell(line: str) -> None:
    print(line, flush=True)


def run(
    suites: Sequence[Suite], only: Sequence[str], settings: rounds.Settings, results: Results
) -> None:
    """Everything these suites ask for, into the results."""
    groups = rounds.merged(suites, only)
    with tempfile.TemporaryDirectory(prefix="fairlead-bench-") as folder:
        for group in groups:
            began = perf_counter()
            rounds.measure([group], settings, Path(folder), results, _tell)
            name = _name(group, suites)
            spent = results.suite_seconds.get(name, 0.0) + perf_counter() - began
            results.suite_seconds[name] = spent
        for suite in suites:
            if suite.name in _SPECIAL and not only:
                began = perf_counter()
                _tell(f"\n{suite.title}")
                _SPECIAL[suite.name](Path(folder), results, _tell, quick=settings == rounds.QUICK)
                results.suite_seconds[suite.name] = perf_counter() - began


def _name(group: Group, suites: Sequence[Suite]) -> str:
    """The suites that a group belongs to."""
    keys = (group.case, group.load)
    return "+".join(
        suite.name for suite in suites if any((one.case, one.load) == keys for one in suite.groups)
    )


def _profiled(
    results: Results, judged: Sequence[bars.Verdict], suites: Sequence[Suite], stem: str
) -> None:
    """A profile for each missed bar, beside the report."""
    groups = rounds.merged(suites)
    folder = RESULTS / f"{stem}-profiles"
    for verdict in judged:
        key = report.profile_key(verdict)
        # The figures of `scale` hold CPU by process already; `speech` has no load to repeat.
        unasked = verdict.suite in ("scale", "speech")
        if verdict.state != "MISSED" or unasked or key in results.profiles:
            continue
        _tell(f"profiling {verdict.ours}, which missed a bar ...")
        text = profiles.of(verdict, groups)
        if text:
            folder.mkdir(parents=True, exist_ok=True)
            name = "".join(sign if sign.isalnum() else "-" for sign in key).strip("-").lower()
            path = folder / f"{name}.txt"
            path.write_text(text)
            results.profiles[key] = str(path.relative_to(RESULTS))


def _save(results: Results, judged: Sequence[bars.Verdict], stem: str) -> Path:
    RESULTS.mkdir(exist_ok=True)
    page = RESULTS / f"{stem}.md"
    page.write_text(report.page(results, judged))
    document = asdict(results) | {"bars": [asdict(one) for one in judged]}
    (RESULTS / f"{stem}.json").write_text(json.dumps(document, indent=1) + "\n")
    return page


def _chosen(names: str | None, parser: argparse.ArgumentParser) -> list[Suite]:
    known = [suite.name for suite in SUITES]
    wanted = names.split(",") if names else known
    for name in wanted:
        if name not in known:
            parser.error(f"there is no suite {name!r}; there are: {', '.join(known)}")
    return [suite for suite in SUITES if suite.name in wanted]


def _servers(
    names: str | None, suites: Sequence[Suite], parser: argparse.ArgumentParser
) -> list[str]:
    contenders = [one for group in rounds.merged(suites) for one in group.contenders]
    known = list(dict.fromkeys(one.short for one in contenders))
    wanted = names.split(",") if names else []
    for name in wanted:
        if name not in known:
            parser.error(
                f"there is no server {name!r} in these suites; there are: {', '.join(known)}"
            )
    return wanted


def _arguments(parser: argparse.ArgumentParser) -> argparse.Namespace:
    names = ", ".join(suite.name for suite in SUITES)
    parser.add_argument("--suites", metavar="NAME,...", help=f"only these of: {names}")
    parser.add_argument("--only", metavar="NAME,...", help="only these servers")
    parser.add_argument(
        "--quick", action="store_true", help="one short round, to see that it works"
    )
    parser.add_argument("--no-profiles", action="store_true", help="no profile of what is missed")
    parser.add_argument("--name", help="last part of the report's file name (default: the suites)")
    return parser.parse_args()


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure Fairlead and its peers side by side.")
    given = _arguments(parser)
    suites = _chosen(given.suites, parser)
    only = _servers(given.only, suites, parser)
    signal.signal(signal.SIGTERM, _stop)
    stopped = False
    settings = rounds.QUICK if given.quick else rounds.FULL
    peers = environment.needed(rounds.merged(suites, only))
    results = Results({})
    try:
        environment.prepare(peers, _tell)
        about = {"run": f"{settings}{', quick' if given.quick else ''}"}
        results.machine = environment.machine(peers=peers) | about
        run(suites, only, settings, results)
    except KeyboardInterrupt:
        print("stopped; nothing is left running", file=sys.stderr)
        stopped = True
    what = given.name or (given.suites or "all").replace(",", "-")
    parts = (what, "quick" if given.quick else "", "partial" if only or stopped else "")
    stem = "-".join([f"{datetime.now(UTC):%Y-%m-%d}", *filter(None, parts)])
    code = _close(results, suites, stem, profiled=not (given.no_profiles or stopped))
    return _EXIT_STOPPED if stopped else code


def _close(results: Results, suites: Sequence[Suite], stem: str, *, profiled: bool) -> int:
    """Judge, profile what was missed, write the report; returns the exit code."""
    judged = bars.verdicts(results, [bar for suite in suites for bar in suite.bars])
    if profiled:
        try:
            _profiled(results, judged, suites, stem)
        except KeyboardInterrupt:
            print("stopped; the report is without the rest of the profiles", file=sys.stderr)
    page = _save(results, judged, stem)
    print(f"\n{report.page(results, judged)}\nwritten to {page}")
    states = {one.state for one in judged}
    if "INVALID" in states:
        return _EXIT_INVALID
    return 0 if states <= {"reached"} else _EXIT_MISSED


if __name__ == "__main__":
    sys.exit(main())
