"""Train the digit classifier and write it as an artifact. Run by `examples/build.py`.

A small neural network on the 1,797 pictures that come with scikit-learn, converted by skl2onnx:
the usual way from a fitted estimator to a file that any ONNX runtime serves.
"""

import json
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper
from skl2onnx import to_onnx  # type: ignore[import-untyped]
from skl2onnx.common.data_types import FloatTensorType  # type: ignore[import-untyped]
from sklearn.datasets import load_digits  # type: ignore[import-untyped]
from sklearn.exceptions import ConvergenceWarning  # type: ignore[import-untyped]
from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]
from sklearn.neural_network import MLPClassifier  # type: ignore[import-untyped]
from sklearn.pipeline import Pipeline, make_pipeline  # type: ignore[import-untyped]
from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]

# scikit-learn brings it along.
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

PIXELS = 64
DIGITS = 10
_OPSET = 18
_DECIMALS = (
    4  # hides differences in last bits; training on another kind of CPU can still end elsewhere
)

Pictures = npt.NDArray[np.float32]


def read() -> tuple[Pictures, Pictures, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Training pictures, held-out pictures, training digits, held-out digits; pixels are 0 to 16."""
    pictures, digits = load_digits(return_X_y=True)
    first, second, first_digits, second_digits = train_test_split(
        pictures.astype(np.float32), digits, test_size=0.25, random_state=0, stratify=digits
    )
    return first, second, first_digits, second_digits


def train(pictures: Pictures, digits: npt.NDArray[np.int64]) -> Pipeline:
    """Scale the pixels, then 64 -> 32 -> 10."""
    network = MLPClassifier(
        hidden_layer_sizes=(32,), alpha=0.1, max_iter=150, tol=0, random_state=0
    )
    network.n_iter_no_change = network.max_iter  # a fixed number of rounds, no early end
    pipeline = make_pipeline(StandardScaler(), network)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the number of rounds is the choice
        with threadpool_limits(
            limits=1
        ):  # on data this small more threads only wait for each other
            pipeline.fit(pictures, digits)
    network.coefs_ = [np.round(layer, _DECIMALS) for layer in network.coefs_]
    network.intercepts_ = [np.round(layer, _DECIMALS) for layer in network.intercepts_]
    return pipeline


def export(pipeline: Pipeline) -> bytes:
    """`pixels` FP32 [-1,64] -> `probabilities` FP32 [-1,10], and nothing else."""
    model = to_onnx(
        pipeline,
        initial_types=[("pixels", FloatTensorType([None, PIXELS]))],
        options={"zipmap": False},
        target_opset={"": _OPSET, "ai.onnx.ml": 3},
    )
    graph = model.graph
    del graph.output[:]  # the label is the largest probability: the caller can see that
    graph.output.append(
        helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", DIGITS])
    )
    graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    _drop_unused(graph)
    # The converter takes them from a set, whose order is another one in some processes.
    opsets = sorted(model.opset_import, key=lambda one: one.domain)
    del model.opset_import[:]
    model.opset_import.extend(opsets)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Remove what only the dropped output needed, from the last node back."""
    needed = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    constants = [constant for constant in graph.initializer if constant.name in needed]
    del graph.node[:]
    del graph.initializer[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(constants)


def artifacts() -> tuple[dict[str, Mapping[str, bytes]], str]:
    """Files of each artifact by `<name>/<version>`, and a line about how good they are."""
    pictures, held_out, digits, held_out_digits = read()
    pipeline = train(pictures, digits)
    accuracy = round(float(pipeline.score(held_out, held_out_digits)), 4)
    card: dict[str, Any] = {
        "name": "digits",
        "version": 1,
        "model_type": "trained",
        "description": "Which digit is in an 8 x 8 picture: a neural network with one hidden layer of 32",
        "labels": list(range(DIGITS)),
        "training": {"pictures": len(pictures), "data": "scikit-learn load_digits"},
        "held_out": {"pictures": len(held_out), "accuracy": accuracy},
        "limits": "Pixels from 0 (white) to 16 (black), row by row, one digit filling the picture.",
    }
    shown = [int(np.flatnonzero(held_out_digits == digit)[0]) for digit in (0, 3, 7)]
    golden = {
        "tolerance": {"probabilities": 1e-4},
        "examples": [
            {
                "request": {"pixels": [held_out[index].tolist()]},
                "response": {"probabilities": np.round(chances, 6).tolist()},
            }
            for index in shown
            for chances in [pipeline.predict_proba(held_out[index : index + 1])]
        ],
    }
    settings = (
        "name: digits\nversion: 1\nengine: onnx\nfile: model.onnx\n"
        f"description: {json.dumps(card['description'])}\n"
    )
    files = {
        "model.yaml": settings.encode(),
        "model.onnx": export(pipeline),
        "golden.json": json.dumps(golden).encode() + b"\n",
        "model_card": json.dumps(card, indent=1).encode() + b"\n",
    }
    return {"digits/1": files}, f"right on {len(held_out)} held-out pictures: 1: {accuracy:.1%}"
