"""From measurements to tables and verdicts. Pure: values in, text out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from bench.contenders import BAR_CONNECTIONS, BARS

BUSY_CORES = 0.2  # more than this going to others, and the figures mean little


@dataclass(frozen=True)
class Measurement:
    """One contender at one number of connections in one round."""

    contender: str
    round: int
    connections: int
    requests_per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: float  # of all its processes, for one request
    bad: int
    others: float  # cores that neither this server nor the load generator used, but somebody did


@dataclass(frozen=True)
class Start:
    """One start of one contender: how long until it answered, what it held after the load."""

    contender: str
    round: int
    cold_seconds: float
    pss_mib: float
    rss_mib: float
    processes: int


@dataclass(frozen=True)
class Results:
    """Everything one run found out."""

    machine: Mapping[str, Any]
    floor: float  # runs a second of the model alone, in one process
    measurements: Sequence[Measurement]
    starts: Sequence[Start]

    def contenders(self) -> list[str]:
        return list(dict.fromkeys(start.contender for start in self.starts))

    def connections(self) -> list[int]:
        return sorted({one.connections for one in self.measurements})

    def middle(self, contender: str, connections: int, what: str) -> float:
        """The median over the rounds; raises KeyError if it was not measured."""
        values = [
            float(getattr(one, what))
            for one in self.measurements
            if one.contender == contender and one.connections == connections
        ]
        if not values:
            raise KeyError(contender)
        return median(values)

    def others(self) -> float:
        """Cores that went to others at the worst moment."""
        return max((one.others for one in self.measurements), default=0.0)

    def bad(self) -> int:
        return sum(one.bad for one in self.measurements)


def table(results: Results) -> str:
    """The figures as a Markdown table."""
    steps = results.connections()
    top = steps[-1]
    header = ["server", *(f"req/s at {step}" for step in steps)]
    header += [f"p50 / p99 ms at {step}" for step in steps]
    header += [f"CPU µs/req at {top}", "PSS MiB", "RSS MiB", "processes", "cold start s"]
    rows = [header, ["---"] + ["--:"] * (len(header) - 1)]
    for name in results.contenders():
        starts = [start for start in results.starts if start.contender == name]
        rows.append(
            [
                name,
                *(f"{results.middle(name, n, 'requests_per_second'):,.0f}" for n in steps),
                *(
                    f"{results.middle(name, n, 'p50_ms'):.2f} / {results.middle(name, n, 'p99_ms'):.2f}"
                    for n in steps
                ),
                f"{results.middle(name, top, 'cpu_us'):.0f}",
                f"{median(start.pss_mib for start in starts):.0f}",
                f"{median(start.rss_mib for start in starts):.0f}",
                f"{median(start.processes for start in starts):.0f}",
                f"{median(start.cold_seconds for start in starts):.2f}",
            ]
        )
    floor = f"{results.floor:,.0f}"
    rows.append(
        ["floor: onnxruntime.run in a loop, 1 process", *[floor] * len(steps)]
        + [""] * (len(header) - 1 - len(steps))
    )
    return _aligned(rows)


def verdicts(results: Results) -> list[tuple[str, bool]]:
    """Each bar that could be judged, as a sentence, and whether it is reached."""
    found = []
    for ours, factor, theirs in BARS:
        try:
            mine = results.middle(ours, BAR_CONNECTIONS, "requests_per_second")
            other = results.middle(theirs, BAR_CONNECTIONS, "requests_per_second")
        except KeyError:
            continue
        reached = mine >= factor * other
        sentence = (
            f"{'reached' if reached else 'MISSED'}: {ours} is {mine / other:.2f} x {theirs} "
            f"at {BAR_CONNECTIONS} connections (bar: {factor:g} x)"
        )
        found.append((sentence, reached))
    if results.bad():
        found.append((f"INVALID: {results.bad()} answers were not 2xx or never came", False))
    return found


def page(results: Results) -> str:
    """The whole report."""
    others = results.others()
    quiet = others <= BUSY_CORES
    noise = (
        ""
        if quiet
        else f"- BUSY: others used up to {others:.1f} cores; measure again when it is quiet\n"
    )
    machine = "\n".join(f"- {name}: {value}" for name, value in results.machine.items())
    judged = (
        "\n".join(f"- {sentence}" for sentence, _ in verdicts(results)) or "- no bar was judged"
    )
    return (
        "# Side by side: the digits model (64 floats -> 10), one picture a request\n\n"
        f"{machine}\n\n{table(results)}\n\n{noise}{judged}\n\n"
        "Medians over the rounds; each round starts every server in turn, alone on the machine with the load\n"
        "generator. Answers are checked before and after each load. CPU and memory are of all processes of a\n"
        "server, Envoy and agent included.\n"
    )


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
