"""The models of a soak: a small real network for each artifact version, weights and answers by its number.

Both sides make them from the seed alone: the one that publishes, and the clients that check each answer.
"""

import functools
import json
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

NAME = "soak"
WIDTH, HIDDEN, CLASSES = 16, 32, 10
INPUTS = 32  # different questions: an answer to another one is recognised
TOLERANCE = 1e-4
_OPSET, _IR = 17, 8

Rows = list[list[float]]


@functools.cache
def inputs(seed: int) -> np.ndarray:
    """The questions: `INPUTS` rows of `WIDTH` floats."""
    made = np.random.default_rng([seed, 0]).normal(size=(INPUTS, WIDTH))
    return np.round(made, 3).astype(np.float32)


@functools.cache
def answers(seed: int, version: int) -> np.ndarray:
    """What artifact `version` answers to each of the questions: `CLASSES` probabilities."""
    first, second, bias = _weights(seed, version)
    logits = np.tanh(inputs(seed) @ first) @ second + bias
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def is_right(seed: int, version: int, rows: range, data: list[float]) -> bool:
    """Are these the answers of that artifact to these questions (counted round and round)?"""
    if len(data) != len(rows) * CLASSES:
        return False
    expected = answers(seed, version)[np.arange(rows.start, rows.stop) % INPUTS]
    return bool(np.abs(np.asarray(data).reshape(-1, CLASSES) - expected).max() < TOLERANCE)


def write(folder: Path, seed: int, version: int) -> Path:
    """A folder as `fairlead publish` wants it."""
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(_onnx(*_weights(seed, version)))
    asked, answered = inputs(seed).tolist(), answers(seed, version).tolist()
    examples = [
        {"request": {"x": [one]}, "response": {"y": [other]}}
        for one, other in zip(asked[:4], answered[:4], strict=True)
    ]
    golden = {"tolerance": {"y": TOLERANCE}, "examples": examples}
    (folder / "golden.json").write_text(json.dumps(golden))
    (folder / "model.yaml").write_text(
        f"name: {NAME}\nversion: {version}\nengine: onnx\nfile: model.onnx\n"
    )
    return folder


@functools.cache
def _weights(seed: int, version: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng([seed, version])
    shapes = ((WIDTH, HIDDEN), (HIDDEN, CLASSES), (CLASSES,))
    first, second, bias = (random.normal(size=shape).astype(np.float32) for shape in shapes)
    return first, second, bias


def _onnx(first: np.ndarray, second: np.ndarray, bias: np.ndarray) -> bytes:
    weights = {"first": first, "second": second, "bias": bias}
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "first"], ["sums"]),
            helper.make_node("Tanh", ["sums"], ["hidden"]),
            helper.make_node("MatMul", ["hidden", "second"], ["scores"]),
            helper.make_node("Add", ["scores", "bias"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["y"], axis=-1),
        ],
        NAME,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", CLASSES])],
        [
            helper.make_tensor(name, TensorProto.FLOAT, array.shape, array.ravel())
            for name, array in weights.items()
        ],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR
    )
    return bytes(model.SerializeToString())
