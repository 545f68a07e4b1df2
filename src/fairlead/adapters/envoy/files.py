"""The files Envoy watches: one directory for each kind of resource, versions that count up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from fairlead.kits import files

Document = dict[str, Any]

KINDS = ("cds", "lds", "rds", "sds")
_MODE = 0o600  # the routes hold the keys, and sds the certificate's private one


class XdsFile:
    """One kind's file: `{"version_info": "7", "resources": […]}`."""

    def __init__(self, directory: Path, kind: str) -> None:
        self.path = directory / kind / f"{kind}.json"
        self.version, self.resources = self._read()

    def write(self, resources: Sequence[Document]) -> None:
        """Replace the file by the next version; what cannot be written changes nothing."""
        self._flush(self.version + 1, resources)
        self.version += 1
        self.resources = list(resources)

    def ensure(self) -> None:
        """Envoy does not start unless there is something to watch."""
        if not self.path.exists():
            self._flush(self.version, self.resources)

    def _flush(self, version: int, resources: Sequence[Document]) -> None:
        document = {"version_info": str(version), "resources": list(resources)}
        data = msgspec.json.encode(document)  # tens of MiB with a thousand services
        files.write_atomic(self.path, data, mode=_MODE)

    def _read(self) -> tuple[int, list[Document]]:
        try:
            document: Any = files.read_json(self.path)
            return int(document["version_info"]), list(document["resources"])
        except (TypeError, KeyError, ValueError):
            # Not there, or not ours: it is written anew with the next change.
            return 0, []
