"""`fairlead bump`: the next version into release files."""

from __future__ import annotations

from pathlib import Path

import click

from fairlead.cli.common import home_option, release_files, say
from fairlead.domain.errors import FairleadError, Kind


@click.command()
@release_files
@home_option
@click.option("--dry-run", is_flag=True, help="Only say what would change.")
def bump(files: tuple[Path, ...], home: Path | None, dry_run: bool) -> int:
    """Give each release FILE the next version, and that version all of its line's traffic.

    The next version is one above the file's, and above any that the line ever had: a revision never comes
    back. Of a directory its release files are meant. JSON is written with two spaces; in YAML only the values
    change, comments stay. Files that split traffic, and Jsonnet, are for people to change.

    Exits with 1 if a file was skipped.

    Example: fairlead bump releases/*.yaml --dry-run
    """
    from fairlead.domain.catalog import Catalog
    from fairlead.wiring.bumping import bump_files, release_files_in
    from fairlead.wiring.control import control_for

    try:
        catalog = control_for(home, say).catalogs.read()
    except FairleadError as error:
        if home is not None or error.kind is not Kind.NOT_FOUND:
            raise
        say("no Fairlead home here: only the files' own versions count")
        catalog = Catalog()
    skipped = 0
    word = "Would change" if dry_run else "Changed"
    for path, made in bump_files(release_files_in(files), catalog, write=not dry_run):
        if made.refusal:
            skipped += 1
            say(f"ERROR: {path}: {made.refusal}")
            continue
        for warning in made.warnings:
            say(f"WARNING: {warning}")
        click.echo(f"{word} version of {made.line} from {made.before} to {made.after} in {path}")
    if skipped:
        say(f"{skipped} skipped")
        return 1
    click.echo("OK")
    return 0
