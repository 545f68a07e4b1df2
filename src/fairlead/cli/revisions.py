"""`fairlead revisions`: every revision there is, what it is made of and how far it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fairlead.cli.common import home_option, json_option, say, table
from fairlead.domain.removal import Target
from fairlead.kits.clock import iso
from fairlead.kits.terminal import one_line

if TYPE_CHECKING:
    from fairlead.wiring.revisions import Row, Standing

_HEADER = ("REVISION", "ARTIFACT", "DIGEST", "CREATED", "TRAFFIC", "STATE", "")
_SHOWN = 12  # names of revisions that a line has let go
_DIGEST = len("sha256:") + 12


@click.command()
@click.argument("target", required=False, metavar="[SERVICE[/LINE]]")
@home_option
@json_option
def revisions(target: str | None, home: Path | None, as_json: bool) -> int:
    """List every revision: its artifact, when it was created, its traffic, how far it is on each node.

    TRAFFIC is what flows now; "-" is none, and no worker. A revision that is "cold" has no worker on purpose: one
    comes up when somebody asks. "last applied" marks the revision whose release file
    was applied last in its line. Revisions that a line has let go are named below: nothing else is left of them.

    Example: fairlead revisions speech/v9
    """
    from fairlead.wiring.control import control_for
    from fairlead.wiring.revisions import revisions as read

    control = control_for(home, say)
    listing = read(control, Target.parse(target) if target else None)
    if as_json:
        document = {
            "revisions": [_document(row) for row in listing.rows],
            "letGo": {line: list(names) for line, names in listing.let_go.items()},
        }
        click.echo(json.dumps(document, indent=1))
        return 0
    rows = [_cells(row) for row in listing.rows]
    click.echo(table(_HEADER, rows) if rows else "no revision yet")
    for line, names in listing.let_go.items():
        shown = ", ".join(names[-_SHOWN:])
        earlier = f", and {len(names) - _SHOWN} before" if len(names) > _SHOWN else ""
        click.echo(one_line(f"{line} has let go of {shown}{earlier}"))
    return 0


def _cells(row: Row) -> tuple[str, ...]:
    one = row.revision
    return (
        str(one.id),
        str(one.artifact),
        one.digest[:_DIGEST],
        iso(one.created_at)[:16].replace("T", " "),
        _traffic(row),
        ", ".join(_state(one) for one in row.nodes if one.state or one.cold) or "-",
        ", ".join(_marks(row)),
    )


def _traffic(row: Row) -> str:
    now = "-" if row.percent is None else f"{row.percent} %"
    wanted = "none" if row.wanted is None else f"{row.wanted} %"
    return now if row.percent == row.wanted else f"{now} (wanted {wanted})"


def _state(standing: Standing) -> str:
    from fairlead.wiring.revisions import COLD

    workers = f" x{standing.workers}" if standing.workers > 1 else ""
    reason = f": {standing.reason}" if standing.reason else ""
    state = standing.state or "no worker"
    apart = standing.cold if state != COLD else ()
    cold = f" (cold: {', '.join(apart)})" if apart else ""
    return f"{state}{workers} on {standing.node}{cold}{reason}"


def _marks(row: Row) -> list[str]:
    marks = ["last applied"] if row.last_applied else []
    return marks + (["pinned line"] if row.pinned and row.wanted else [])


def _document(row: Row) -> dict[str, Any]:
    one = row.revision
    return {
        "service": one.id.service,
        "line": one.id.line,
        "revision": one.id.revision,
        "artifact": str(one.artifact),
        "digest": one.digest,
        "created": iso(one.created_at),
        "applied": iso(one.applied_at) if one.applied_at else None,
        "lastApplied": row.last_applied,
        "pinnedLine": row.pinned,
        "percent": row.percent,
        "wantedPercent": row.wanted,
        "nodes": [
            {
                "node": standing.node,
                "state": standing.state or None,
                "workers": standing.workers,
                "reason": standing.reason,
                "cold": list(standing.cold),
            }
            for standing in row.nodes
        ],
    }
