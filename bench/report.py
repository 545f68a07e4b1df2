"""From figures to tables and a page. Pure: values in, text out."""

from collections.abc import Iterable, Sequence
from statistics import median

from bench.bars import LOADERS_LIMIT, Verdict
from bench.figures import BUSY_CORES, Results

_LOADS = {
    "wrk": "over HTTP, loaded by wrk",
    "h2load": "over gRPC, loaded by h2load",
    "grpcio": "over gRPC, loaded by grpcio in one Python process",
}


def page(results: Results, judged: Sequence[Verdict]) -> str:
    """The whole report."""
    parts = ["# Side by side", _list(f"{name}: {value}" for name, value in results.machine.items())]
    parts += ["## Bars", bars(results, judged)]
    for case, load in results.groups():
        parts += [f"## {case} {_LOADS.get(load, load)}", table(results, case, load)]
        parts += _absents(results, case, load)
    if results.facts:
        parts += ["## Figures", facts(results)]
    if results.suite_seconds:
        took = (f"{name} {seconds:.0f} s" for name, seconds in results.suite_seconds.items())
        parts.append(f"Took: {', '.join(took)}.")
    parts.append(
        "Medians over all turns of all rounds. A round starts each server alone (cold start, memory), then all\n"
        "together, and asks them in turn, a second each; a ratio is the median of those of the turns. Answers are\n"
        "checked before and after. CPU and memory are of all processes of a server, Envoy and agent included. The\n"
        "floor is `onnxruntime.run` in a loop; what a server reaches of it is of the fastest floor of this model,\n"
        "with all cores."
    )
    return "\n\n".join(parts) + "\n"


def bars(results: Results, judged: Sequence[Verdict]) -> str:
    """Every verdict, what was missed with where to look, and what makes the run doubtful."""
    lines = [f"{one}{_profile(results, one)}" for one in judged] or ["no bar was judged"]
    others = results.others()
    if others > BUSY_CORES:
        lines.append(f"BUSY: others used up to {others:.1f} cores; measure again when it is quiet")
    waiting = results.waiting()
    if waiting > BUSY_CORES:
        lines.append(f"servers that were not asked used up to {waiting:.1f} cores in a turn")
    if results.bad():
        lines.append(f"INVALID: {results.bad()} answers were no right ones or never came")
    return _list(lines)


def table(results: Results, case: str, load: str) -> str:
    """The figures of a group as a Markdown table."""
    steps = results.connections(case, load)
    if not steps:
        return "Nothing was measured."
    top = steps[-1]
    floor = results.floor(case)
    header = ["server", *(f"req/s at {step}" for step in steps)]
    header += [f"p50 / p99 ms at {step}" for step in steps]
    header += [f"CPU µs/req at {top}", f"of floor at {top}"]
    header += ["PSS MiB", "RSS MiB", "processes", "cold start s"]
    peaks = any(one.peak_mib for one in results.measurements if one.case == case)
    header += [f"peak at {top}, bodies in flight"] if peaks else []
    rows = [header, ["---"] + ["--:"] * (len(header) - 1)]
    for name in results.contenders(case, load):
        rows.append(_row(results, (case, load, name), steps, floor))
        if peaks:
            rows[-1].append(f"{results.middle(case, load, name, top, 'peak_bodies'):.2f}")
    for one in results.floors:
        if one.case == case:
            what = f"floor: {one.processes} x {one.threads} threads, {one.rows} rows a run"
            speeds = [f"{one.rows_per_second:,.0f}"] * len(steps)
            rows.append([what, *speeds, *[""] * (len(header) - 1 - len(steps))])
    return _aligned(rows)


def _row(
    results: Results, who: tuple[str, str, str], steps: Sequence[int], floor: float
) -> list[str]:
    case, load, name = who
    top = steps[-1]

    def middle(step: int, what: str) -> float:
        return results.middle(case, load, name, step, what)

    starts = [one for one in results.starts if (one.case, one.load, one.contender) == who]
    cells = [name]
    for step in steps:
        limited = "*" if middle(step, "load_cores") >= LOADERS_LIMIT else ""
        cells.append(f"{middle(step, 'requests_per_second'):,.0f}{limited}")
    cells += [f"{middle(step, 'p50_ms'):.2f} / {middle(step, 'p99_ms'):.2f}" for step in steps]
    share = middle(top, "requests_per_second") / floor if floor else 0.0
    cells += [f"{middle(top, 'cpu_us'):.0f}", f"{share:.1%}" if floor else ""]
    if not starts:  # it failed before the end of its first turn
        return [*cells, "", "", "", ""]
    cells += [f"{median(one.pss_mib for one in starts):.0f}"]
    cells += [f"{median(one.rss_mib for one in starts):.0f}"]
    cells += [f"{median(one.processes for one in starts):.0f}"]
    return [*cells, f"{median(one.cold_seconds for one in starts):.2f}"]


def facts(results: Results) -> str:
    """Figures that are no load of one server, as a table."""
    rows = [["what", "median", "of"], ["---", "--:", "--:"]]
    for key in dict.fromkeys((one.suite, one.subject, one.what) for one in results.facts):
        found = [one for one in results.facts if (one.suite, one.subject, one.what) == key]
        value = f"{median(one.value for one in found):,.3g} {found[0].unit}".strip()
        if median(one.value for one in found) >= 1000:  # noqa: PLR2004 - whole numbers from here
            value = f"{median(one.value for one in found):,.0f} {found[0].unit}".strip()
        rows.append([": ".join(key), value, str(len(found))])
    return _aligned(rows)


def _absents(results: Results, case: str, load: str) -> list[str]:
    notes = [
        f"not measured: {one.what}: {one.reason.splitlines()[0]}"
        for one in results.absents
        if (one.case, one.load) == (case, load)
    ]
    limited = any(
        one.load_cores >= LOADERS_LIMIT
        for one in results.measurements
        if (one.case, one.load) == (case, load)
    )
    if limited:
        notes.append("*: the load generator's one thread was the limit, not the server")
    return [_list(notes)] if notes else []


def _profile(results: Results, verdict: Verdict) -> str:
    where = results.profiles.get(profile_key(verdict))
    return f" (profile: {where})" if verdict.state == "MISSED" and where else ""


def profile_key(verdict: Verdict) -> str:
    """What a profile is of: one server under one load, or one subject."""
    return "-".join(filter(None, (verdict.case, verdict.load, verdict.ours)))


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "| "
        + " | ".join(
            _cell(cell, width, index)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        + " |"
        for row in rows
    )


def _cell(text: str, width: int, column: int) -> str:
    if text.strip("-:") == "":
        return text.rjust(width, "-") if text else " " * width
    return text.ljust(width) if column == 0 else text.rjust(width)
