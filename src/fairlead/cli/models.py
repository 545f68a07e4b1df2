"""Artifacts: publish, list, show, remove."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fairlead.cli.common import home_option, json_option, say, table
from fairlead.domain.batching import batching_to_json
from fairlead.domain.errors import InvalidInput, Problem
from fairlead.domain.ids import ArtifactRef, RevisionId
from fairlead.domain.measured import Measured, measured_from_bytes
from fairlead.domain.signature import TensorSignature, TensorSpec
from fairlead.kits.sizes import mebibytes
from fairlead.kits.terminal import one_line

if TYPE_CHECKING:
    from fairlead.control.shelf import Removed

_LABELS_SHOWN = 8
_USERS_SHOWN = 3
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
    """List every artifact of the store, and the revisions that are made of it."""
    from fairlead.control.shelf import users
    from fairlead.wiring.control import control_for

    control = control_for(home, say)
    used = users(control.catalogs.read())
    manifests = [control.artifacts.manifest(ref) for ref in control.artifacts.refs()]
    if as_json:
        rows = [
            {
                "artifact": str(one.ref),
                "engine": one.engine,
                "bytes": one.size,
                "digest": one.digest,
                "usedBy": [str(revision) for revision in sorted(used.get(one.ref, ()))],
            }
            for one in manifests
        ]
        click.echo(json.dumps(rows, indent=1))
        return 0
    lines = [
        (
            str(one.ref),
            one.engine,
            mebibytes(one.size),
            one.digest[:19] + "…",
            _users(used.get(one.ref, [])),
        )
        for one in manifests
    ]
    click.echo(
        table(("ARTIFACT", "ENGINE", "SIZE", "DIGEST", "USED BY"), lines)
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

    ref = _ref(artifact)
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


@models.command()
@click.argument("artifacts", nargs=-1, required=True, metavar="NAME/VERSION...")
@home_option
def rm(artifacts: tuple[str, ...], home: Path | None) -> int:
    """Remove artifacts from the store, with the files that no other artifact shares.

    One that a revision names is refused, with traffic or without: `fairlead delete` that revision first.

    Example: fairlead models rm sentiment/1
    """
    from fairlead.control.shelf import remove
    from fairlead.wiring.control import control_for

    refs = list(dict.fromkeys(map(_ref, artifacts)))
    control = control_for(home, say)
    return _told(remove(control.catalogs, control.artifacts, control.clock, refs))


@models.command()
@home_option
@click.option(
    "--keep",
    default=3,
    show_default=True,
    type=click.IntRange(0),
    help="The newest versions of each name that stay in any case.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
def prune(home: Path | None, keep: int, dry_run: bool) -> int:
    """Remove the artifacts that no revision names, and what interrupted uploads have left.

    The newest versions of each name stay, and all that a revision names, with traffic or without.
    """
    from fairlead.control import shelf
    from fairlead.wiring.control import control_for

    control = control_for(home, say)
    if dry_run:
        used = shelf.users(control.catalogs.read())
        refs = shelf.old(control.artifacts.refs(), used, keep)
        size = sum(meta.size for meta in control.artifacts.unnamed(refs))
        for ref in refs:
            click.echo(f"would remove {ref}")
        click.echo(f"{_amount(len(refs))}, {mebibytes(size)} would be freed")
        return 0
    return _told(shelf.prune(control.catalogs, control.artifacts, control.clock, keep))


def _told(removed: Removed) -> int:
    for ref in removed.refs:
        click.echo(f"removed {ref}")
    if removed.problem:
        say(f"their files stay until the next removal: {removed.problem}")
        return 1
    click.echo(f"{_amount(len(removed.refs))}, {mebibytes(removed.freed)} freed")
    return 0


def _users(revisions: Sequence[RevisionId]) -> str:
    named = ", ".join(map(str, sorted(revisions)[:_USERS_SHOWN]))
    more = len(revisions) - _USERS_SHOWN
    return f"{named} and {more} more" if more > 0 else named or "-"


def _amount(count: int) -> str:
    return f"{count} artifact{'' if count == 1 else 's'}"


def _ref(text: str) -> ArtifactRef:
    try:
        return ArtifactRef.parse(text)
    except ValueError as error:
        raise InvalidInput("", [Problem("ARTIFACT", f"is {text!r}", str(error))]) from None


def _measured(path: Path) -> Measured | None:
    """What this node found out about batching; None if it has not served the artifact, or had no need to know."""
    return measured_from_bytes(path.read_bytes()) if path.is_file() else None


def _tensors(title: str, specs: tuple[TensorSpec, ...]) -> str:
    listed = ", ".join(f"{spec.name} {spec.datatype}{list(spec.shape)}" for spec in specs)
    return f"{title:<9} {listed}"
