"""The smallest neural voice there can be: a VITS model in sherpa-onnx's form, whose graph hums each letter for 0.1 s."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

RATE = 16_000
LETTER_SAMPLES = 1600
TOKENS = " abcdefghijklmnopqrstuvwxyz.,!?"
_LOWEST, _STEP = 200.0, 50.0
_METADATA = {
    "model_type": "vits",
    "comment": "tiny",
    "language": "English",
    "voice": "en",
    "sample_rate": RATE,
    "n_speakers": 1,
    "add_blank": 0,
    "frontend": "characters",
    "punctuation": "",
    "use_eos_bos": 0,
    "bos_id": 1,
    "eos_id": 2,
    "pad_id": 0,
    "blank_id": 0,
}


def hertz_of(letter: str) -> float:
    return _LOWEST + _STEP * TOKENS.index(letter)


def tiny_vits(directory: Path, **voice: Any) -> Path:
    """An artifact's folder: `model.onnx`, `tokens.txt`, `voice.json`."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "model.onnx").write_bytes(_graph().SerializeToString())
    lines = (f"{letter} {number}" for number, letter in enumerate(TOKENS))
    (directory / "tokens.txt").write_text("\n".join(lines) + "\n")
    settings = {"kind": "vits", "model": "model.onnx", "tokens": "tokens.txt"}
    speakers = [{"name": "Tiny", "voice": 0, "language": "en"}, {"name": "No", "voice": 1}]
    document = {"synthesizer": "sherpa-onnx", "settings": settings, "speakers": speakers, **voice}
    (directory / "voice.json").write_text(json.dumps(document))
    return directory


def _graph() -> onnx.ModelProto:
    """Tokens to pitches, each held for LETTER_SAMPLES, summed up to a phase, and its sine."""
    constants = {
        "held": np.array([1, 1, LETTER_SAMPLES], np.int64),
        "last": np.array(2, np.int64),
        "lowest": np.float32(_LOWEST),
        "step": np.float32(_STEP),
        "turn": np.float32(2 * np.pi / RATE),
        "loudness": np.float32(0.25),
        "row": np.array([1, 1, -1], np.int64),
        "column": np.array([1, -1, 1], np.int64),
    }
    steps = [
        ("Mul", ["number", "step"], "above"),
        ("Add", ["above", "lowest"], "hertz"),
        ("Reshape", ["hertz", "column"], "pitches"),
        ("Expand", ["pitches", "held"], "long"),
        ("Reshape", ["long", "row"], "pitch"),
        ("CumSum", ["pitch", "last"], "turns"),
        ("Mul", ["turns", "turn"], "phase"),
        ("Sin", ["phase"], "sine"),
        ("Mul", ["sine", "loudness"], "y"),
    ]
    nodes = [helper.make_node("Cast", ["x"], ["number"], to=TensorProto.FLOAT)]
    nodes += [helper.make_node(operator, inputs, [output]) for operator, inputs, output in steps]
    value = helper.make_tensor_value_info
    inputs = [value("x", TensorProto.INT64, [1, "t"]), value("x_length", TensorProto.INT64, [1])]
    scales = ("noise_scale", "length_scale", "noise_scale_w")
    inputs += [value(name, TensorProto.FLOAT, [1]) for name in scales]
    graph = helper.make_graph(
        nodes,
        "vits",
        inputs,
        [value("y", TensorProto.FLOAT, [1, 1, "n"])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    for key, text in _METADATA.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, str(text)
    return model
