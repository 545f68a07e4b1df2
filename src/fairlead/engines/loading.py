"""From an artifact's directory to a loaded model."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

from fairlead.api.inference import Model
from fairlead.domain.errors import Kind, Refused
from fairlead.domain.manifest import ENGINES, Manifest

Loader = Callable[[Path, str, int], Model]

_MOST_VOICES = 16  # processes of one artifact: texts that are said at once


def load_model(directory: Path, manifest: Manifest, *, threads: int = 1) -> Model:
    """Load the artifact in `directory`; only `engine` and `entry` of the manifest are used.

    `threads` is what one run may use inside the engine. Blocks; raises FairleadError (MODEL or
    INVALID) with what is wrong and what would be right.
    """
    entry = directory / manifest.entry
    if not entry.is_file():
        raise Refused(Kind.INVALID, f"{manifest.entry} is not in {directory}; the engine opens it")
    return loader_of(manifest.engine)(directory, manifest.entry, threads)


def loader_of(engine: str) -> Loader:
    """How this engine loads a directory's entry with so many threads; raises Refused (INVALID) if there is none.

    An engine's library costs start-up time and memory: this imports the one that is needed, and no other.
    """
    match engine:
        case "onnx":
            from fairlead.engines.onnx import OnnxModel  # noqa: PLC0415 - see above

            return lambda directory, entry, threads: OnnxModel(directory / entry, threads)
        case "python":
            from fairlead.engines.python import load_python_model  # noqa: PLC0415 - see above

            return lambda directory, entry, _: load_python_model(directory, entry)
        case "speech":
            from fairlead.engines.speech.model import SpokenModel  # noqa: PLC0415 - see above

            return functools.partial(SpokenModel, limit=_MOST_VOICES)
        case other:
            raise Refused(Kind.INVALID, f"no engine {other!r}; there are {', '.join(ENGINES)}")
