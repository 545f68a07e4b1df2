"""Artifacts: publish, list, show."""

from __future__ import annotations

import json
from pathlib import Path

import click

from fairlead.cli.common import home_option, json_option, say, table
from fairlead.domain.batching import batching_to_json
from fairlead.domain.errors import InvalidInput, Problem
from fairlead.domain.ids import ArtifactRef
from fairlead.domain.measured import Measured, measured_from_bytes
from fairlead.domain.signature import TensorSignature, TensorSpec
from fairlead.kits.terminal import one_line

_LABELS_SHOWN = 8
_OUTCOMES = {
    "new": "published",
    "unchanged": "was published already, unchanged",
    "repaired": "was published already; its damaged files in the store are whole again",
}


@click.command()
@click.argument(
    "folders", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="DIR..."
)
@home_option
@click.option(
    "--timeout",
    default=300.0,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    help="Seconds a model may take to load and to answer its golden examples.",
)
def publish(folders: tuple[Path, ...], home: Path | None, timeout: float) -> int:
    """Load the model in each DIR, run its golden examples, and publish it as an immutable artifact.

    DIR holds model.yaml (name, version, engine), the model's files and golden.json. The same bytes again
    change nothing; other bytes under a published version are refused.
    """
    from fairlead.wiring.control import control_for
    from fairlead.wiring.publishing import check_folders, publish_folder

    check_folders(folders)
    control = control_for(home, say, create=True)
    for folder in folders:
        published = publish_folder(control, folder, say, timeout)
        done = _OUTCOMES[published.outcome]
        click.echo(f"{published.manifest.ref} {done} ({published.manifest.digest})")
    return 0


@click.group()
def models() -> None:
    """The published artifacts."""


@models.command()
@home_option
@json_option
def ls(home: Path | None, as_json: bool) -> int:
    """List every artifact of the store."""
    from fairlead.wiring.control import control_for

    control = control_for(home, say)
    manifests = [control.artifacts.manifest(ref) for ref in control.artifacts.refs()]
    if as_json:
        rows = [
            {
                "artifact": str(one.ref),
                "engine": one.engine,
                "bytes": one.size,
                "digest": one.digest,
            }
            for one in manifests
        ]
        click.echo(json.dumps(rows, indent=1))
        return 0
    lines = [
        (str(one.ref), one.engine, f"{one.size / (1 << 20):.1f} MiB", one.digest[:19] + "…")
        for one in manifests
    ]
    click.echo(
        table(("ARTIFACT", "ENGINE", "SIZE", "DIGEST"), lines)
        if lines
        else "nothing is published yet"
    )
    return 0


@models.command()
@click.argument("artifact")
@home_option
def show(artifact: str, home: Path | None) -> int:
    """Show one ARTIFACT (<name>/<version>): files, signature, digest."""
    from fairlead.wiring.control import control_for

    try:
        ref = ArtifactRef.parse(artifact)
    except ValueError as error:
        raise InvalidInput("", [Problem("ARTIFACT", f"is {artifact!r}", str(error))]) from None
    control = control_for(home, say)
    manifest = control.artifacts.manifest(ref)
    click.echo(
        f"artifact  {manifest.ref}\ndigest    {manifest.digest}\nengine    {manifest.engine}"
    )
    if isinstance(manifest.signature, TensorSignature):
        click.echo(_tensors("inputs", manifest.signature.inputs))
        click.echo(_tensors("outputs", manifest.signature.outputs))
        for name, texts in manifest.labels.items():
            more = f", … {len(texts)} in all" if len(texts) > _LABELS_SHOWN else ""
            shown = ", ".join(texts[:_LABELS_SHOWN])
            click.echo(one_line(f"labels    {name}: {shown}{more}"))
    else:
        click.echo(f"request   {json.dumps(manifest.signature.request)}")
        click.echo(f"response  {json.dumps(manifest.signature.response)}")
    if manifest.batching:
        click.echo(f"batching  {json.dumps(batching_to_json(manifest.batching))}")
    measured = _measured(control.home.measured(manifest.digest))
    if measured is not None:
        click.echo(f"measured  {measured}, when it was first proved on this node")
    for file in manifest.files:
        click.echo(f"file      {file.path} ({file.size} bytes, sha256:{file.sha256})")
    return 0


def _measured(path: Path) -> Measured | None:
    """What this node found out about batching; None if it has not served the artifact, or had no need to know."""
    return measured_from_bytes(path.read_bytes()) if path.is_file() else None


def _tensors(title: str, specs: tuple[TensorSpec, ...]) -> str:
    listed = ", ".join(f"{spec.name} {spec.datatype}{list(spec.shape)}" for spec in specs)
    return f"{title:<9} {listed}"
