"""`fairlead why`: what was decided, and by which figures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from fairlead.cli.common import home_option, json_option, say, table
from fairlead.cli.requests import OrRequest
from fairlead.control.releases import split_text
from fairlead.domain.errors import Kind, Refused
from fairlead.domain.rollout import Entry, Event, Record, record_to_json
from fairlead.kits.clock import iso
from fairlead.kits.sizes import mebibytes

_MIB = 1 << 20


@click.group(cls=OrRequest, options_metavar="", subcommand_metavar="REQUEST-ID [OPTIONS]")
def why() -> None:
    """Say why something went as it went.

    With a request's id (the X-Request-Id of its answer): its key, the rule that chose, its bucket, revision,
    artifact, worker, times and retries, and how it ended.
    `why REQUEST-ID --help` lists the options; `why rollout [ID]` tells of a rollout.
    """


@why.command("rollout")
@click.argument("name", metavar="[ID]", required=False)
@home_option
@json_option
def rollout(name: str | None, home: Path | None, as_json: bool) -> int:
    """Show the decision record of a rollout: every step with its figures. Without ID, the latest one's.

    Example: fairlead why rollout 20260102-030405-1f2e
    """
    from fairlead.wiring.control import control_for
    from fairlead.wiring.journals import journals_in, state_of

    rollouts = journals_in(control_for(home, say))
    names = rollouts.ids()
    if not names:
        raise Refused(Kind.NOT_FOUND, "there was no rollout yet: `fairlead rollout FILE` makes one")
    record = rollouts.find(name or names[-1])
    if as_json:
        click.echo(json.dumps(record_to_json(record) | {"state": state_of(record)}, indent=1))
        return 0
    for line in _told(record, state_of(record)):
        click.echo(line)
    return 0


def _told(record: Record, state: str) -> Iterator[str]:
    led = record.rollout
    yield f"rollout {led.id} of {led.candidate} against {led.stable.served_version}: {state}"
    for reason in record.reasons:
        yield f"  because {reason}"
    yield ""
    yield f"release file  {led.source}"
    for version, artifact in led.artifacts.items():
        yield f"{version:<13} {artifact}"
    yield f"traffic       {split_text(led.before)} before, {split_text(led.goal)} as the goal"
    policy = led.policy
    yield (
        f"policy        {' % → '.join(map(str, policy.steps))} %, each at least {policy.step_seconds:g} s and "
        f"{policy.min_requests} requests, at most {policy.timeout_seconds:g} s"
    )
    yield (
        f"allowed       failed +{100 * policy.max_more_failed:g} %, refused +{100 * policy.max_more_refused:g} %, "
        f"latency +{100 * policy.max_slower:g} % (+{1000 * policy.slack_seconds:g} ms), "
        f"memory +{policy.max_growth_bytes / _MIB:.0f} MiB a step"
    )
    for entry in record.entries:
        yield ""
        yield from _entry(entry)


def _entry(entry: Entry) -> Iterator[str]:
    body, moment = entry.body, iso(entry.at)
    pid = body.get("process", {}).get("pid")
    match entry.event:
        case Event.STARTED:
            yield f"{moment}  started (process {pid})"
        case Event.MOVED:
            yield f"{moment}  moved to {body['percent']} %"
        case Event.RESUMED:
            yield f"{moment}  resumed (process {pid})"
        case Event.ABORTED:
            yield f"{moment}  aborted (process {pid})"
        case Event.JUDGED:
            yield f"{moment}  {body['percent']} %: {body['decision']}"
            yield from (f"  - {reason}" for reason in body["reasons"])
            yield from _window(body.get("window"))
        case Event.ENDED:
            yield f"{moment}  {body['outcome']}"
            yield from (f"  - {reason}" for reason in body["reasons"])


def _window(window: Mapping[str, Any] | None) -> Iterator[str]:
    if window is None:
        return
    told = "the first window, when it carried most" if window["earlier"] else "the same window"
    yield f"  in {window['seconds']:.1f} s; the stable revision's figures are of {told}"
    header = (
        "",
        "REQUESTS",
        "FAILED",
        "REFUSED",
        "LEFT",
        "MEAN",
        "P50",
        "P95",
        "P99",
        "DIED",
        "GREW",
    )
    rows = [_row(who, window[who]) for who in ("candidate", "stable")]
    for line in table(header, rows).splitlines():
        yield f"  {line}"


def _row(who: str, sample: Mapping[str, Any]) -> tuple[str, ...]:
    times = tuple(f"{1000 * sample[name]:.3g} ms" for name in ("mean", "p50", "p95", "p99"))
    counts = tuple(str(sample[name]) for name in ("requests", "failed", "refused", "cancelled"))
    grew = mebibytes(sample["growth"]["bytes"])
    return ("new" if who == "candidate" else who, *counts, *times, str(sample["deaths"]), grew)
