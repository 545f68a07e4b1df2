"""A model behind BentoML. With `batchable` it gets the rows of several requests."""

import os

import bentoml  # type: ignore[import-not-found]
import numpy as np
import onnxruntime  # type: ignore[import-untyped]

_BATCHES = os.environ["BENCH_BATCHES"] == "1"


@bentoml.service(
    workers=1 if _BATCHES else 2,
    traffic={"timeout": 60},
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
)
class Model:
    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ["BENCH_THREADS"])
        self._session = onnxruntime.InferenceSession(
            os.environ["BENCH_MODEL"], options, providers=["CPUExecutionProvider"]
        )

    @bentoml.api(batchable=_BATCHES, max_batch_size=32, max_latency_ms=60_000)  # type: ignore[untyped-decorator]
    def predict(self, rows: np.ndarray) -> np.ndarray:
        (probabilities,) = self._session.run(
            ["probabilities"], {"pixels": rows.astype(np.float32, copy=False)}
        )
        return probabilities  # type: ignore[no-any-return]
