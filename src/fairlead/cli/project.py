"""`fairlead init`: a small working project."""

from __future__ import annotations

import contextlib
from pathlib import Path

import click

from fairlead.domain.errors import FairleadError, Kind


@click.command()
@click.argument("directory", default=".", type=click.Path(path_type=Path, file_okay=False))
def init(directory: Path) -> int:
    """Write a small working project into DIRECTORY (default: here): a model, a release file, a README.

    Existing files are never overwritten.
    """
    from fairlead.control.scaffold import project_files

    files = project_files()
    there = [name for name in files if (directory / name).exists()]
    if there:
        message = (
            f"{directory / there[0]} is there already: choose an empty folder, nothing was written"
        )
        raise FairleadError(message, kind=Kind.CONFLICT)
    try:
        for name, text in files.items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except OSError:
        for name in files:
            with contextlib.suppress(OSError):
                (directory / name).unlink()
        raise
    for name in files:
        click.echo(f"wrote {directory / name}")
    click.echo(
        "\nNext: fairlead up" if str(directory) == "." else f"\nNext: cd {directory} && fairlead up"
    )
    return 0
