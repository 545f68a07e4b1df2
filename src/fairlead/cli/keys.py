"""Keys: made, shown once, rotated, revoked, listed without their secrets."""

from __future__ import annotations

from pathlib import Path

import click

from fairlead.cli.common import home_option, say, table


@click.group()
def keys() -> None:
    """The keys of callers: sent as X-Api-Key, never passed on to a model."""


@keys.command()
@click.argument("name")
@click.option(
    "--service",
    "services",
    multiple=True,
    help="Only this service (repeat for more). Default: all.",
)
@home_option
def create(name: str, services: tuple[str, ...], home: Path | None) -> int:
    """Make a key called NAME. Its secret is printed once, here; nobody can show it again."""
    from fairlead.control import keys as control_keys
    from fairlead.wiring.control import control_for

    control = control_for(home, say, create=True)
    secret = control_keys.create(control.catalogs, control.secrets, control.clock, name, services)
    _live(control)
    click.echo(secret)
    return 0


@keys.command()
@click.argument("name")
@home_option
def rotate(name: str, home: Path | None) -> int:
    """Give NAME a new secret, printed once; the old one stops working at once."""
    from fairlead.control import keys as control_keys
    from fairlead.wiring.control import control_for

    control = control_for(home, say)
    secret = control_keys.rotate(control.catalogs, control.secrets, control.clock, name)
    _live(control)
    click.echo(secret)
    return 0


@keys.command()
@click.argument("name")
@home_option
def revoke(name: str, home: Path | None) -> int:
    """Take the key NAME away."""
    from fairlead.control import keys as control_keys
    from fairlead.wiring.control import control_for

    control = control_for(home, say)
    control_keys.revoke(control.catalogs, control.secrets, control.clock, name)
    _live(control)
    click.echo(f"revoked {name}")
    return 0


@keys.command()
@home_option
def ls(home: Path | None) -> int:
    """List the keys: name, services, age, and the start of the secret's SHA-256."""
    from fairlead.kits.clock import iso
    from fairlead.wiring.control import control_for

    control = control_for(home, say)
    rows = [
        (key.client, " ".join(key.services), iso(key.created_at), key.fingerprint)
        for key in sorted(control.catalogs.read().keys.values(), key=lambda key: key.client)
    ]
    click.echo(table(("NAME", "SERVICES", "CREATED", "SHA-256"), rows) if rows else "no keys yet")
    return 0


def _live(control: object) -> None:
    from fairlead.wiring.homes import Control
    from fairlead.wiring.settle import settle

    assert isinstance(control, Control)
    settle(control, (), 10.0, say)
