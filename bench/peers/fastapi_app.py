"""A model behind FastAPI: typed request and response, one session for each worker.

A model of some microseconds runs inline in the event loop: that is less than the hand-over to a thread.
A bigger one runs in FastAPI's thread pool, as its documentation says of work that blocks.
"""

import os
from typing import Annotated

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
from annotated_types import Len
from fastapi import FastAPI
from pydantic import BaseModel

_options = onnxruntime.SessionOptions()
_options.intra_op_num_threads = 1
_session = onnxruntime.InferenceSession(
    os.environ["BENCH_MODEL"], _options, providers=["CPUExecutionProvider"]
)
_NAME = os.environ["BENCH_NAME"]

app = FastAPI()


class Request(BaseModel):
    instances: Annotated[list[Annotated[list[float], Len(64, 64)]], Len(1)]


class Response(BaseModel):
    predictions: list[list[float]]


def _run(request: Request) -> Response:
    pixels = np.array(request.instances, dtype=np.float32)
    (probabilities,) = _session.run(["probabilities"], {"pixels": pixels})
    return Response(predictions=probabilities.tolist())


if os.environ["BENCH_BATCHES"] == "1":

    @app.post(f"/v1/model/{_NAME}/predict")
    def predict_in_thread(request: Request) -> Response:
        return _run(request)

else:

    @app.post(f"/v1/model/{_NAME}/predict")
    async def predict(request: Request) -> Response:
        return _run(request)
