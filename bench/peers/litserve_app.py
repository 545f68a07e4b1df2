"""A model behind LitServe. With `max_batch_size` it gets the items of several requests."""

import os
import sys
from typing import Any

import litserve  # type: ignore[import-not-found]
import numpy as np
import onnxruntime  # type: ignore[import-untyped]


class OnnxApi(litserve.LitAPI):  # type: ignore[misc]
    def setup(self, _device: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ["BENCH_THREADS"])
        self._session = onnxruntime.InferenceSession(
            os.environ["BENCH_MODEL"], options, providers=["CPUExecutionProvider"]
        )

    def decode_request(self, request: dict[str, Any], **_: Any) -> Any:
        return np.array(request["row"], dtype=np.float32)

    def predict(self, x: Any, **_: Any) -> Any:
        rows = x if x.ndim > 1 else x[None]
        (probabilities,) = self._session.run(["probabilities"], {"pixels": rows})
        return probabilities if x.ndim > 1 else probabilities[0]

    def encode_response(self, output: Any, **_: Any) -> dict[str, Any]:
        return {"result": output.tolist()}


def main(port: int) -> None:
    batches = os.environ["BENCH_BATCHES"] == "1"
    # No wait for a fuller batch: what waits is taken.
    api = OnnxApi(max_batch_size=32, batch_timeout=0.002) if batches else OnnxApi()
    workers = 1 if batches else 2
    server = litserve.LitServer(
        api, accelerator="cpu", workers_per_device=workers, fast_queue=True, timeout=False
    )
    server.run(
        host="127.0.0.1",
        port=port,
        num_api_servers=2,
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )


if __name__ == "__main__":
    main(int(sys.argv[1]))
