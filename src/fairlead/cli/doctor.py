"""`fairlead doctor`: what is wrong here, with the command that mends it."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import click

from fairlead.cli.common import home_option, json_option, say


@click.command()
@home_option
@click.option("--deep", is_flag=True, help="Also read every byte of every artifact.")
@json_option
def doctor(home: Path | None, deep: bool, as_json: bool) -> int:
    """Look at this machine and this home, and say what is wrong, why it matters, and the command that mends it.

    Changes nothing. Exits with 1 if anything is wrong.
    """
    from fairlead.wiring.doctor.run import examine

    steps: list[str] = []
    shown = sys.stderr.isatty() and not as_json

    def step(name: str) -> None:
        steps.append(name)
        if shown:
            click.echo(f"\r\033[Klooking at {name} …", err=True, nl=False)

    seen = examine(home, step, deep=deep)
    if shown:
        click.echo("\r\033[K", err=True, nl=False)
    if as_json:
        found = [dataclasses.asdict(finding) for finding in seen.findings]
        document = {"home": str(seen.home) if seen.home else None, "looked": steps, "wrong": found}
        click.echo(json.dumps(document, indent=1))
        return 0 if all(finding.optional for finding in seen.findings) else 1
    say(f"home: {seen.home}" if seen.home else "no home here: only the machine was looked at")
    for finding in seen.findings:
        click.echo(
            f"{'-' if finding.optional else '!'} {finding.check}: {finding.wrong}\n    {finding.why}\n    {finding.mend}"
        )
    amount = sum(not finding.optional for finding in seen.findings)
    things = "1 thing is" if amount == 1 else f"{amount} things are"
    click.echo(f"{things} wrong" if amount else f"nothing is wrong ({len(steps)} checks)")
    return 1 if amount else 0
