"""`fairlead say`: a speech service says something, for a person."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fairlead.cli.common import home_option, say as tell, text_of
from fairlead.cli.showing import clear, show

if TYPE_CHECKING:
    from fairlead.wiring.asking import Way
    from fairlead.wiring.homes import Control
    from fairlead.wiring.saying import Said, Wish

_FORMS = ("mp3", "wav", "opus")
_SUFFIXES = {".mp3": "mp3", ".wav": "wav", ".ogg": "opus", ".opus": "opus"}


@click.command()
@click.argument("text")
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="FILE",
    help="Where the sound goes; - is standard output, for a player: | ffplay -nodisp -autoexit -",
)
@click.option("--speaker", default="4", show_default=True, help="Whose voice: a public id.")
@click.option("--service", default="speech", show_default=True, help="Which service speaks.")
@click.option(
    "--version",
    "accept_version",
    default="",
    help="Accept-Version: v9, v9.2 or latest (default: the pinned line).",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(_FORMS),
    help="Default: what FILE ends in, else mp3.",
)
@click.option("--key", help="The key to send. Default: FAIRLEAD_API_KEY, else the home's demo key.")
@click.option("--url", help="The gateway. Default: the one that runs here.")
@home_option
def say(  # noqa: PLR0913 - each is an option
    *,
    text: str,
    output: str,
    speaker: str,
    service: str,
    accept_version: str,
    form: str | None,
    key: str | None,
    url: str | None,
    home: Path | None,
) -> int:
    """Let a service say TEXT. @FILE reads a file, - reads standard input.

    The sound is written as it comes; the file is there once it is whole. Ctrl-C stops the service and leaves nothing.

    Example: fairlead say "good morning" -o morning.mp3
    """
    from fairlead.wiring.asking import way_to
    from fairlead.wiring.control import control_unless_named
    from fairlead.wiring.saying import Wish

    wish = Wish(service, text_of(text), speaker, form or _form(output), accept_version)
    if output == "-" and sys.stdout.isatty():
        raise click.UsageError(
            "sound is nothing for a terminal: name a file, or pipe it to a player"
        )
    control = control_unless_named(home, url, tell)
    _end_like_ctrl_c()
    said = _said(control, wish, way_to(control, url, key), output)
    clear()
    where = "" if output == "-" else f" in {output}"
    served = f", by {said.version}" if said.version else ""
    tell(
        f"{said.received} bytes{where} after {said.seconds:.2f} s, the first after "
        f"{1000 * said.first_seconds:.0f} ms{served}"
    )
    return 0


def _said(control: Control | None, wish: Wish, way: Way, output: str) -> Said:
    from fairlead.kits.clock import SystemClock
    from fairlead.wiring.saying import say_to, whole_file

    clock = SystemClock()
    if output == "-":
        said = say_to(control, wish, way, sys.stdout.buffer, clock, _progress)
        sys.stdout.buffer.flush()
        return said
    with whole_file(Path(output)) as file:
        return say_to(control, wish, way, file, clock, _progress)


def _progress(received: int, seconds: float) -> None:
    show(f"{received / 1024:.0f} KiB, {seconds:.1f} s")


def _form(output: str) -> str:
    suffix = Path(output).suffix.lower()
    if output == "-" or not suffix:
        return "mp3"
    if suffix not in _SUFFIXES:
        raise click.UsageError(
            f"nothing is known of {suffix} files: name it *{', *'.join(_SUFFIXES)}, or give --format"
        )
    return _SUFFIXES[suffix]


def _end_like_ctrl_c() -> None:
    """Whoever ends us otherwise finds no half file either."""

    def told(*_: object) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, told)
