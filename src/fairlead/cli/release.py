"""Release files: check, plan, apply."""

from __future__ import annotations

from pathlib import Path

import click

from fairlead.cli.common import home_option, release_files, release_variables, say
from fairlead.domain.errors import InvalidInput
from fairlead.domain.reading import JSONNET, NO_VARIABLES, Variables


@click.command()
@release_files
@release_variables
def validate(files: tuple[Path, ...], variables: Variables) -> int:
    """Check release files without a store: every mistake with its key path, what was wrong, what would be right.

    That a traffic tag names an existing revision is the plan's question. Exits with 1 if any file is wrong.
    """
    from fairlead.wiring.homes import read_releases

    wrong = 0
    for path in files:
        try:
            (one,) = read_releases([path], variables if path.suffix == JSONNET else NO_VARIABLES)
        except InvalidInput as error:
            click.echo(str(error), err=True)
            wrong += 1
        else:
            name = (
                f"{one.release.service or '(no service)'}/{one.release.line}.{one.release.version}"
            )
            click.echo(f"{path}: right ({name})")
    return 1 if wrong else 0


@click.command()
@release_files
@release_variables
@home_option
def plan(files: tuple[Path, ...], home: Path | None, variables: Variables) -> int:
    """What applying release files would change, and where the catalog has drifted from them."""
    from fairlead.control import releases
    from fairlead.wiring.control import control_for
    from fairlead.wiring.homes import read_releases

    control = control_for(home, say)
    sourced = read_releases(list(files), variables)
    manifests = releases.manifests_of(control.artifacts, sourced)
    made = releases.plan(
        control.catalogs.read(), sourced, manifests, control.clock.now(), control.in_use()
    )
    _print_plan(made)
    return 0


@click.command()
@release_files
@release_variables
@home_option
@click.option(
    "--wait/--no-wait",
    default=True,
    help="Wait until the change is live, if Fairlead runs (default).",
)
@click.option("--timeout", default=120.0, show_default=True, help="Seconds to wait.")
def apply(
    files: tuple[Path, ...], home: Path | None, wait: bool, timeout: float, variables: Variables
) -> int:
    """Apply release files: create their revisions, move traffic once they are proved ready.

    A file whose content is what was last applied changes nothing. Fails if somebody moves or deletes what it has
    changed before that is live.
    """
    from fairlead.control import releases
    from fairlead.domain.superseded import Made
    from fairlead.wiring.control import control_for
    from fairlead.wiring.homes import read_releases
    from fairlead.wiring.settle import settle

    control = control_for(home, say)
    sourced = read_releases(list(files), variables)
    made, catalog = releases.apply(
        control.catalogs, control.artifacts, control.clock, sourced, control.in_use()
    )
    _print_plan(made)
    lines = frozenset(one.release.revision_id.line_id for one in sourced)
    if wait:
        settle(control, Made(catalog, lines=lines), timeout, say)
    return 0


def _print_plan(made: object) -> None:
    from fairlead.control.releases import Plan

    assert isinstance(made, Plan)
    for line in (*made.changes, *made.drift):
        click.echo(line)
    if not made.changes:
        click.echo("nothing to change")
