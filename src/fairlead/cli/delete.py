"""`fairlead delete`: a revision, a line or a service, and all that is left of it."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from fairlead.cli.common import home_option, say
from fairlead.cli.showing import clear, show
from fairlead.domain.errors import FairleadError, Kind
from fairlead.domain.removal import Removal, Target


@click.command()
@click.argument("target", metavar="SERVICE[/LINE[.REVISION]]")
@home_option
@click.option("--yes", is_flag=True, help="Do not ask first.")
@click.option(
    "--wait/--no-wait",
    default=True,
    help="Wait until routes, workers and files are gone, if Fairlead runs (default).",
)
@click.option("--timeout", default=120.0, show_default=True, help="Seconds to wait.")
def delete(target: str, home: Path | None, yes: bool, wait: bool, timeout: float) -> int:
    """Delete a service, a line of it, or one revision: routes, workers, and the node's files.

    Requests under way are finished first; other services notice nothing. A revision must have no traffic, and
    a line must not be the pinned one, unless nothing is left beside it. Keys lose the scopes that name only
    what goes. The names of services and lines can be used again, a revision's cannot: its line lives on.

    Artifacts stay in the store: see `fairlead models rm` and `fairlead models prune`.

    Example: fairlead delete speech/v8
    """
    from fairlead.wiring.control import control_for
    from fairlead.wiring.deleting import anything_runs, deleting, until_gone

    wanted = Target.parse(target)
    control = control_for(home, say)
    work = deleting(control)
    if not yes and not _agreed(work.plan(wanted)):
        say("nothing was deleted")
        return 1
    removal = work.delete(wanted)
    click.echo(f"deleted {wanted} from the catalog (generation {removal.catalog.generation})")
    for line in _scopes(removal) if yes else ():  # else they were told when it was asked
        say(line)
    used = sorted({str(one.artifact) for one in removal.digests.values()})
    if used:
        say(f"still in the store, used by nothing: {', '.join(used)}; fairlead models rm {used[0]}")
    if not anything_runs(control):
        say("nothing runs here; its files on this node go with the next `fairlead up`")
        return 0
    if not wait:
        return 0
    began = control.clock.monotonic()
    left = until_gone(control, removal, timeout, show)
    clear()
    if left:
        raise FairleadError(
            f"deleted, but after {timeout:g} s not gone yet: {'; '.join(left)}; that goes on by itself",
            kind=Kind.DEADLINE,
        )
    say(f"nothing is left of it after {control.clock.monotonic() - began:.1f} s")
    return 0


def _agreed(removal: Removal) -> bool:
    """Ask the person at the terminal; raises UsageError where there is none."""
    for one in removal.revisions:
        say(f"- revision {one.id} ({one.artifact})")
    for line in _scopes(removal):
        say(line)
    if not sys.stdin.isatty():
        raise click.UsageError("nobody can be asked here: give --yes to delete it")
    return click.confirm(f"Delete {removal.target}?", err=True)


def _scopes(removal: Removal) -> list[str]:
    """What becomes of keys."""
    lines = []
    for key in removal.keys:
        lost = " ".join(map(str, removal.lost(key)))
        left = removal.catalog.keys[key.client].allow
        more = "" if left else f"; nothing is left to it: fairlead keys allow {key.client} SCOPE"
        lines.append(f"- key {key.client} may no longer ask {lost}{more}")
    return lines
