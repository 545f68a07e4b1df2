"""The models of a run: digits from the examples, the others made here, the same bytes each time.

`python bench/models.py --out build/bench` builds what is missing.
"""

import argparse
import json
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]
from onnx import TensorProto, helper, numpy_helper

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.subject import ROOT, Case

OUT = ROOT / "build" / "bench"
EXAMPLES = ROOT / "build" / "models"
PIXELS, DIGITS = 64, 10
_HIDDEN = 4096  # 64 MiB of weights for each request: bound by memory, so that batching helps
_SIDE, _CHANNELS, _LAYERS = 64, 32, 5  # arithmetic for each picture: batching cannot help
_OPSET = 18
_RECIPE = "4"  # another number builds everything again
TENSOR_WIDTH = 1024  # floats in a row of the tensor suite's model
_MIB = 1 << 20

Nodes = tuple[list[onnx.NodeProto], list[onnx.TensorProto]]


def digits() -> Case:
    """64 floats to 10, some microseconds of work: what is compared is the server."""
    return _read(EXAMPLES / "digits" / "1", "64 floats to 10, a few µs of work")


def mlp() -> Case:
    """64 floats to 10 through two wide layers; some 6 ms alone on one core."""
    return _read(OUT / "mlp" / "1", "an MLP of 17 million weights, bound by memory", batches=True)


def conv() -> Case:
    """64 floats as a picture through convolutions: as much work for each picture of a batch."""
    return _read(OUT / "conv" / "1", "five convolutions, bound by arithmetic", batches=True)


def one_mebibyte() -> Case:
    """A tensor of 1 MiB that comes back as it is."""
    return _tensors(1)


def sixteen_mebibytes() -> Case:
    """A tensor of 16 MiB that comes back as it is."""
    return _tensors(16)


def _tensors(mebibytes: int) -> Case:
    rows = mebibytes * _MIB // (4 * TENSOR_WIDTH)
    row = [float(number) for number in range(TENSOR_WIDTH)]
    values = [row] * rows
    folder = OUT / f"tensors-{mebibytes}" / "1"
    return Case(
        folder.parent.name, folder, "x", "y", values, values, "the same tensor back", tolerance=0.0
    )


def build(out: Path, tell: Callable[[str], None] = print) -> None:
    """Write whatever is missing below `out`."""
    stamp = out / ".built"
    if stamp.exists() and stamp.read_text() == _RECIPE:
        return
    for name, make in (("mlp", _mlp), ("conv", _conv)):
        tell(f"building {name} ...")
        _write(out / name / "1", name, make(), PIXELS, DIGITS)
    for name in ("tensors-1", "tensors-16"):
        _write(out / name / "1", name, _identity(), TENSOR_WIDTH, TENSOR_WIDTH)
    stamp.write_text(_RECIPE)


def small(folder: Path, name: str, seed: int, version: int = 1) -> Path:
    """One of very many services: a model as small as digits, with weights of its own."""
    random = np.random.default_rng([seed, version])
    nodes = _layers(random, (PIXELS, 32, DIGITS))
    return _write(folder / name / str(version), name, nodes, PIXELS, DIGITS)


def as_case(folder: Path) -> Case:
    """A folder that `small` has written."""
    return _read(folder, "")


def _read(folder: Path, work: str, *, batches: bool = False) -> Case:
    golden = json.loads((folder / "golden.json").read_bytes())["examples"][0]
    rows, expected = golden["request"]["pixels"][:1], golden["response"]["probabilities"][:1]
    name = folder.parent.name
    return Case(name, folder, "pixels", "probabilities", rows, expected, work, batches)


def _mlp() -> Nodes:
    return _layers(np.random.default_rng(1), (PIXELS, _HIDDEN, _HIDDEN, DIGITS))


def _layers(random: np.random.Generator, widths: tuple[int, ...]) -> Nodes:
    nodes, weights, value = [], [], "pixels"
    for number, (rows, columns) in enumerate(pairwise(widths)):
        scale = np.float32(1 / np.sqrt(rows))
        layer = random.standard_normal((rows, columns), dtype=np.float32) * scale
        weights.append(numpy_helper.from_array(layer, f"w{number}"))
        nodes.append(helper.make_node("MatMul", [value, f"w{number}"], [f"m{number}"]))
        value = f"m{number}"
        if number < len(widths) - 2:
            nodes.append(helper.make_node("Relu", [value], [f"r{number}"]))
            value = f"r{number}"
    nodes.append(helper.make_node("Softmax", [value], ["probabilities"], axis=1))
    return nodes, weights


def _conv() -> Nodes:
    random = np.random.default_rng(2)
    shape = np.array([-1, 1, 8, 8], dtype=np.int64)
    scales = np.array([1, 1, _SIDE / 8, _SIDE / 8], dtype=np.float32)
    weights = [numpy_helper.from_array(shape, "shape"), numpy_helper.from_array(scales, "scales")]
    nodes = [
        helper.make_node("Reshape", ["pixels", "shape"], ["picture"]),
        helper.make_node("Resize", ["picture", "", "scales"], ["large"], mode="nearest"),
    ]
    value, channels = "large", 1
    for number in range(_LAYERS):
        scale = np.float32(1 / np.sqrt(9 * channels))
        kernel = random.standard_normal((_CHANNELS, channels, 3, 3), dtype=np.float32) * scale
        weights.append(numpy_helper.from_array(kernel, f"k{number}"))
        pads = [1, 1, 1, 1]
        nodes.append(helper.make_node("Conv", [value, f"k{number}"], [f"c{number}"], pads=pads))
        nodes.append(helper.make_node("Relu", [f"c{number}"], [f"r{number}"]))
        value, channels = f"r{number}", _CHANNELS
    last = random.standard_normal((_CHANNELS, DIGITS), dtype=np.float32)
    weights.append(numpy_helper.from_array(last, "last"))
    nodes += [
        helper.make_node("GlobalAveragePool", [value], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "last"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
    ]
    return nodes, weights


def _identity() -> Nodes:
    return [helper.make_node("Identity", ["x"], ["y"])], []


def _write(folder: Path, name: str, made: Nodes, wide: int, narrow: int) -> Path:
    """An artifact's folder with a golden example, as ONNX Runtime answers it."""
    folder.mkdir(parents=True, exist_ok=True)
    nodes, weights = made
    source, target = nodes[0].input[0], nodes[-1].output[0]
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(source, TensorProto.FLOAT, ["batch", wide])],
        [helper.make_tensor_value_info(target, TensorProto.FLOAT, ["batch", narrow])],
        weights,
    )
    opset = [helper.make_opsetid("", _OPSET)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=9)
    content = model.SerializeToString(deterministic=True)
    (folder / "model.onnx").write_bytes(content)
    row = np.linspace(0, 1, wide, dtype=np.float32).reshape(1, wide)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (answer,) = session.run([target], {source: row})
    example: dict[str, Any] = {
        "request": {source: row.tolist()},
        "response": {target: answer.tolist()},
    }
    golden = {"tolerance": {target: 1e-4}, "examples": [example]}
    (folder / "golden.json").write_text(json.dumps(golden))
    version = int(folder.name)
    settings = f"name: {name}\nversion: {version}\nengine: onnx\nfile: model.onnx\n"
    (folder / "model.yaml").write_text(settings)
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Build the models of the benchmarks.")
    parser.add_argument("--out", type=Path, default=OUT)
    build(parser.parse_args().out)
