"""A model in Triton's Python backend. With dynamic batching it gets several requests at once."""

import os
from typing import Any

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]


class TritonPythonModel:
    def initialize(self, _args: dict[str, str]) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ["BENCH_THREADS"])
        self._session = onnxruntime.InferenceSession(
            os.environ["BENCH_MODEL"], options, providers=["CPUExecutionProvider"]
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        """One run for all requests; each gets its rows back."""
        inputs = [pb_utils.get_input_tensor_by_name(one, "pixels").as_numpy() for one in requests]
        pixels = inputs[0] if len(inputs) == 1 else np.concatenate(inputs)
        (probabilities,) = self._session.run(["probabilities"], {"pixels": pixels})
        answers, at = [], 0
        for one in inputs:
            rows = probabilities[at : at + len(one)]
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("probabilities", rows)]))
            at += len(one)
        return answers
