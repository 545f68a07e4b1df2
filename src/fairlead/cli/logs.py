"""`fairlead logs`: what happened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from fairlead.cli.common import home_option, say
from fairlead.kits.terminal import one_line

_LOOK_SECONDS = 0.2


@click.command()
@home_option
@click.option("-f", "--follow", is_flag=True, help="Go on as new lines come, until Ctrl-C.")
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(0),
    default=50,
    show_default=True,
    help="How many of the last lines to show first.",
)
@click.option(
    "--all", "everything", is_flag=True, help="Every record, requests included; not only events."
)
@click.option("--request", "request_id", help="Only what carries this request id.")
@click.option(
    "--json", "as_json", is_flag=True, help="The records as they are, one JSON object a line."
)
def logs(home: Path | None, lines: int, **options: Any) -> int:
    """Show what happened: events of every process, oldest first."""
    from fairlead.wiring.control import control_for
    from fairlead.wiring.logs import LogFollower

    control = control_for(home, say)
    requests = bool(options["everything"] or options["request_id"])
    follower = LogFollower(control.home.logs, from_start=True, requests=requests)
    shown = [record for record in follower.new() if _wanted(record, options)]
    for record in shown[max(0, len(shown) - lines) :]:
        click.echo(one_line(_line(record, as_json=options["as_json"])))
    while options["follow"]:
        control.clock.pause(_LOOK_SECONDS)
        for record in follower.new():
            if _wanted(record, options):
                click.echo(one_line(_line(record, as_json=options["as_json"])))
    return 0


def _wanted(record: dict[str, Any], options: dict[str, Any]) -> bool:
    wanted = options["request_id"]
    if wanted is not None:
        return wanted in (record.get("request_id"), record.get("requestId"))
    return bool(options["everything"]) or "event" in record


def _line(record: dict[str, Any], *, as_json: bool) -> str:
    if as_json:
        return json.dumps(record, ensure_ascii=False)
    from fairlead.wiring.logs import moment as moment_of

    moment = moment_of(record)
    if "message" in record:
        return f"{moment} {record.get('service', ''):<8} {record['message']}"
    shown = {
        key: value
        for key, value in record.items()
        if key not in ("time", "asctime") and value is not None
    }
    return f"{moment} request  " + " ".join(f"{key}={value}" for key, value in shown.items())
