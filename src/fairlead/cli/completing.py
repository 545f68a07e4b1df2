"""What a shell completes: the services, lines, versions, artifacts and keys of the home that is meant.

The shell calls `fairlead` again for each Tab. So nothing here may be slow, print, or fail: what cannot be read
completes to nothing. Parameters get their values by their name, so a new command has them without asking.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from fairlead.domain.catalog import Catalog, Service
    from fairlead.wiring.homes import Control

Values = Callable[[click.Context], Iterable[str]]


class Known(click.types.StringParamType):
    """A text of which some are known."""

    def __init__(self, values: Values) -> None:
        self._values = values

    def shell_complete(
        self,
        ctx: click.Context,
        param: click.Parameter,  # noqa: ARG002 - the library's signature
        incomplete: str,
    ) -> list[CompletionItem]:
        try:
            return [CompletionItem(one) for one in self._values(ctx) if one.startswith(incomplete)]
        except Exception:  # noqa: BLE001 - somebody types: no home, no right or no sense is no value
            return []


def with_values(command: click.Command) -> click.Command:
    """The command, its parameters completing what their names stand for."""
    for parameter in command.params:
        values = _VALUES.get(parameter.name or "")
        if values is not None and parameter.type is click.STRING:
            parameter.type = Known(values)
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            with_values(inner)
            for parameter in inner.params:
                if command.name == "keys" and parameter.name == "name" and name != "create":
                    parameter.type = Known(_keys)
    return command


def _control(ctx: click.Context) -> Control:
    from fairlead.wiring.control import control_for

    return control_for(ctx.params.get("home"), lambda _: None)


def _catalog(ctx: click.Context) -> Catalog:
    return _control(ctx).catalogs.read()


def _services(ctx: click.Context) -> Iterable[str]:
    return sorted(_catalog(ctx).services)


SERVICES = Known(_services)


def _service(ctx: click.Context) -> Service:
    # Behind an option that still lacks its value the library has sorted nothing into parameters yet.
    return _catalog(ctx).service(ctx.params["service"] or ctx.args[0])


def _lines(ctx: click.Context) -> Iterable[str]:
    return _service(ctx).lines


def _targets(ctx: click.Context) -> Iterable[str]:
    """Services, their lines and their revisions."""
    for name, service in sorted(_catalog(ctx).services.items()):
        yield name
        for line in service.lines.values():
            yield str(line.id)
            yield from (str(revision.id) for revision in line.in_order())


def _shares(ctx: click.Context) -> Iterable[str]:
    service = _service(ctx)
    return [f"{name}=" for name in service.lines[ctx.params["line"]].revisions]


def _versions(ctx: click.Context) -> Iterable[str]:
    lines = _service(ctx).lines
    exact = [f"{name}.{tag}" for name, line in lines.items() for tag in line.revisions]
    return ["latest", *lines, *exact]


def _models(ctx: click.Context) -> Iterable[str]:
    """The lines of all services: a release file's `model`."""
    return sorted({name for service in _catalog(ctx).services.values() for name in service.lines})


def _pins(ctx: click.Context) -> Iterable[str]:
    services = _catalog(ctx).services.values()
    return [f"{service.name}={line}" for service in services for line in service.lines]


def _artifacts(ctx: click.Context) -> Iterable[str]:
    return map(str, _control(ctx).artifacts.refs())


def _keys(ctx: click.Context) -> Iterable[str]:
    return sorted(_catalog(ctx).keys)


def _codes(_: click.Context) -> Iterable[str]:
    from fairlead.domain.errors import Kind
    from fairlead.domain.explanations import OUTCOMES

    return [*map(str, Kind), *(code for code, _, _ in OUTCOMES)]


_VALUES: Mapping[str, Values] = {
    "service": _services,
    "services": _services,
    "line": _lines,
    "target": _targets,
    "shares": _shares,
    "only": _models,
    "accept_version": _versions,
    "pins": _pins,
    "artifact": _artifacts,
    "artifacts": _artifacts,
    "code": _codes,
}
