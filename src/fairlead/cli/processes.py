"""The processes `fairlead up` starts, for those who run them themselves."""

from __future__ import annotations

from pathlib import Path

import click

from fairlead.cli.common import address_options, home_option, say

_LIFE_FD = click.option(
    "--life-fd", type=int, hidden=True, help="End when this descriptor reads as closed."
)


@click.command()
@home_option
@_LIFE_FD
def agent(home: Path | None, life_fd: int | None) -> int:
    """Run this node's agent: pulls artifacts, starts workers, proves them.

    Stopped alone, it leaves its workers running; the next agent adopts them.
    """
    from fairlead.wiring.processes import run_agent

    return run_agent(_root(home), life_fd)


@click.command()
@home_option
@_LIFE_FD
@address_options
def gateway(home: Path | None, life_fd: int | None, **address: object) -> int:
    """Run this node's gateway: configures and runs Envoy, answers what no worker does."""
    from fairlead.wiring.processes import run_gateway

    return run_gateway(_root(home), life_fd, address)


@click.command()
@click.option("--spec", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--spare", is_flag=True, help="Wait on standard input to be told which spec.")
@click.option(
    "--home", type=click.Path(path_type=Path), expose_value=False, help="Whose spare it is."
)
def worker(spec: Path | None, *, spare: bool) -> int:
    """Run one worker by its spec file."""
    from fairlead.wiring.running import run_spare, run_worker

    if spare == (spec is not None):
        raise click.UsageError("give --spec FILE, or --spare")
    return run_worker(spec) if spec is not None else run_spare()


def _root(home: Path | None) -> Path:
    from fairlead.wiring.control import control_for

    return control_for(home, say).home.root


@click.command()
@click.argument("what", nargs=-1, required=True, metavar="DIR|ARTIFACT...")
@home_option
@click.option("--host", help="Address. Default: FAIRLEAD_SERVING_UVICORN_HOST, else 127.0.0.1.")
@click.option(
    "--port",
    type=click.IntRange(1, 65_535),
    help="Port. Default: FAIRLEAD_SERVING_UVICORN_HTTP_PORT, else 8501.",
)
@click.option(
    "--grpc-port",
    type=click.IntRange(0, 65_535),
    help="Port for gRPC, 0 for none. Default: FAIRLEAD_SERVING_GRPC_PORT, else none.",
)
@click.option(
    "--workers", type=click.IntRange(1, 256), help="Processes that share the port. Default: 1."
)
@click.option(
    "--access-log/--no-access-log", default=True, help="One line for each request (default)."
)
def serve(what: tuple[str, ...], home: Path | None, **given: object) -> int:
    """Serve models directly over HTTP and gRPC, without a gateway and without keys.

    Each is a folder with a model.yaml, or a published artifact (<name>/<version>). The artifact's name is
    the service's. Settings come from FAIRLEAD_SERVING_ variables too.
    """
    from fairlead.wiring.serving import serve as run

    return run(what, home, dict(given), say)
