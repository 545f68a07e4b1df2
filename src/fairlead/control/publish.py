"""Publishing: a folder becomes an artifact once its model is proved.

How a model is proved is `control/proving`'s matter. Files first, then the manifest: half an upload is no artifact.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from fairlead.control.labels import check_labels, read_labels
from fairlead.control.proving import Prover, prove_model
from fairlead.domain.batching import Batching, batching_from_json, contradictions
from fairlead.domain.ids import ARTIFACT_NAME, ARTIFACT_NAME_RULE, MOST_VERSIONS, ArtifactRef
from fairlead.domain.manifest import (
    DESCRIPTION,
    ENGINES,
    MANIFEST,
    Manifest,
    ManifestFile,
    path_problem,
    too_large,
)
from fairlead.domain.reading import Node, read_json
from fairlead.domain.signature import DocumentSignature
from fairlead.engines.pickles import check_files
from fairlead.kits.sizes import mebibytes

MODEL_CARD = "model_card"
_ENTRY = {"onnx": "model.onnx", "python": "model.py", "speech": "voice.json"}
_KEYS = ("name", "version", "engine", "file", "golden", "description", "batching", "labels")
_SKIPPED = re.compile(r"(^|/)(\.|__pycache__(/|$))|\.pyc$")
_CHUNK = 1 << 20


class Publisher(Protocol):
    """Where artifacts go: what the store's artifacts can do besides being read."""

    def publish(self, manifest: Manifest, directory: Path) -> str:
        """Upload: "new", "unchanged" or "repaired". Raises FairleadError(CONFLICT) for other content."""
        ...


@dataclass(frozen=True, slots=True)
class Published:
    """The manifest, whether it was "new", "unchanged" or "repaired", and how many examples were answered."""

    manifest: Manifest
    outcome: str
    examples: int


async def publish(
    directory: Path,
    description: Mapping[str, Any],
    artifacts: Publisher,
    tell: Callable[[str], None],
    prover: Prover = prove_model,
    *,
    allow_pickle: bool = False,
) -> Published:
    """Prove the model in `directory` and publish it. `description` is the content of its model.yaml.

    `tell` gets one line for each step. Without a `prover` the model runs in this very process. Raises InvalidInput for a folder that is not right, FairleadError
    for a model that does not load or does not answer its golden examples.
    """
    manifest = read_folder(directory, description)
    if not allow_pickle:
        check_files(directory, [file.path for file in manifest.files])
    tell(
        f"{manifest.ref}: {len(manifest.files)} files, {mebibytes(manifest.size)}; loading ({manifest.engine})"
    )
    proof = await prover(directory, manifest)
    check_labels(manifest.labels, proof.signature, str(directory / DESCRIPTION))
    manifest = replace(manifest, signature=proof.signature)
    tell(f"{manifest.ref}: {proof.examples} golden examples answered")
    outcome = artifacts.publish(manifest, directory)
    return Published(manifest, outcome, proof.examples)


def read_folder(directory: Path, description: Mapping[str, Any]) -> Manifest:
    """The manifest of a folder, its signature still empty: only the loaded model knows it."""
    source = str(directory / DESCRIPTION)
    node = Node(description)
    node.mapping(_KEYS, ["name", "version", "engine"])
    engine = node.child("engine").one_of(ENGINES)
    name = _name(node.child("name"))
    version = node.child("version").integer(1, MOST_VERSIONS)
    files = tuple(_files(node, directory))
    known = {file.path for file in files}
    entry = node.child("file").text() if node.has("file") else _ENTRY[engine]
    golden = node.child("golden").text() if node.has("golden") else "golden.json"
    for key, path in (("file", entry), ("golden", golden)):
        if path not in known:
            node.child(key).wrong(f"{path!r} is not in the folder", f"put it into {directory}")
    node.problems.extend(too_large(files, golden))
    bio = {"model_name": name, "model_card": _model_card(directory)}
    if node.has("description"):
        bio["description"] = node.child("description").text()
    batching = _batching(node.child("batching")) if node.has("batching") else Batching()
    labels = read_labels(node.child("labels"), directory) if node.has("labels") else {}
    node.done(source)
    return Manifest(
        ArtifactRef(name, version),
        engine,
        entry,
        files,
        DocumentSignature(),
        golden,
        bio,
        batching,
        labels,
    )


def _name(node: Node) -> str:
    if type(node.value) is int and 0 <= node.value < MOST_VERSIONS:
        node.wrong(f"is the number {node.value}", f'write it as text: "{node.value}"')
        return ""
    return node.text(ARTIFACT_NAME, f"write {ARTIFACT_NAME_RULE}")


def _batching(node: Node) -> Batching:
    before = len(node.problems)
    found = batching_from_json(node)
    if len(node.problems) == before:
        node.problems.extend(contradictions(found, node.path))
    return found


def _files(node: Node, directory: Path) -> list[ManifestFile]:
    found = []
    for path in sorted(directory.rglob("*")):
        relative = path.relative_to(directory).as_posix()
        if _SKIPPED.search(relative) or (path.is_dir() and not path.is_symlink()):
            continue
        problem = path_problem(relative)
        if path.is_symlink() and not path.resolve().is_relative_to(directory.resolve()):
            problem = "is a link that leads out of the folder"
        elif relative == MANIFEST:
            problem = "is the name of the artifact's own manifest"
        elif not path.is_file():
            problem = "is no regular file"
        if problem is not None:
            node.wrong(f"{relative!r} {problem}", "rename or remove it")
            continue
        found.append(ManifestFile(relative, path.stat().st_size, _sha256(path)))
    return found


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _model_card(directory: Path) -> Any:  # noqa: ANN401 - the publisher's own JSON
    path = directory / MODEL_CARD
    if not path.is_file():
        return None
    return read_json(path.read_bytes(), str(path), "write one JSON object")
