"""A worker that is told to end while a run that nobody waits for any more is in native code."""

from __future__ import annotations

from pathlib import Path

import pytest
from onnx import TensorProto, helper

from fairlead.domain.ids import RevisionId
from support.models import example, make_artifact, onnx_bytes
from support.serving import worker

TIMES = 2  # without the mend it failed every time
WIDTH = 500  # a run takes some milliseconds
TIRELESS = f"""
from pathlib import Path
import numpy
import onnxruntime
class Model:
    def __init__(self):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        path = Path(__file__).with_name("model.onnx")
        self.session = onnxruntime.InferenceSession(str(path), options)
    def predict(self, request: int) -> int:
        while request:
            self.session.run(None, {{"x": numpy.ones(({WIDTH}, {WIDTH}), "float32")}})
        return 0
"""


@pytest.mark.timeout(240)
async def test_it_ends_with_0_every_time(tmp_path: Path) -> None:
    square = [helper.make_node("MatMul", ["x", "x"], ["y"])]
    x, y = ((name, TensorProto.FLOAT, [WIDTH, WIDTH]) for name in "xy")
    files = {"model.py": TIRELESS, "model.onnx": onnx_bytes([x], [y], square)}
    made = make_artifact(tmp_path / "a", files, [example(0, 0)])
    spec = made.spec(RevisionId("tireless", "v1", "1"), socket=tmp_path / "w.sock")
    for _ in range(TIMES):
        async with worker(spec, tmp_path) as started:
            path, short = "/v1/model/tireless/predict", {"x-request-timeout-ms": "50"}
            late = await started.client.post(path, content=b"1", headers=short)
            assert late.status_code == 504
            assert await started.stop(seconds=60) == 0, started.log.read_text()
