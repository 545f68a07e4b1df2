"""`fairlead why`: what was decided, and by which figures."""

from __future__ import annotations

import click

from fairlead.cli.requests import OrRequest


@click.group(cls=OrRequest, subcommand_metavar="REQUEST-ID [OPTIONS]")
def why() -> None:
    """Say why something went as it went.

    With a request's id (the X-Request-Id of its answer): its key, the rule that chose, its bucket, revision,
    artifact, worker, times and retries, and how it ended. `fairlead why REQUEST-ID --help` lists the options.
    """
