"""Published artifacts that exist by name only: enough to plan and apply releases."""

from __future__ import annotations

from collections.abc import Collection

from fairlead.domain.errors import FairleadError, Kind
from fairlead.domain.ids import ArtifactRef
from fairlead.domain.manifest import Manifest, ManifestFile
from fairlead.domain.signature import DocumentSignature

_FILE_BYTES = 3 << 20


class MemoryArtifacts:
    """Manifests of one file each, for these references; for every reference if none is named."""

    def __init__(self, refs: Collection[ArtifactRef] | None = None) -> None:
        self._refs = refs

    def manifest(self, ref: ArtifactRef) -> Manifest:
        if self._refs is not None and ref not in self._refs:
            raise FairleadError(f"the store has no artifact {ref}", kind=Kind.NOT_FOUND)
        file = ManifestFile("model.onnx", _FILE_BYTES, f"{ref.version:064x}")
        return Manifest(ref, "onnx", "model.onnx", (file,), DocumentSignature(), "model.onnx")

    def refs(self) -> list[ArtifactRef]:
        return list(self._refs or ())

    def read(self, sha256: str, start: int, length: int) -> bytes:
        raise FairleadError(
            f"the store has no file {sha256} ({start}+{length})", kind=Kind.NOT_FOUND
        )
