"""`fairlead verify`: does everything that release files name answer?"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fairlead.cli.common import home_option, say, table
from fairlead.domain.errors import FairleadError, Kind
from fairlead.domain.explanations import INTERRUPTED
from fairlead.kits.terminal import one_line

if TYPE_CHECKING:
    from fairlead.kits.clock import Clock
    from fairlead.wiring.verifying import Result, Verifying

_HEADER = ("STATUS", "MODEL", "PATH", "SECONDS", "BYTES", "WHY")


@click.command()
@click.argument(
    "directories", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="DIR..."
)
@home_option
@click.option("--only", metavar="MODEL", help="Only this line: the files' `model`.")
@click.option(
    "--repeat",
    type=click.FloatRange(0),
    metavar="SECONDS",
    help="Again and again, with this pause, until Ctrl-C.",
)
@click.option(
    "--host", metavar="URL", help="The gateway; a bare name means https. Default: what runs here."
)
def verify(
    directories: tuple[Path, ...],
    home: Path | None,
    only: str | None,
    repeat: float | None,
    host: str | None,
) -> int:
    """Ask every path of the release files in DIR once, twenty at a time; anything but 200 counts as failed.

    The files directly in DIR that end in .json, .yaml, .yml or .jsonnet are meant; folders and other files are
    left out.

    Paths of the endpoints `stream` and `validate` get a short text to speak. Other endpoints get the first
    golden example of their artifact, where this home has it. The key is API_KEY's, else FAIRLEAD_API_KEY's,
    else the home's demo key.

    Exits with 1 if anything failed.

    Example: fairlead verify releases/ --only v9
    """
    from fairlead.kits.clock import SystemClock
    from fairlead.wiring.control import control_unless_named
    from fairlead.wiring.verifying import prepare

    prepared = prepare(control_unless_named(home, host, say), directories, only, host)
    say(f"{prepared.found} release file{'' if prepared.found == 1 else 's'} found")
    for source in prepared.silent:
        say(f"{source}: nothing to ask: no paths of its own, and no example of its artifact here")
    if not prepared.calls:
        raise FairleadError("there is nothing to ask", kind=Kind.NOT_FOUND)
    clock, rounds, failed = SystemClock(), 0, 0
    try:
        while True:
            failed += _round(prepared, clock)
            rounds += 1
            if repeat is None:
                return 1 if failed else 0
            clock.pause(repeat)
    except KeyboardInterrupt:
        if repeat is not None:
            say(f"stopped after {rounds} rounds; {failed} requests failed")
        return INTERRUPTED


def _round(prepared: Verifying, clock: Clock) -> int:
    from fairlead.wiring.verifying import verify as ask

    results = asyncio.run(ask(prepared, clock, _tell))
    failed = [one for one in results if not one.right]
    click.echo(f"DONE: {len(results) - len(failed)} succeeded, {len(failed)} failed:")
    results.sort(key=lambda one: (one.right, one.call.line, one.call.path))
    click.echo(table(_HEADER, [_cells(one) for one in results]))
    return len(failed)


def _tell(result: Result) -> None:
    click.echo(one_line(f"{result.status_line or result.why} {result.call.line} {result.url}"))


def _cells(result: Result) -> tuple[str, ...]:
    return (
        result.status_line or "-",
        result.call.line,
        result.call.path,
        f"{result.seconds:.2f}",
        str(result.received),
        result.why,
    )
