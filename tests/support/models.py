"""Small real models, and artifacts of them on disk as a node has them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from fairlead.api.worker import ServedEndpoint, ServingSettings, WorkerSpec
from fairlead.domain.batching import Batching
from fairlead.domain.ids import ArtifactRef, RevisionId
from fairlead.domain.manifest import Manifest, ManifestFile, manifest_to_bytes
from fairlead.domain.signature import DocumentSignature
from fairlead.engines.loading import load_model

Port = tuple[str, int, list[Any] | None]  # name, ONNX element type, shape

FLOAT = TensorProto.FLOAT
INT32 = TensorProto.INT32
INT64 = TensorProto.INT64
STRING = TensorProto.STRING
BOOL = TensorProto.BOOL
HEAVY_WIDTH = 1024

ECHO = """
from pydantic import BaseModel


class Request(BaseModel):
    text: str
    times: int = 1


class Response(BaseModel):
    text: str


class Model:
    def load(self, directory):
        self.suffix = (directory / "suffix.txt").read_text()

    def predict(self, request: Request) -> Response:
        if request.text == "boom":
            raise ValueError("a secret of the model")
        return Response(text=request.text * request.times + self.suffix)
"""


def onnx_bytes(
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    nodes: Sequence[onnx.NodeProto],
    weights: Mapping[str, Any] | None = None,
) -> bytes:
    initial = [
        helper.make_tensor(name, FLOAT, array.shape, array.ravel())
        for name, array in (weights or {}).items()
    ]
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info(*port) for port in inputs],
        [helper.make_tensor_value_info(*port) for port in outputs],
        initial,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def scaled(factor: float = 1.0, width: int = 3) -> bytes:
    """`x` [n, width] floats to `y` = x · factor."""
    weight = np.eye(width, dtype=np.float32) * np.float32(factor)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    return onnx_bytes(
        [("x", FLOAT, ["n", width])], [("y", FLOAT, ["n", width])], [node], {"w": weight}
    )


def identity(kind: int, shape: list[Any] | None) -> bytes:
    """`x` to `y`, unchanged."""
    node = helper.make_node("Identity", ["x"], ["y"])
    return onnx_bytes([("x", kind, shape)], [("y", kind, shape)], [node])


def simple() -> bytes:
    """`INPUT0` and `INPUT1` [n, 16] int32 to their sum `OUTPUT0` and difference `OUTPUT1`."""
    return _sum_and_difference(INT32, [])


def simple_string() -> bytes:
    """The same, of whole numbers written as texts."""
    return _sum_and_difference(STRING, [("INPUT0", "a"), ("INPUT1", "b")])


def _sum_and_difference(kind: int, read: Sequence[tuple[str, str]]) -> bytes:
    a, b = [into for _, into in read] or ["INPUT0", "INPUT1"]
    nodes = [helper.make_node("Cast", [name], [into], to=INT32) for name, into in read]
    for operator, name in (("Add", "OUTPUT0"), ("Sub", "OUTPUT1")):
        nodes.append(helper.make_node(operator, [a, b], [f"{name}{'_' if read else ''}"]))
        if read:
            nodes.append(helper.make_node("Cast", [f"{name}_"], [name], to=kind))
    names = (("INPUT0", "INPUT1"), ("OUTPUT0", "OUTPUT1"))
    inputs, outputs = [[(name, kind, ["n", 16]) for name in side] for side in names]
    return onnx_bytes(inputs, outputs, nodes)


def bf16_doubled() -> bytes:
    """`x` [n, 2] BF16 to `y` = 2 · x, BF16 too."""
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=FLOAT),
        helper.make_node("Add", ["f", "f"], ["g"]),
        helper.make_node("Cast", ["g"], ["y"], to=TensorProto.BFLOAT16),
    ]
    port = TensorProto.BFLOAT16, ["n", 2]
    return onnx_bytes([("x", *port)], [("y", *port)], nodes)


def text_identity() -> bytes:
    """`INPUT0` [n, 16] texts to `OUTPUT0`, unchanged."""
    node = helper.make_node("Identity", ["INPUT0"], ["OUTPUT0"])
    return onnx_bytes([("INPUT0", STRING, ["n", 16])], [("OUTPUT0", STRING, ["n", 16])], [node])


def two_ways() -> bytes:
    """`a` [n] int64 and `b` [n, 2] floats to `a out` and `b.out`, unchanged."""
    nodes = [
        helper.make_node("Identity", ["a"], ["a out"]),
        helper.make_node("Identity", ["b"], ["b.out"]),
    ]
    return onnx_bytes(
        [("a", INT64, ["n"]), ("b", FLOAT, ["n", 2])],
        [("a out", INT64, ["n"]), ("b.out", FLOAT, ["n", 2])],
        nodes,
    )


@dataclass(frozen=True)
class Artifact:
    directory: Path
    manifest: Manifest

    @property
    def digest(self) -> str:
        return self.manifest.digest

    def spec(
        self,
        revision: RevisionId = RevisionId("echo", "v1", "1"),
        *,
        endpoints: tuple[ServedEndpoint, ...] = (ServedEndpoint(),),
        socket: Path | None = None,
        settings: ServingSettings | None = None,
        **more: Any,
    ) -> WorkerSpec:
        return WorkerSpec(
            "w1",
            revision,
            self.directory,
            self.digest,
            endpoints,
            socket,
            settings or ServingSettings(),
            **more,
        )


def example(request: Any, response: Any) -> dict[str, Any]:
    return {"request": request, "response": response}


def make_artifact(
    directory: Path,
    files: Mapping[str, bytes | str],
    examples: Sequence[dict[str, Any]],
    ref: ArtifactRef = ArtifactRef("model", 1),
) -> Artifact:
    """Write the files, the golden examples and the manifest; the engine follows from the first file's name."""
    directory.mkdir(parents=True, exist_ok=True)
    golden = json.dumps({"tolerance": {}, "examples": list(examples)})
    contents = {**files, "golden.json": golden}
    listed = []
    for name, content in contents.items():
        data = content.encode() if isinstance(content, str) else content
        (directory / name).write_bytes(data)
        listed.append(ManifestFile(name, len(data), hashlib.sha256(data).hexdigest()))
    entry = next(iter(files))
    engine = {".py": "python", ".json": "speech"}.get(Path(entry).suffix, "onnx")
    bio = {"model_name": ref.name, "model_card": {"made": "here"}}
    manifest = Manifest(ref, engine, entry, tuple(listed), DocumentSignature(), "golden.json", bio)
    model = load_model(directory, manifest)
    manifest = dataclasses.replace(manifest, signature=model.signature)
    model.close()
    (directory / "manifest.json").write_bytes(manifest_to_bytes(manifest))
    return Artifact(directory, manifest)


def echo_artifact(directory: Path, suffix: str = "!", version: int = 1) -> Artifact:
    """A code-only model that repeats a text."""
    return make_artifact(
        directory,
        {"model.py": ECHO, "suffix.txt": suffix},
        [example({"text": "hi", "times": 2}, {"text": f"hihi{suffix}"})],
        ArtifactRef("echo", version),
    )


def scaled_artifact(directory: Path, factor: float = 2.0, version: int = 1) -> Artifact:
    """An ONNX model that multiplies three floats by `factor`."""
    return make_artifact(
        directory,
        {"model.onnx": scaled(factor)},
        [example({"x": [[1.0, 2.0, 3.0]]}, {"y": [[factor, 2 * factor, 3 * factor]]})],
        ArtifactRef("scaled", version),
    )


def code_project(
    directory: Path, name: str, code: str, golden: dict[str, Any], **endpoint: Any
) -> Path:
    """A code-only model in `models/NAME/1` and a release of it, its one endpoint as given; the release's file."""
    folder = directory / "models" / name / "1"
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(code)
    (folder / "model.yaml").write_text(f"name: {name}\nversion: 1\nengine: python\n")
    (folder / "golden.json").write_text(json.dumps({"tolerance": {}, "examples": [golden]}))
    document = {
        "service": name,
        "model": "v1",
        "version": "1",
        "artifact": f"{name}/1",
        "endpoints": {"predict": endpoint},
        "traffic": [{"tag": "1", "percent": 100}],
    }
    release = directory / f"{name}.json"
    release.write_text(json.dumps(document))
    return release


def rebatched(made: Artifact, batching: Batching) -> Artifact:
    """The same artifact, its own file saying this of batching."""
    manifest = dataclasses.replace(made.manifest, batching=batching)
    (made.directory / "manifest.json").write_bytes(manifest_to_bytes(manifest))
    return Artifact(made.directory, manifest)


def heavy_artifact(directory: Path) -> Artifact:
    """An ONNX model `x` [n, HEAVY_WIDTH] to zeros, bound by memory: a batch reads the weights once."""
    random = np.random.default_rng(3)
    weight = np.round(random.standard_normal((HEAVY_WIDTH, HEAVY_WIDTH)), 1).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"])]
    value = "h"
    for layer in range(3):
        nodes.append(helper.make_node("MatMul", [value, "w"], [f"h{layer}"]))
        value = f"h{layer}"
    zero = onnx_bytes(
        [("x", FLOAT, ["n", HEAVY_WIDTH])],
        [("y", FLOAT, ["n", HEAVY_WIDTH])],
        [*nodes, helper.make_node("Sub", [value, value], ["y"])],
        {"w": weight},
    )
    return make_artifact(
        directory,
        {"model.onnx": zero},
        [example({"x": [[0.5] * HEAVY_WIDTH]}, {"y": [[0.0] * HEAVY_WIDTH]})],
    )
