"""`fairlead predict`: ask a service from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from fairlead.cli.common import home_option, say, text_of


@click.command()
@click.argument("service")
@click.argument("instances", nargs=-1, metavar="[DATA...]")
@home_option
@click.option(
    "--version",
    "accept_version",
    help="Accept-Version: v9, v9.2 or latest (default: the pinned line).",
)
@click.option("--sticky-key", help="X-Sticky-Key: who asks, as far as a split is concerned.")
@click.option("--key", help="The key to send. Default: FAIRLEAD_API_KEY, else the home's demo key.")
@click.option("--url", help="The gateway. Default: the one that runs here.")
@click.option("-v", "--verbose", is_flag=True, help="Also say what served it.")
def predict(service: str, instances: tuple[str, ...], home: Path | None, **options: Any) -> int:
    """Ask SERVICE. Each DATA is one instance: JSON, or plain text for a text model.

    An object with "instances", or one that a code-only model takes, is sent as it is; @FILE reads a file,
    - reads standard input; without DATA the model's own first golden example is sent.

    Examples: fairlead predict sentiment "what a lovely day"; fairlead predict digits @request.json
    """
    from fairlead.wiring.asking import ask
    from fairlead.wiring.control import control_for

    control = control_for(home, say)
    verbose = options.pop("verbose")
    answer = ask(control, service, [_value(text_of(text)) for text in instances], **options)
    click.echo(
        json.dumps(answer.body, indent=1, ensure_ascii=False)
        if not isinstance(answer.body, str)
        else answer.body
    )
    if verbose or answer.status >= 400:  # noqa: PLR2004 - HTTP's own line
        say(
            f"{answer.status} {answer.reason}  version {answer.version or '-'}  request {answer.request_id}"
        )
    return 0 if answer.status < 400 else 1  # noqa: PLR2004 - HTTP's own line


def _value(text: str) -> Any:
    """An instance: JSON, or if it is none the text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
