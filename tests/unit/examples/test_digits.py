from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
import pytest

pytestmark = pytest.mark.timeout(60)
FLOOR = 0.96  # measured: 0.978


def test_onnx_answers_as_scikit_learn_on_the_held_out_pictures() -> None:
    from examples.digits import train  # late: scikit-learn takes seconds

    pictures, held_out, digits, _ = train.read()
    pipeline = train.train(pictures, digits)
    session = onnxruntime.InferenceSession(train.export(pipeline))
    (found,) = session.run(None, {"pixels": held_out})
    assert found.dtype == np.float32
    assert np.abs(found - pipeline.predict_proba(held_out)).max() < 1e-5


def test_the_model_takes_pixels_and_gives_probabilities_only(built: Path) -> None:
    session = onnxruntime.InferenceSession(built / "digits" / "1" / "model.onnx")
    (pixels,) = session.get_inputs()
    (probabilities,) = session.get_outputs()
    assert (pixels.name, pixels.type, pixels.shape) == ("pixels", "tensor(float)", ["batch", 64])
    assert (probabilities.name, probabilities.shape) == ("probabilities", ["batch", 10])


def test_accuracy_stays_above_what_was_measured(built: Path) -> None:
    card = json.loads((built / "digits" / "1" / "model_card").read_bytes())
    assert card["held_out"]["accuracy"] >= FLOOR
