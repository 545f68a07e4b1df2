"""The files Envoy watches: one directory for each kind of resource, versions that count up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from fairlead.adapters.envoy.encoding import Encoder, version_of
from fairlead.adapters.envoy.texts import Texts
from fairlead.domain.layout import PROTOBUF_KINDS, watched_file
from fairlead.kits import files

Document = dict[str, Any]

KINDS = ("cds", "lds", "rds", "sds")
_MODE = 0o600  # the routes hold the keys, and sds the certificate's private one


class XdsFile:
    """One kind's file: `{"version_info": "7", "resources": […]}`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.torn = False  # may the file say something else than `resources`?
        self.version, self.resources = self._kept()
        self._watched = self._directory()

    @property
    def unwatched(self) -> bool:
        """Is the directory gone that Envoy watches? It sees nothing in another one of the same name."""
        return self._directory() != self._watched

    def write(self, resources: list[Document]) -> None:
        """Replace the file by the next version, and keep this very list; what cannot be written changes nothing."""
        self._flush(self.version + 1, resources)
        self.version += 1
        self.resources = resources
        self.torn = False

    def ensure(self) -> None:
        """Envoy, which is about to be started, does not start unless there is something to watch."""
        if not self.path.exists():
            self._flush(self.version, self.resources)
        self._watched = self._directory()

    def _directory(self) -> int | None:
        try:
            return self.path.parent.stat().st_ino
        except OSError:
            return None

    def _kept(self) -> tuple[int, list[Document]]:
        return _read(self.path)

    def _flush(self, version: int, resources: Sequence[Document]) -> None:
        document = {"version_info": str(version), "resources": list(resources)}
        _write(self.path, msgspec.json.encode(document))


class ProtobufFile(XdsFile):
    """Written as protobuf; what it says is kept as JSON beside the watched directory, for the gateway after this one.

    The JSON is written first. Whoever ends in between leaves two versions behind: then nobody knows what Envoy has.
    Neither waits for the disk, which may take longer than all the rest of a release: after a power cut no Envoy runs,
    and the next one is started with what is kept.
    """

    def __init__(self, path: Path) -> None:
        self._json = path.parents[1] / f"{path.stem}.json"
        self._encoder, self._texts = Encoder(), Texts()
        super().__init__(path)
        try:
            there = version_of(path.read_bytes())
        except FileNotFoundError:
            there = str(self.version)  # it is made of what is kept
        self.torn = there != str(self.version)
        if self.torn and there.isdecimal():
            self.version = max(self.version, int(there))

    def ensure(self) -> None:
        # As the versions before this one wrote it, keys and all.
        self.path.with_suffix(".json").unlink(missing_ok=True)
        if self.torn:
            self.write(self.resources)
        super().ensure()

    def _kept(self) -> tuple[int, list[Document]]:
        return _read(self._json)

    def _flush(self, version: int, resources: Sequence[Document]) -> None:
        data = self._encoder.encode(str(version), resources)
        _write(self._json, self._texts.encode(str(version), resources), durable=False)
        _write(self.path, data, durable=False)


def xds_file(directory: Path, kind: str) -> XdsFile:
    """The file of this kind in the directory Envoy reads."""
    made = ProtobufFile if kind in PROTOBUF_KINDS else XdsFile
    return made(watched_file(directory, kind))


def _write(path: Path, data: bytes, *, durable: bool = True) -> None:
    files.write_atomic(path, data, mode=_MODE, durable=durable)


def _read(path: Path) -> tuple[int, list[Document]]:
    try:
        document: Any = files.read_json(path)
        return int(document["version_info"]), list(document["resources"])
    except (TypeError, KeyError, ValueError):
        # Not there, or not ours: it is written anew with the next change.
        return 0, []
