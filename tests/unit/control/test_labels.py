"""Labels in model.yaml: read, checked against the model, kept in the manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fairlead.adapters.memory.store import MemoryObjectStore
from fairlead.adapters.store.artifacts import StoredArtifacts
from fairlead.control.publish import publish
from fairlead.domain.errors import InvalidInput
from fairlead.domain.ids import ArtifactRef
from fairlead.domain.manifest import Manifest, manifest_from_bytes, manifest_to_bytes
from support.models import example, scaled


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.onnx").write_bytes(scaled())
    golden = {"examples": [example({"x": [[1, 2, 3]]}, {"y": [[1, 2, 3]]})]}
    (tmp_path / "golden.json").write_text(json.dumps(golden))
    (tmp_path / "labels.txt").write_text("cat\ndog\nGrüße\n")
    return tmp_path


async def published(folder: Path, labels: Any) -> Manifest:
    artifacts = StoredArtifacts(MemoryObjectStore())
    described = {"name": "m", "version": 1, "engine": "onnx", "labels": labels}
    await publish(folder, described, artifacts, lambda _: None)
    return artifacts.manifest(ArtifactRef("m", 1))


@pytest.mark.parametrize("labels", [["cat", "dog", "Grüße"], "labels.txt"])
async def test_labels_are_a_list_or_a_file_with_one_on_each_line(folder: Path, labels: Any) -> None:
    manifest = await published(folder, {"y": labels})
    assert manifest.labels == {"y": ("cat", "dog", "Grüße")}
    assert manifest_from_bytes(manifest_to_bytes(manifest)) == manifest


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"z": ["a"]}, "labels.z: is no output of the model; outputs: y"),
        ({"y": ["a"] * 4}, "labels.y: are 4; at most 3: one for each element"),
        ({"y": [1]}, r"labels.y\[0\]: is 1; write a text in quotes"),
        ({"y": "gone.txt"}, "labels.y: 'gone.txt' is not in the folder"),
        ({"y": "../labels.txt"}, "labels.y: '../labels.txt' is not in the folder"),
        ({"y": "model.onnx"}, "is not UTF-8|at most 3"),
        (["a"], "labels: is a list; write an object"),
    ],
)
async def test_what_is_wrong_is_said(folder: Path, labels: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        await published(folder, labels)


async def test_a_manifest_without_labels_has_the_bytes_it_always_had(folder: Path) -> None:
    assert b"labels" not in manifest_to_bytes(await published(folder, {})).replace(
        b"labels.txt", b""
    )
