"""Opening a home: made once, marked with its schema, refused if a newer Fairlead wrote it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from fairlead.adapters.documents import read_document
from fairlead.adapters.secrets import SecretsFile
from fairlead.adapters.store.artifacts import StoredArtifacts
from fairlead.adapters.store.catalogs import StoredCatalogs
from fairlead.adapters.store.directory import DirectoryObjectStore
from fairlead.control.releases import SourcedRelease
from fairlead.domain.errors import FairleadError, Kind
from fairlead.domain.layout import SCHEMA, Home
from fairlead.domain.manifest import check_schema
from fairlead.domain.release import release_from_document
from fairlead.kits import files
from fairlead.kits.clock import Clock, SystemClock
from fairlead.wiring.settings import HOME, home_at, nearest_home


@dataclass(frozen=True, slots=True)
class Control:
    """Everything a command needs of one home."""

    home: Home[Path]
    store: DirectoryObjectStore
    catalogs: StoredCatalogs
    artifacts: StoredArtifacts
    secrets: SecretsFile
    clock: Clock


def open_home(root: Path | None, *, create: bool = False) -> Control:
    """Open the home at `root`, or the nearest one upwards from here; `create` makes one if there is none.

    Raises FairleadError if there is none, or if a newer Fairlead wrote it.
    """
    if root is None:
        root = nearest_home(Path.cwd()) or Path.cwd() / HOME
    home = home_at(root)
    marker = files.read_json(home.marker)
    if marker is not None:
        check_schema(marker, SCHEMA, str(home.root))
    elif create:
        _create(home)
    else:
        message = f"there is no Fairlead home at {home.root}: `fairlead up` or `fairlead publish` makes one, --home names another"
        raise FairleadError(message, kind=Kind.NOT_FOUND)
    store = DirectoryObjectStore(home.store)
    clock = SystemClock()
    return Control(
        home,
        store,
        StoredCatalogs(store, clock),
        StoredArtifacts(store),
        SecretsFile(home.keys),
        clock,
    )


def make_sockets(home: Home[Path]) -> None:
    """Make the directory of a home's sockets; raises FairleadError if it is not ours alone."""
    try:
        files.private_directory(home.sockets)
    except OSError as error:
        message = f"cannot use the socket directory: {error}"
        raise FairleadError(message, kind=Kind.CONFLICT) from None


def read_releases(paths: list[Path]) -> list[SourcedRelease]:
    """Read release files; raises InvalidInput with every problem of the first wrong file."""
    return [
        SourcedRelease(str(path), release_from_document(read_document(path), str(path)))
        for path in paths
    ]


def _create(home: Home[Path]) -> None:
    if home.root.exists() and any(home.root.iterdir()):
        message = (
            f"{home.root} is not empty and no Fairlead home: choose another directory with --home"
        )
        raise FairleadError(message, kind=Kind.CONFLICT)
    # Logs, models and who may call what are nobody else's; a directory that is there already is left as it is.
    home.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    home.store.mkdir(parents=True, exist_ok=True)  # once: a store that is gone later is told
    files.write_atomic(home.marker, json.dumps({"schema": SCHEMA}).encode())
