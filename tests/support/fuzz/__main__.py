"""`make fuzz`: attack the ports for some minutes, then run Schemathesis; a report, and exit code 1 for findings."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
import tempfile
import time
from pathlib import Path

from support.fuzz.batches import Figures, Target, batch, changes
from support.fuzz.places import Places, places
from support.fuzz.schemas import schemathesis
from support.running import ROOT, until

_SHARE_OF_BYTES = 0.7  # of the time
_CASES_A_SECOND = 40  # of Schemathesis, about; only its number of examples can be set


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    parser.add_argument("--report", type=Path, default=ROOT / "build" / "fuzz")
    options = parser.parse_args()
    print(
        f"fuzz: seed {options.seed}, about {options.seconds:.0f} s (again: FUZZ_SEED={options.seed})"
    )
    options.report.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="fl-fuzz-") as directory,
        places(Path(directory), "--models", str(ROOT / "build" / "models")) as found,
    ):
        # What Envoy has counted of a worker goes with it: what is compared has to stand still.
        until(found.resting, 120, "small models share as few processes as they may")
        figures, batches = attack(found, options.seed, options.seconds * _SHARE_OF_BYTES)
        lines = check(found, figures, patient=True)
        print(
            f"fuzz: {batches} batches, {figures.cases} streams, {figures.answers} answers; Schemathesis …"
        )
        schemas, failed = run_schemas(found, options.seed, options.seconds, options.report)
        lines += failed
    report = written(options.seed, batches, figures, schemas, lines)
    (options.report / "report.md").write_text(report)
    for number, (_, stream) in enumerate(figures.findings):
        (options.report / f"finding-{number}.bin").write_bytes(stream)
    print(report)
    return 1 if lines else 0


def attack(found: Places, seed: int, seconds: float) -> tuple[Figures, int]:
    """Batch after batch, first on the gateway, then on the others; returns how many there were."""
    figures = Figures()
    gateway, *others = found.targets
    before = found.forwarded()
    batches = _batches([gateway], 0, seed, seconds * 0.6, figures)
    sent, got = _settled(found, before)
    figures.forwarded = (sent, got)
    if got > sent:
        figures.found(f"gateway: Envoy sent {sent} requests to workers and they got {got}")
    batches += _batches(others, batches, seed, seconds * 0.4, figures)
    return figures, batches


def _batches(targets: list[Target], first: int, seed: int, seconds: float, figures: Figures) -> int:
    end = time.monotonic() + seconds
    told = time.monotonic()
    number = first
    while time.monotonic() < end:
        asyncio.run(batch(targets[number % len(targets)], number, seed, figures))
        number += 1
        if time.monotonic() - told > 20:
            told = time.monotonic()
            print(f"fuzz: {figures.cases} streams, {len(figures.findings)} findings")
    return number - first


def _settled(found: Places, before: tuple[int, int]) -> tuple[int, int]:
    """What was sent and got since then, once nothing moves any more."""
    last = before
    for _ in range(50):
        time.sleep(0.1)
        now = found.forwarded()
        if now == last:
            break
        last = now
    return last[0] - before[0], last[1] - before[1]


def check(found: Places, figures: Figures, *, patient: bool) -> list[str]:
    """Everything that was found, in a line each."""
    if patient:
        time.sleep(2.0)  # Envoy writes its access log and moves its counters when it likes
    lines = [what for what, _ in figures.findings]
    lines += [f"{target.name}: {what}" for target in found.targets for what in changes(target)]
    lines += [f"log: {line}" for line in found.bad_lines()]
    lines += [f"gateway: {line}" for line in found.failures()]
    return lines


def run_schemas(found: Places, seed: int, seconds: float, report: Path) -> tuple[int, list[str]]:
    examples = max(5, int(seconds * (1 - _SHARE_OF_BYTES) * _CASES_A_SECOND / 60))
    cases, lines = 0, []
    for name, url, key in (
        ("gateway", found.running.url, found.running.key),
        ("serve", found.serve_url, None),
    ):
        ran, failed = schemathesis(
            url, key, report / f"schemathesis-{name}.txt", seed=seed, examples=examples
        )
        cases += ran
        lines += [f"schemathesis {name}: {what}" for what in failed]
    return cases, lines


def written(seed: int, batches: int, figures: Figures, schemas: int, lines: list[str]) -> str:
    statuses = ", ".join(f"{status}: {count}" for status, count in sorted(figures.statuses.items()))
    told = "\n".join(f"- {line}" for line in lines) or "None."
    return (
        f"# Fuzz\n\nSeed {seed}. {batches} batches, {figures.cases} wrong streams, {figures.answers} HTTP/1.1 answers "
        f"({statuses}), {figures.probes} right requests among them, {schemas} cases of Schemathesis. Of what came through the gateway Envoy "
        f"sent {figures.forwarded[0]} requests to workers, and they got {figures.forwarded[1]} to run a model.\n\n"
        f"## Findings: {len(lines)}\n\n{told}\n"
    )


if __name__ == "__main__":
    sys.exit(main())
