"""From results to a page, a plot and raw figures. Pure: values in, text out."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from statistics import mean, median
from typing import Any

from soak.book import KINDS, Failure
from soak.plot import Panel, svg
from soak.results import BARS, FEWEST_REVISIONS, Results, growth, pauses, verdicts
from soak.sampling import MIB, ROLES, Sample

MARKS: Mapping[bool | None, str] = {True: "reached", False: "MISSED", None: "not judged"}
_SHOWN = 20  # failures in the page; all are in failures.json
_ROLES = tuple(role for role in ROLES if role in BARS)

# Why each part of the disk may grow, or may not.
_ABOUT: Mapping[str, str] = {
    "store/blobs": "grows with every new artifact: what was published stays, for a way back",
    "store/artifacts": "a manifest for each published artifact",
    "store/catalog": "bounded: the newest generations; one is as large as the number of revisions there ever were",
    "store/audit": "one entry of some 100 bytes for each change: it is the record",
    "store/nodes": "one status for each node",
    "node/artifacts": "bounded: an artifact nobody runs goes after 10 minutes",
    "node/downloads": "empty unless something is being pulled",
    "node/workers": "a record for each running worker",
    "gateway": "Envoy's files, the last catalog, the keys",
    "logs": "bounded: each log is rotated, the newest 50 of ended workers stay",
    "temporary files and sockets": "a socket for each running worker, and four more",
    "anything else in the home": "the agent's copy of the catalog: it holds every revision there ever was",
}


def page(results: Results, plot: str) -> str:
    """The whole report."""
    machine = "\n".join(f"- {name}: {value}" for name, value in results.machine.items())
    judged = "\n".join(f"- {MARKS[one.reached]}: {one.text}" for one in verdicts(results))
    each = results.seconds / results.done if results.done else 0.0
    parts = [
        f"# {results.done} revisions under constant load\n",
        f"{machine}\n- seed: {results.seed}\n- took: {results.seconds / 60:.1f} min, {each:.2f} s a revision\n",
        f"## Verdict\n\n{judged}\n",
        f"## Requests\n\n{_requests(results)}\n",
        _failures("Failed requests", results.failures),
        _killed(results),
        f"## Memory\n\n![memory]({plot})\n\n{_memory(results)}\n",
        f"## Held while nobody asks\n\n{_held(results)}\n",
        f"## Disk\n\n{_disk(results)}\n",
        f"## Commands\n\n{_commands(results)}\n",
        _method(results),
    ]
    return "\n".join(part for part in parts if part)


def drawing(results: Results) -> str:
    """Memory by role, in all, and what else could grow, over the revisions."""
    rests = [one for one in results.samples if one.rest]

    def line(of: Callable[[Sample], float]) -> list[tuple[float, float]]:
        return [(one.revision, of(one)) for one in rests]

    def role_line(role: str) -> list[tuple[float, float]]:
        return line(lambda one: one.own_mib(role))

    panels = [
        Panel(
            "MiB of own memory of each process, at rest",
            {role: role_line(role) for role in _ROLES},
        ),
        Panel(
            "MiB (PSS) of the whole tree",
            {
                "at rest": line(lambda one: one.total_mib),
                "at any time": [(one.revision, one.total_mib) for one in results.samples],
            },
        ),
        Panel(
            "Processes, threads, open descriptors, at rest",
            {
                "processes": line(lambda one: len(one.processes)),
                "threads": line(lambda one: sum(each.threads for each in one.processes)),
                "descriptors": line(
                    lambda one: sum(sum(each.handles.values()) for each in one.processes)
                ),
            },
        ),
    ]
    return svg(panels, "revisions", results.warm_up)


def raw(results: Results) -> dict[str, Any]:
    """Every figure behind the page."""
    return {
        "machine": dict(results.machine),
        "seed": results.seed,
        "wanted": results.wanted,
        "done": results.done,
        "seconds": results.seconds,
        "warm_up": results.warm_up,
        "verdicts": [asdict(one) for one in verdicts(results)],
        "answers": dict(results.book.answers),
        "failed": len(results.failures) + results.book.more_failures,
        "failed_after_a_kill": len(results.excused),
        "slopes": {name: one and asdict(one) for name, one in results.slopes().items()},
        "rests": [_raw_sample(one) for one in results.samples if one.rest],
        "commands": _by_name(results),
    }


def _raw_sample(sample: Sample) -> dict[str, Any]:
    return {
        "at": round(sample.at, 1),
        "revision": sample.revision,
        "own_mib": {role: round(sample.own_mib(role), 2) for role in _ROLES},
        "pss_mib": {role: round(sample.pss_mib(role), 2) for role in _ROLES},
        "handles": {
            role: sum(sum(one.handles.values()) for one in sample.of(role)) for role in _ROLES
        },
        "threads": {role: sum(one.threads for one in sample.of(role)) for role in _ROLES},
        "envoy": dict(sample.envoy),
        "areas": {name: asdict(area) for name, area in sample.areas.items()},
    }


def _requests(results: Results) -> str:
    book = results.book
    seconds = results.seconds or 1.0
    rows = [["clients", "right answers", "a second", "p50 ms", "p99 ms", "max ms"]]
    for kind, text in KINDS.items():
        count = book.answers.get(kind, 0)
        latencies = [f"{book.latency_ms(kind, share):.1f}" for share in (0.5, 0.99, 1.0)]
        if kind == "leaving":
            count, latencies = book.left, ["", "", ""]
        rows.append([text, f"{count:,}", f"{count / seconds:.1f}", *latencies])
    total = book.answers.total()
    rows.append(["**all answers**", f"{total:,}", f"{total / seconds:.0f}", "", "", ""])
    return (
        f"{_table(rows)}\n\nClients that left count as requests sent, not as answers. {book.moved:,} requests "
        "were pipelined into a worker's socket while it was closing, got no part of an answer and were the\n"
        "client's to send again, as HTTP has it; requests through the gateway have no such excuse."
    )


def _failures(title: str, failures: Sequence[Failure]) -> str:
    if not failures:
        return ""
    lines = [
        f"- {one.kind}, {one.fault}, after {one.done - one.sent:.2f} s: `{one.text[:160]}`"
        for one in failures[:_SHOWN]
    ]
    more = len(failures) - len(lines)
    lines += [f"- and {more} more"] if more else []
    return f"### {title}\n\n" + "\n".join(lines) + "\n"


def _killed(results: Results) -> str:
    kills = results.timeline.kills
    if not kills:
        return ""
    faults = Counter(one.text.partition(" ")[0] for one in results.excused)
    told = ", ".join(f"{what} {count} times" for what, count in faults.most_common(5)) or "none"
    found = pauses(results)
    longest = f"{max(found):.2f} s, median {median(found):.2f} s" if found else "none"
    return (
        "### Killed workers\n\n"
        f"{len(kills)} times the only worker of a line was killed with SIGKILL. Its callers get 503 until the "
        "next one is proved; that is the\nrule, and these requests are counted here and not above: "
        f"{len(results.excused)} failed ({told}); longest stretch {longest}.\n"
    )


def _memory(results: Results) -> str:
    rests = results.rests
    slopes = results.slopes()
    rows = [["process", "PSS at first", "at last", "own at first", "at last"]]
    rows[0] += ["own, per 100 revisions", "bar"]
    for role, bar in BARS.items():
        if role in ROLES:
            shared = [one.pss_mib(role) / (len(one.of(role)) or 1) for one in rests]
            own_there = [one.own_mib(role) for one in rests]
        else:
            shared = [one.total_mib for one in rests]
            own_there = [one.own_total_mib for one in rests]
        ends = [f"{values[end]:.1f}" for values in (shared, own_there) if values for end in (0, -1)]
        rows.append([role, *(ends or ["", "", "", ""]), str(slopes[role] or "too few"), f"{bar:g}"])
    allocated = "server.memory_allocated"
    own = [one.envoy[allocated] / MIB for one in rests if allocated in one.envoy]
    envoy = (
        f"Envoy itself says it has allocated {own[0]:.1f} MiB at first, {own[-1]:.1f} at last. "
        if own
        else ""
    )
    return (
        f"{_table(rows)}\n\n{envoy}MiB at rest (only the live revisions' workers run, under load), after "
        f"{results.warm_up} revisions of warm-up.\nSlopes are of own memory (anonymous pages), which is where a leak "
        "shows and which nobody else's processes change: least squares over\n"
        f"{len(rests)} looks, ± half the 95 % interval with the looks' correlation taken into account. "
        "The upper end must not exceed the bar;\n"
        f"with fewer than {FEWEST_REVISIONS} revisions it is told and not judged. The bars: a team that "
        "releases twenty revisions every day sees the whole tree\ngrow by less than 18 MiB a month."
    )


def _held(results: Results) -> str:
    before, after = results.before, results.after
    if before is None or after is None:
        return "The soak ended before its second quiet look."
    rows = [["", f"after revision {before.sample.revision}", f"after {after.sample.revision}"]]
    for role in _ROLES:
        rows.append([f"{role}: processes", str(before.processes[role]), str(after.processes[role])])
        rows.append([f"{role}: threads", str(before.threads[role]), str(after.threads[role])])
        kinds = sorted({kind for one, kind in (*before.handles, *after.handles) if one == role})
        rows += [
            [
                f"{role}: descriptors, {kind}",
                str(before.handles.get((role, kind), 0)),
                str(after.handles.get((role, kind), 0)),
            ]
            for kind in kinds
        ]
    rows.append(["zombies", str(before.zombies), str(after.zombies)])
    return (
        f"{_table(rows)}\n\nThe load is stopped for these two looks, and only for them. Connections that Envoy "
        "keeps to workers and to the gateway's process are taken off at both ends."
    )


def _disk(results: Results) -> str:
    rows = [["where", "files per 100 revisions", "KiB per 100 revisions", "KiB at the end", ""]]
    rows += [
        [name, f"{files:+.1f}", f"{kib:+.1f}", f"{last:,.0f}", _ABOUT.get(name, "")]
        for name, files, kib, last in growth(results)
    ]
    return _table(rows) if len(rows) > 1 else "Too few looks."


def _by_name(results: Results) -> dict[str, list[float]]:
    """Seconds of every command."""
    found: dict[str, list[float]] = {}
    for name, seconds in results.commands:
        found.setdefault(name, []).append(round(seconds, 2))
    return found


def _commands(results: Results) -> str:
    rows = [["command", "times", "median s", "longest s"]]
    rows += [
        [name, str(len(all_)), f"{median(all_):.2f}", f"{max(all_):.2f}"]
        for name, all_ in sorted(_by_name(results).items())
    ]
    return f"{_table(rows)}\n\nEach waits until its change is live."


def _method(results: Results) -> str:
    revisions = [one.revision for one in results.samples]
    workers = mean(len(one.of("worker")) for one in results.samples) if revisions else 0.0
    return (
        "## How\n\n"
        "Two lines of one service, each with one live revision at rest, and a neighbour service beside them; "
        f"{workers:.1f} workers at a time on average.\nEvery fourth revision runs a newly published artifact, "
        "the others one of the newest six; seven of ten take all traffic at once, two come by a split,\none is "
        "taken back. In between the pin moves, a key gets a new secret, the neighbour is switched off and on, "
        "artifacts and files are published\nand applied again, and now and then a worker is killed. Every answer "
        "is checked: its status, its request id, its numbers against what\nthat artifact answers to that input, "
        "and its served version against the time in which that revision had traffic. `soak/` is the program.\n"
    )


def _table(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(_lines(rows))


def _lines(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for number, row in enumerate(rows):
        yield "| " + " | ".join(row) + " |"
        if number == 0:
            yield "|---" + "|--:" * (len(row) - 1) + "|"
