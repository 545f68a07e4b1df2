"""Opening a home: made once, marked with its schema, refused if a newer Fairlead wrote it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairlead.adapters.secrets import SecretsFile
from fairlead.adapters.store.artifacts import StoredArtifacts
from fairlead.adapters.store.catalogs import StoredCatalogs
from fairlead.adapters.store.directory import DirectoryObjectStore
from fairlead.adapters.store.reports import StoredReports
from fairlead.control.keys import Keys
from fairlead.control.releases import SourcedRelease
from fairlead.domain.errors import FairleadError, InvalidInput, Kind, Problem
from fairlead.domain.ids import RevisionId
from fairlead.domain.layout import SCHEMA, Home
from fairlead.domain.manifest import check_schema
from fairlead.domain.reading import JSONNET, NO_VARIABLES, Variables
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

    @property
    def keys(self) -> Keys:
        return Keys(self.catalogs, self.secrets, self.clock)

    def in_use(self) -> frozenset[RevisionId]:
        """The revisions that some node runs, or waits for, as the nodes said last."""
        reports = StoredReports(self.store).read()
        return frozenset(replica.revision for one in reports for replica in one.replicas)


def open_home(root: Path | None, *, create: bool = False) -> Control:
    """Open the home at `root`, or the nearest one upwards from here; `create` makes one if there is none.

    Raises FairleadError if there is none, or if a newer Fairlead wrote it.
    """
    if root is None:
        root = nearest_home(Path.cwd()) or Path.cwd() / HOME
    home = home_at(root)
    marker = _marker(home)
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


def read_releases(paths: list[Path], variables: Variables = NO_VARIABLES) -> list[SourcedRelease]:
    """Read release files; raises InvalidInput with every problem of the first wrong file.

    `variables` are for Jsonnet files.
    """
    if variables and not any(path.suffix == JSONNET for path in paths):
        wrong, right = "is given, but no file is Jsonnet", "leave it out, or name a .jsonnet file"
        raise InvalidInput("", [Problem("--var", wrong, right)])
    from fairlead.adapters.documents import read_document  # YAML: most that open a home read none

    return [
        SourcedRelease(str(path), release_from_document(read_document(path, variables), str(path)))
        for path in paths
    ]


def record_in(path: Path) -> dict[str, Any]:
    """What a process wrote of itself; empty if there is nothing, or nothing that can be read."""
    try:
        record = files.read_json(path)
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _marker(home: Home[Path]) -> Any:  # noqa: ANN401 - a JSON value
    if home.root.exists() and not home.root.is_dir():
        message = f"{home.root} is no directory, so no Fairlead home: name another with --home"
        raise FairleadError(message, kind=Kind.CONFLICT)
    try:
        return files.read_json(home.marker)
    except ValueError:
        right = f'if its other files are there, write {{"schema": {SCHEMA}}} into it'
        raise InvalidInput(str(home.marker), [Problem("", "is damaged", right)]) from None


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
