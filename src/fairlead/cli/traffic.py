"""Moving traffic by command: pins, splits, the kill switch."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import click

from fairlead.cli.common import home_option, say
from fairlead.control.catalogs import Change
from fairlead.domain.catalog import (
    Catalog,
    Kill,
    told_to_callers,
    with_kill,
    with_pin,
    with_traffic,
)
from fairlead.domain.ids import LineId
from fairlead.domain.reading import Node
from fairlead.domain.release import TrafficShare, check_traffic
from fairlead.domain.superseded import Made

_SHARE = re.compile(r"([^=]+)=([0-9]{1,3})%?")


@click.command()
@click.argument("service")
@click.argument("line")
@home_option
def pin(service: str, line: str, home: Path | None) -> int:
    """Let `latest`, and requests without Accept-Version, mean LINE of SERVICE.

    Example: fairlead pin sentiment v2
    """
    return _change(
        home,
        lambda catalog: with_pin(catalog, LineId(service, line)),
        lambda catalog: Made(catalog, pins=frozenset({service})),
        f"pin {service} {line}",
    )


@click.command()
@click.argument("service")
@click.argument("line")
@click.argument("shares", nargs=-1, required=True, metavar="REVISION=PERCENT...")
@home_option
def traffic(service: str, line: str, shares: tuple[str, ...], home: Path | None) -> int:
    """Split LINE's traffic over its revisions; the percents sum to 100.

    Example: fairlead traffic sentiment v1 1=90 2=10
    """
    wanted, moved = _shares(shares), LineId(service, line)
    return _change(
        home,
        lambda catalog: with_traffic(catalog, moved, wanted),
        lambda catalog: Made(catalog, lines=frozenset({moved})),
        f"traffic {service} {line} {' '.join(shares)}",
    )


@click.command()
@click.argument("service")
@click.option(
    "--message",
    default="This service is switched off",
    show_default=True,
    help="What its callers are told: one line.",
)
@home_option
def kill(service: str, message: str, home: Path | None) -> int:
    """Switch SERVICE off at once: every call gets 503 and MESSAGE. Its models stay loaded.

    Example: fairlead kill sentiment --message "wrong answers since noon; back at 15:00"
    """
    from fairlead.kits.clock import SystemClock

    told, at = told_to_callers(message), SystemClock().now()

    def killed(catalog: Catalog) -> Catalog:
        return with_kill(catalog, service, Kill(told, at))

    return _change(home, killed, _switch(service), f"kill {service}")


@click.command()
@click.argument("service")
@home_option
def revive(service: str, home: Path | None) -> int:
    """Switch SERVICE on again."""
    return _change(
        home,
        lambda catalog: with_kill(catalog, service, None),
        _switch(service),
        f"revive {service}",
    )


def _switch(service: str) -> Callable[[Catalog], Made]:
    return lambda catalog: Made(catalog, switches=frozenset({service}))


def _change(
    home: Path | None, change: Change, made: Callable[[Catalog], Made], message: str
) -> int:
    from fairlead.control import catalogs
    from fairlead.wiring.control import control_for
    from fairlead.wiring.settle import settle

    control = control_for(home, say)
    before = control.catalogs.read().generation
    catalog = catalogs.change(control.catalogs, control.clock, change, message)
    if catalog.generation == before:
        click.echo("nothing to change")
        return 0
    settle(control, made(catalog), 30.0, say)
    return 0


def _shares(texts: tuple[str, ...]) -> tuple[TrafficShare, ...]:
    node = Node(list(texts), "traffic")
    shares = []
    for text in texts:
        match = _SHARE.fullmatch(text)
        if match is None:
            node.wrong(f"{text!r} is no share", "write REVISION=PERCENT: 2=10")
        else:
            shares.append(TrafficShare(match[1], int(match[2])))
    if not node.problems:
        check_traffic(node, shares)
    node.done("")
    return tuple(shares)
