"""A folder becomes an artifact once its model is proved."""

from __future__ import annotations

import json
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto, helper

from fairlead.adapters.memory.store import MemoryObjectStore
from fairlead.adapters.store.artifacts import StoredArtifacts
from fairlead.control.publish import publish, read_folder
from fairlead.control.scaffold import project_files
from fairlead.domain.batching import Batching
from fairlead.domain.errors import FairleadError, InvalidInput
from fairlead.domain.ids import ArtifactRef
from fairlead.domain.signature import DocumentSignature
from fairlead.engines.onnx import OnnxModel
from support.models import scaled_artifact

DESCRIPTION = {"name": "reading-time", "version": 1, "engine": "python", "description": "How long"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in project_files().items():
        if name.startswith("models/"):
            (tmp_path / Path(name).name).write_text(text)
    return tmp_path


async def test_a_proved_model_is_published_with_its_signature(folder: Path) -> None:
    artifacts = StoredArtifacts(MemoryObjectStore())
    told: list[str] = []
    published = await publish(folder, DESCRIPTION, artifacts, told.append)
    assert published.outcome == "new"
    assert published.examples == 2
    manifest = artifacts.manifest(ArtifactRef("reading-time", 1))
    assert isinstance(manifest.signature, DocumentSignature)
    assert set(manifest.signature.request["properties"]) == {"text", "words_per_minute"}
    assert manifest.bio["description"] == "How long"
    assert [file.path for file in manifest.files] == ["golden.json", "model.py", "model.yaml"]
    again = await publish(folder, DESCRIPTION, artifacts, told.append)
    assert again.outcome == "unchanged"
    assert again.manifest.digest == manifest.digest


async def test_a_model_that_misses_its_golden_examples_is_not_published(folder: Path) -> None:
    golden = json.loads((folder / "golden.json").read_text())
    golden["examples"][1]["response"]["words"] = 1
    (folder / "golden.json").write_text(json.dumps(golden))
    artifacts = StoredArtifacts(MemoryObjectStore())
    with pytest.raises(
        FairleadError, match="golden example 2: words: 1 expected within 0, 0 answered"
    ):
        await publish(folder, DESCRIPTION, artifacts, lambda _: None)
    assert artifacts.refs() == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"version": "1"}, "version: is '1'; write a whole number from 1 to 999999999999999999"),
        ({"version": 0}, "version: is 0; write a whole number from 1 to 999999999999999999"),
        ({"engine": "keras"}, "engine: is 'keras'; write one of onnx, python"),
        ({"nmae": "x"}, "nmae: unknown key; did you mean 'name'?"),
        ({"file": "other.py"}, "file: 'other.py' is not in the folder"),
        ({"golden": "none.json"}, "golden: 'none.json' is not in the folder"),
        (
            {"name": "../up"},
            "name: is '../up'; write letters, digits, '-', '_' and '.', a letter or digit first",
        ),
        ({"name": "-a"}, "name: is '-a'; write letters, digits, '-', '_' and '.', a letter or"),
        ({"name": "a" * 129}, "a letter or digit first, at most 128"),
        ({"name": 1}, 'name: is the number 1; write it as text: "1"'),
        ({"name": -1}, "name: is -1; write letters, digits, '-', '_' and '.', a letter or digit"),
        ({"name": True}, "name: is true; write letters, digits"),
    ],
)
def test_a_wrong_description_is_told(folder: Path, change: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_folder(folder, DESCRIPTION | change)
    assert told in str(caught.value)


async def test_what_the_models_file_says_of_batching_is_kept_and_checked(tmp_path: Path) -> None:
    made = scaled_artifact(tmp_path)
    (tmp_path / "manifest.json").unlink()
    said: dict[str, Any] = {"name": "scaled", "version": 1, "engine": "onnx"}
    artifacts = StoredArtifacts(MemoryObjectStore())
    good = {**said, "batching": {"enabled": True, "maxBatchSize": 4}}
    published = await publish(tmp_path, good, artifacts, lambda _: None)
    assert published.manifest.batching == Batching(enabled=True, max_batch_size=4)
    assert artifacts.manifest(ArtifactRef("scaled", 1)) == published.manifest
    assert made.manifest.digest != published.manifest.digest
    with pytest.raises(InvalidInput, match=r"batching\.maxBatchSise: unknown key; did you mean"):
        read_folder(tmp_path, {**said, "batching": {"maxBatchSise": 4}})
    with pytest.raises(InvalidInput, match=r"batching\.timeoutAction: is delay, after no time"):
        read_folder(tmp_path, {**said, "batching": {"timeoutAction": "delay"}})
    padded = {**said, "batching": {"padVariableLengthInputs": {"x": 0}}}
    with pytest.raises(InvalidInput, match="only variable lengths are padded"):
        await publish(tmp_path, padded, artifacts, lambda _: None)


async def test_a_model_of_documents_that_insists_on_batching_is_not_published(folder: Path) -> None:
    artifacts = StoredArtifacts(MemoryObjectStore())
    insists = {**DESCRIPTION, "batching": {"enabled": True}}
    with pytest.raises(
        InvalidInput, match=r"model\.yaml: batching\.enabled: is true; the model can"
    ):
        await publish(folder, insists, artifacts, lambda _: None)


def test_a_link_that_leads_out_of_the_folder_is_refused(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    secret = tmp_path_factory.mktemp("elsewhere") / "secret"
    secret.write_text("x")
    (folder / "weights").symlink_to(secret)
    with pytest.raises(InvalidInput, match="'weights' is a link that leads out of the folder"):
        read_folder(folder, DESCRIPTION)


def test_caches_and_hidden_files_are_left_out(folder: Path) -> None:
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "model.pyc").write_bytes(b"x")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("x")
    (folder / "tables").mkdir()
    (folder / "tables" / "a.csv").write_text("1")
    paths = [file.path for file in read_folder(folder, DESCRIPTION).files]
    assert paths == ["golden.json", "model.py", "model.yaml", "tables/a.csv"]


async def test_a_folder_with_a_pickle_is_refused_before_its_model_is_loaded(folder: Path) -> None:
    (folder / "weights.dat").write_bytes(pickle.dumps(OrderedDict(a=1)))
    (folder / "model.py").write_text("raise SystemExit('it was loaded')")
    artifacts = StoredArtifacts(MemoryObjectStore())
    with pytest.raises(FairleadError, match=r"weights\.dat is a pickle; .*FAIRLEAD_ALLOW_PICKLE=1"):
        await publish(folder, DESCRIPTION, artifacts, lambda _: None)
    assert artifacts.refs() == []


@pytest.mark.parametrize(
    "location", ["../secret.bin", "{outside}", "link.bin", "a/../../secret.bin"]
)
async def test_weights_from_outside_the_folder_are_refused(tmp_path: Path, location: str) -> None:
    """ONNX lets a tensor's bytes lie in another file; nobody's but the artifact's own."""
    (tmp_path / "secret.bin").write_bytes(b"1234")
    folder = tmp_path / "folder"
    (folder / "a").mkdir(parents=True)
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    tensor = TensorProto(
        name="w", data_type=TensorProto.UINT8, dims=[4], data_location=TensorProto.EXTERNAL
    )
    path = location.format(outside=tmp_path / "secret.bin")
    for key, value in (("location", path), ("offset", "0"), ("length", "4")):
        tensor.external_data.add(key=key, value=value)
    ports = [helper.make_tensor_value_info(name, TensorProto.UINT8, [4]) for name in "xy"]
    node = helper.make_node("Add", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "g", ports[:1], ports[1:], [tensor])
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    example = {"request": {"x": [0, 0, 0, 0]}, "response": {"y": [49, 50, 51, 52]}}
    (folder / "golden.json").write_text(json.dumps({"examples": [example]}))
    with pytest.raises(FairleadError, match=r"link that leads out|External data path|not allowed"):
        await publish(
            folder,
            {"name": "spy", "version": 1, "engine": "onnx"},
            StoredArtifacts(MemoryObjectStore()),
            lambda _: None,
        )
    # The engine says so too, whoever wrote the file: it is what a worker loads with.
    with pytest.raises(FairleadError, match="ONNX Runtime"):
        OnnxModel(folder / "model.onnx")


def test_an_operator_that_onnx_runtime_does_not_bring_is_refused(tmp_path: Path) -> None:
    ports = [helper.make_tensor_value_info(name, TensorProto.UINT8, [4]) for name in "xy"]
    node = helper.make_node("Run", ["x"], ["y"], domain="evil.operators")
    graph = helper.make_graph([node], "g", ports[:1], ports[1:])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("evil.operators", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(FairleadError, match="not a registered function/op"):
        OnnxModel(tmp_path / "model.onnx")


def test_golden_examples_of_gigabytes_are_refused_before_they_are_read(folder: Path) -> None:
    with (folder / "golden.json").open("r+b") as file:
        file.truncate(65 << 20)  # it takes no room on the disk
    with pytest.raises(InvalidInput, match="golden: has 68157440 bytes"):
        read_folder(folder, DESCRIPTION)
