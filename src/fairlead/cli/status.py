"""`fairlead status`: what should serve, what does, and why not."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fairlead.cli.common import home_option, json_option, say, table
from fairlead.domain.catalog import Line, Revision, Service
from fairlead.domain.health import held_units
from fairlead.domain.release import TrafficShare
from fairlead.domain.versions import natural_key
from fairlead.kits.terminal import one_line

if TYPE_CHECKING:
    from fairlead.domain.status import OpenSwitch
    from fairlead.wiring.batches import Batches
    from fairlead.wiring.observe import Observed

_HEADER = ("SERVICE", "VERSION", "ARTIFACT", "TRAFFIC", "STATE", "BATCHING", "WORKERS", "WHY")


@click.command()
@home_option
@json_option
def status(home: Path | None, as_json: bool) -> int:
    """Show services, lines, revisions and their traffic, with the reason for whatever does not serve.

    BATCHING says whether requests share runs of the model, and how many times the rows the machine does then.

    Exits with 1 if something that should serve does not.
    """
    from fairlead.wiring.batches import batches
    from fairlead.wiring.control import control_for
    from fairlead.wiring.journals import open_rollouts
    from fairlead.wiring.observe import observe

    control = control_for(home, say)
    seen = observe(control)
    batched = batches(control, seen.node)
    rollouts = open_rollouts(control)
    problems = seen.problems()
    if as_json:
        click.echo(json.dumps(_document(seen, batched) | {"rollouts": rollouts}, indent=1))
        return 1 if problems else 0
    where = (
        f"running at {seen.running['url']} (pid {seen.running['pid']})"
        if seen.running
        else "not running"
    )
    click.echo(f"{where}; catalog generation {seen.catalog.generation}")
    rows = [_cells(row) for service in _services(seen) for row in _rows(seen, service, batched)]
    if rows:
        click.echo()
        click.echo(table(_HEADER, rows))
    scales = [_scale_cells(scale) for scale in _scales(seen)]
    if scales:
        click.echo()
        click.echo(table(("ENDPOINT", "READY", "WISHED", "SCALE", "WHY"), scales))
    for line in rollouts:
        click.echo(line)
    for switch in seen.switches():
        click.echo(_told(switch))
    for problem in problems:
        click.echo(one_line(f"! {problem}"))
    return 1 if problems else 0


def _scales(seen: Observed) -> list[dict[str, Any]]:
    """Every scale unit whose number of replicas may change, or of which there is something to say."""
    from fairlead.domain.scale_units import endpoint_ids, served
    from fairlead.domain.status import State

    found = []
    for scale in seen.node.scales if seen.node else ():
        revision = seen.catalog.revision(scale.unit.revision)
        ends = served(revision, scale.unit) if revision is not None else ()
        if seen.node is None or revision is None or not ends:
            continue
        ready = [
            one for one in seen.node.replicas if one.unit == scale.unit and one.state is State.READY
        ]
        found.append(
            {
                "service": scale.unit.revision.service,
                "version": scale.unit.revision.served_version,
                "endpoints": [one.name for one in ends],
                "ready": len(ready),
                "wished": scale.wished,
                "minScale": ends[0].min_scale,
                "maxScale": ends[0].max_scale,
                "cold": set(endpoint_ids(revision, scale.unit)) <= set(seen.node.cold),
                "why": scale.why,
            }
        )
    return sorted(found, key=lambda one: (one["service"], natural_key(one["version"])))


def _scale_cells(one: dict[str, Any]) -> tuple[str, ...]:
    names = ",".join(one["endpoints"])
    return (
        f"{one['service']}/{one['version']}/{names}",
        f"{one['ready']}{' (cold)' if one['cold'] else ''}",
        str(one["wished"]),
        f"{one['minScale']}..{one['maxScale'] or 'no limit'}",
        one["why"],
    )


def _told(switch: OpenSwitch) -> str:
    from fairlead.kits.clock import iso

    workers = ", ".join(switch.workers)
    since, until = iso(switch.since), iso(switch.until)
    return f"{switch.what} ({workers}) since {since}; tried again by itself at {until}"


def _services(seen: Observed) -> list[Service]:
    return sorted(seen.catalog.services.values(), key=lambda service: service.name)


def _rows(seen: Observed, service: Service, batched: Batches) -> list[dict[str, Any]]:
    rows = []
    for name in sorted(service.lines, key=natural_key):
        line = service.lines[name]
        for revision in _shown(seen, line):
            state, why = _state(seen, service, revision)
            ready = seen.node.ready().get(revision.id, ()) if seen.node else ()
            rows.append(
                {
                    "service": service.name,
                    "version": revision.id.served_version,
                    "latest": service.pin.line == name,
                    "artifact": str(revision.artifact),
                    "percent": _share(_flowing(seen, line), revision.id.revision),
                    "wantedPercent": _share(line.traffic, revision.id.revision),
                    "state": state,
                    "workers": [{"worker": one.worker, "pid": one.pid} for one in ready],
                    "batching": dict(batched.get(revision.id, {})),
                    "why": why,
                }
            )
    return rows


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    from fairlead.wiring.batches import in_words

    now, wanted = row["percent"], row["wantedPercent"]
    return (
        row["service"],
        row["version"] + (" (latest)" if row["latest"] else ""),
        row["artifact"],
        f"{wanted} %" if now == wanted else f"{now} % (wanted {wanted} %)",
        row["state"],
        in_words(row["batching"]),
        " ".join(f"{one['worker']}:{one['pid']}" for one in row["workers"]) or "-",
        row["why"],
    )


def _shown(seen: Observed, line: Line) -> list[Revision]:
    """What should serve, and what still does while that is not ready."""
    tags = {share.tag for share in (*line.traffic, *_flowing(seen, line))} & line.revisions.keys()
    return [line.revisions[tag] for tag in sorted(tags, key=natural_key)]


def _share(traffic: tuple[TrafficShare, ...], tag: str) -> int:
    return next((share.percent for share in traffic if share.tag == tag), 0)


def _flowing(seen: Observed, line: Line) -> tuple[TrafficShare, ...]:
    return seen.gateway.effective.get(line.id, ()) if seen.gateway else ()


def _state(seen: Observed, service: Service, revision: Revision) -> tuple[str, str]:
    if seen.node is None:
        return "unknown", seen.agent_away
    if service.kill is not None:
        return "killed", service.kill.message
    if not seen.node.unserved(revision):
        off = [one for one in seen.switches() if one.endpoint.revision_id == revision.id]
        names = ", ".join(one.endpoint.endpoint for one in off)
        there = "ready" if revision.id in seen.node.ready() else "cold"
        state = "switched off" if any(one.whole for one in off) else there
        held = [why for unit, why in held_units(seen.node).items() if unit.revision == revision.id]
        if held and not off:
            return "held", held[0]
        return state, f"too many failures: {names}" if off else ""
    return "not ready", seen.node.reasons().get(revision.id, "not started")


def _document(seen: Observed, batched: Batches) -> dict[str, object]:
    rows = [row for service in _services(seen) for row in _rows(seen, service, batched)]
    for row in rows:
        row["batching"] = {name: asdict(one) for name, one in row["batching"].items()}
    return {
        "generation": seen.catalog.generation,
        "running": seen.running,
        "problems": seen.problems(),
        "killSwitches": [asdict(switch) for switch in seen.switches()],
        "revisions": rows,
        "scales": _scales(seen),
        "pins": {service.name: service.pin.line for service in _services(seen)},
    }
