"""`fairlead up`: everything on this machine."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fairlead.cli.common import address_options, home_option, release_variables, say
from fairlead.domain.errors import InvalidInput, Problem
from fairlead.domain.ids import LineId
from fairlead.domain.reading import SUFFIXES, Variables
from fairlead.kits.addresses import is_loopback
from fairlead.kits.terminal import one_line

if TYPE_CHECKING:
    from fairlead.wiring.up import UpOptions

_RELEASES = "releases"
_MODELS = "models"


@click.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="[FILE...]")
@release_variables
@home_option
@address_options
@click.option(
    "--models",
    multiple=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of models to publish when a release names them: <name>/<version>/model.yaml. Default: ./models.",
)
@click.option(
    "--pin",
    "pins",
    multiple=True,
    metavar="SERVICE=LINE",
    help="Pin a service that nobody has pinned yet.",
)
def up(files: tuple[Path, ...], home: Path | None, variables: Variables, **given: object) -> int:
    """Run everything on this machine until Ctrl-C: agent, workers and gateway.

    FILEs are release files (default: ./releases/*). What they name and the store lacks is published first.
    A file whose content is what was last applied changes nothing: what you moved by command stands.
    """
    from fairlead.kits import memory
    from fairlead.wiring import up as running
    from fairlead.wiring.control import control_for
    from fairlead.wiring.homes import read_releases

    options = _options(given)
    sourced = read_releases(list(files) or _found_releases(), variables)
    control = control_for(home or _local_home(), say, create=True)
    with running.only_one(control.home):
        running.wait_for_predecessors(control, say)
        running.check_port(control.home, options)
        folders = running.missing_artifacts(control, sourced, options.models)
        if folders:
            asyncio.run(running.publish_folders(control, folders))
        running.prepare(control, sourced, options, say)
        if not (is_loopback(options.host) or options.tls_cert):
            say(
                "keys and data travel unencrypted: give --tls-cert and --tls-key, or put TLS in front"
            )
        say(f"starting in {control.home.root} (Ctrl-C stops everything)")

        def ready(seconds: float) -> None:
            from fairlead.wiring.banner import banner

            click.echo(banner(control, options.url, options.root, seconds))

        def tell(line: str) -> None:
            click.echo(one_line(line))

        memory.settle(clean=False)  # what has been imported: from here on it stays
        return asyncio.run(running.run(control, options, tell, ready))


def _options(given: dict[str, object]) -> UpOptions:
    from fairlead.server.settings import serving_settings_from
    from fairlead.wiring import up as running
    from fairlead.wiring.settings import environment

    found = environment()
    cert, key = given["tls_cert"] or found.tls_cert, given["tls_key"] or found.tls_key
    if (cert is None) != (key is None):
        raise InvalidInput("", [Problem("--tls-cert", "goes with --tls-key", "give both or none")])
    for path in (cert, key):
        if path is not None and not Path(str(path)).is_file():
            raise InvalidInput(
                "", [Problem("--tls-cert/--tls-key", f"{path} is no file", "name a PEM file")]
            )
    if cert is not None and key is not None:
        _check_pair(Path(str(cert)), Path(str(key)))
    return running.UpOptions(
        host=str(given["host"] or found.host),
        port=int(str(given["port"] or found.port)),
        models=tuple(given["models"] or (Path(_MODELS),)),  # type: ignore[arg-type]
        pins=tuple(_pin(text) for text in given["pins"]),  # type: ignore[attr-defined]
        tls_cert=Path(str(cert)).resolve() if cert else None,
        tls_key=Path(str(key)).resolve() if key else None,
        root=serving_settings_from(found.serving).root,
    )


def _check_pair(cert: Path, key: Path) -> None:
    import ssl

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key)
    except (ssl.SSLError, OSError) as error:
        why = getattr(error, "reason", None) or error
        problem = Problem(
            "--tls-cert/--tls-key",
            f"{cert} and {key} are no pair ({why})",
            "name a PEM certificate and its private key",
        )
        raise InvalidInput("", [problem]) from None


def _pin(text: str) -> LineId:
    service, equals, line = text.partition("=")
    if not equals or not service or not line:
        raise InvalidInput(
            "", [Problem("--pin", f"is {text!r}", "write SERVICE=LINE: sentiment=v2")]
        )
    return LineId(service, line)


def _found_releases() -> list[Path]:
    found = sorted(path for path in Path(_RELEASES).glob("*") if path.suffix in SUFFIXES)
    if not found:
        message = "there are no release files here"
        raise InvalidInput(
            "",
            [
                Problem(
                    "", message, f"name some, put them into ./{_RELEASES}/, or run `fairlead init`"
                )
            ],
        )
    return found


def _local_home() -> Path | None:
    """`up` starts something new here, so it does not take over a home further up by chance."""
    from fairlead.wiring.settings import HOME, environment

    return environment().home or Path.cwd() / HOME
