"""`fairlead docs`: reference pages, generated from the code."""

from __future__ import annotations

import json

import click


@click.group()
def docs() -> None:
    """Reference pages, generated from the code."""


@docs.command()
@click.option("--schema", is_flag=True, help="The JSON Schema, for editors.")
def release(schema: bool) -> int:
    """Show the release file: every key, its type and its meaning."""
    from fairlead.control.reference import release_page
    from fairlead.domain.release import json_schema

    click.echo(json.dumps(json_schema(), indent=2) if schema else release_page())
    return 0


@docs.command()
@click.argument("code", required=False)
def errors(code: str | None) -> int:
    """Show every error code, or one: what it means, usual causes, what to do."""
    from fairlead.wiring.errors_page import errors_page, section

    click.echo(section(code) if code else errors_page())
    return 0


@docs.command()
def environment() -> int:
    """Show every environment variable Fairlead reads."""
    from fairlead.wiring.reference import environment_page

    click.echo(environment_page())
    return 0
