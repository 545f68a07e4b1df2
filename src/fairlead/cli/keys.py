"""Keys: made, shown once, scoped, limited, rotated, killed, revoked, listed without their secrets."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from fairlead.cli.common import home_option, json_option, say, table
from fairlead.cli.completing import SERVICES
from fairlead.domain.keys import KeyRecord, Quota, Rate, Scope
from fairlead.domain.uses import Use

if TYPE_CHECKING:
    from fairlead.wiring.homes import Control

_DURATION = re.compile(r"([0-9]{1,6})(s|m|h|d)")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_NONE = "none"
_LIVE_SECONDS = 10.0  # a gateway that runs takes tenths of one


class _Scope(click.ParamType[Scope]):
    name = "scope"

    def convert(self, value: Any, param: Any, ctx: Any) -> Scope:
        try:
            return value if isinstance(value, Scope) else Scope.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return SERVICES.shell_complete(ctx, param, incomplete)


class _Duration(click.ParamType[float]):
    name = "duration"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        found = _DURATION.fullmatch(str(value))
        if found is None:
            self.fail(f"{value!r} is no time: write a number and a unit: 30m, 24h, 7d", param, ctx)
        return float(int(found[1]) * _UNITS[found[2]])


@click.group()
def keys() -> None:
    """The keys of callers: sent as X-Api-Key, never passed on to a model."""


@keys.command()
@click.argument("name")
@click.option(
    "--allow",
    "--service",
    "scopes",
    multiple=True,
    type=_Scope(),
    metavar="SERVICE[/LINE][:VERB]",
    help="Only this; VERB is infer or read (repeat for more). Default: everything.",
)
@click.option("--rate", help="At most so many requests: 100/s, 600/min, 5000/h. Default: no limit.")
@click.option(
    "--burst",
    type=click.IntRange(1, 999_999_999),
    help="So many of them at once after a rest. Default: what one unit of time allows.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 999_999_999),
    help="At most so many requests at the same time. Default: no limit.",
)
@home_option
def create(
    *,
    name: str,
    scopes: tuple[Scope, ...],
    rate: str | None,
    burst: int | None,
    concurrency: int | None,
    home: Path | None,
) -> int:
    """Make a key called NAME. Its secret is printed once, here; nobody can show it again.

    Example: fairlead keys create phone-app --allow speech/v9:infer --rate 100/s --concurrency 8
    """
    control = _control(home, create=True)
    secret = control.keys.create(name, scopes, Quota(_rate(rate, burst), concurrency))
    try:
        _live(control, name)
    finally:  # nobody can show it again, whatever becomes of the wait
        click.echo(secret)
    return 0


@keys.command()
@click.argument("name")
@click.option(
    "--overlap",
    type=_Duration(),
    default="0s",
    help="How long the old secret works on, then it stops by itself: 30m, 24h, 7d. Default: it ends at once.",
)
@home_option
def rotate(name: str, overlap: float, home: Path | None) -> int:
    """Give NAME a new secret, printed once. The old one stops at once, or after --overlap.

    Example: fairlead keys rotate phone-app --overlap 24h
    """
    control = _control(home)
    secret = control.keys.rotate(name, overlap)
    try:
        _live(control, name)
    finally:  # nobody can show it again, whatever becomes of the wait
        click.echo(secret)
    return 0


@keys.command()
@click.argument("name")
@click.argument(
    "scopes", nargs=-1, required=True, type=_Scope(), metavar="SERVICE[/LINE][:VERB]..."
)
@home_option
def allow(name: str, scopes: tuple[Scope, ...], home: Path | None) -> int:
    """Let NAME ask this and nothing else from now on; its secret stays.

    Example: fairlead keys allow phone-app speech/v9:infer '*:read'
    """
    control = _control(home)
    control.keys.allow(name, scopes)
    _live(control, name)
    click.echo(f"{name} may ask {' '.join(map(str, scopes))}")
    return 0


@keys.command()
@click.argument("name")
@click.option("--rate", help="At most so many requests: 100/s, 600/min, 5000/h; none: no limit.")
@click.option(
    "--burst",
    type=click.IntRange(1, 999_999_999),
    help="So many of them at once after a rest. Default: what one unit of time allows.",
)
@click.option("--concurrency", help="At most so many requests at the same time; none: no limit.")
@home_option
def limit(
    name: str, rate: str | None, burst: int | None, concurrency: str | None, home: Path | None
) -> int:
    """Change what NAME may ask of all services together; whatever is over it gets 429.

    Example: fairlead keys limit phone-app --rate 600/min --concurrency none
    """
    if rate is None and concurrency is None and burst is None:
        raise click.UsageError("give --rate, --burst or --concurrency")
    if rate == _NONE and burst is not None:
        raise click.UsageError("--burst needs a --rate")
    most = _most(concurrency)
    control = _control(home)

    def changed(quota: Quota) -> Quota:
        if rate is not None:
            quota = replace(quota, rate=None if rate == _NONE else _rate(rate, burst))
        elif burst is not None:
            if quota.rate is None:
                raise click.UsageError("--burst needs a --rate")
            quota = replace(quota, rate=replace(quota.rate, burst=burst))
        return quota if concurrency is None else replace(quota, concurrency=most)

    quota = control.keys.limit(name, changed)
    _live(control, name)
    click.echo(f"{name}: {quota}")
    return 0


@keys.command()
@click.argument("name")
@click.option("--message", required=True, help="What its callers are told, with 403.")
@home_option
def kill(name: str, message: str, home: Path | None) -> int:
    """Refuse whatever NAME asks, until `keys revive`; its secret, scopes and quota stay.

    Example: fairlead keys kill phone-app --message "too many malformed requests: call the platform team"
    """
    control = _control(home)
    control.keys.kill(name, message)
    _live(control, name)
    click.echo(f"killed {name}")
    return 0


@keys.command()
@click.argument("name")
@home_option
def revive(name: str, home: Path | None) -> int:
    """Let the killed key NAME work again."""
    control = _control(home)
    control.keys.revive(name)
    _live(control, name)
    click.echo(f"revived {name}")
    return 0


@keys.command()
@click.argument("name")
@home_option
def revoke(name: str, home: Path | None) -> int:
    """Take the key NAME away."""
    control = _control(home)
    control.keys.revoke(name)
    _live(control, name)
    click.echo(f"revoked {name}")
    return 0


@keys.command()
@home_option
@json_option
def ls(home: Path | None, as_json: bool) -> int:
    """List the keys: what each may ask, whether it works, when it was last used, the start of its secret's SHA-256."""
    from fairlead.wiring.observe import key_uses

    control = _control(home)
    uses, now = key_uses(control), control.clock.now()
    found = sorted(control.catalogs.read().keys.values(), key=lambda key: key.client)
    if as_json:
        shown = [_document(key, uses.get(key.client, Use()), now) for key in found]
        click.echo(json.dumps(shown, indent=1, ensure_ascii=False))
        return 0
    rows = [_row(key, uses.get(key.client, Use()), now) for key in found]
    header = ("NAME", "ALLOW", "QUOTA", "STATE", "LAST USED", "REQUESTS", "CREATED", "SHA-256")
    click.echo(table(header, rows) if rows else "no keys yet")
    return 0


def _row(key: KeyRecord, use: Use, now: float) -> Sequence[str]:
    from fairlead.kits.clock import iso

    state = [f"killed: {key.killed}"] if key.killed else ["works"]
    state += [
        f"old {one.fingerprint} until {iso(one.until)}" for one in key.retiring if one.until > now
    ]
    return (
        key.client,
        " ".join(map(str, key.allow)) or "nothing",
        str(key.quota),
        "; ".join(state),
        _ago(use, now),
        str(use.requests),
        iso(key.created_at),
        key.fingerprint,
    )


def _document(key: KeyRecord, use: Use, now: float) -> dict[str, Any]:
    rate = key.quota.rate
    return {
        "name": key.client,
        "allow": [str(scope) for scope in key.allow],
        "rate": str(rate) if rate else None,
        "concurrency": key.quota.concurrency,
        "killed": key.killed or None,
        "created_at": key.created_at,
        "fingerprint": key.fingerprint,
        "old": [
            {"fingerprint": one.fingerprint, "until": one.until}
            for one in key.retiring
            if one.until > now
        ],
        "last_used": use.last_used or None,
        "requests": use.requests,
        "refused": {str(status): count for status, count in sorted(use.refused.items())},
    }


def _ago(use: Use, now: float) -> str:
    if not use.last_used:
        return "never"
    minutes = max(0, int(now - use.last_used)) // 60
    if minutes < 1:
        return "now"
    hours = minutes // 60
    if hours < 1:
        return f"{minutes} min ago"
    return f"{hours} h ago" if hours < 48 else f"{hours // 24} days ago"  # noqa: PLR2004 - two days


def _rate(text: str | None, burst: int | None) -> Rate | None:
    if text is None:
        if burst is not None:
            raise click.UsageError("--burst needs a --rate")
        return None
    try:
        return Rate.parse(text, burst)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--rate") from None


def _most(text: str | None) -> int | None:
    if text is None or text == _NONE:
        return None
    if not text.isdecimal() or not 0 < int(text) < 10**9:
        raise click.BadParameter(
            f"{text!r} is no limit: write a whole number from 1 up, or none",
            param_hint="--concurrency",
        )
    return int(text)


def _control(home: Path | None, *, create: bool = False) -> Control:
    from fairlead.wiring.control import control_for

    return control_for(home, say, create=create)


def _live(control: Control, client: str) -> None:
    from fairlead.domain.superseded import Made
    from fairlead.wiring.settle import settle

    made = Made(control.catalogs.read(), keys=frozenset({client}))
    settle(control, made, _LIVE_SECONDS, say)
