"""The digits model behind FastAPI: typed request and response, one session for each worker.

The handler is async and runs the model inline: a run takes some microseconds, less than the hand-over
to a thread pool.
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

app = FastAPI()


class Request(BaseModel):
    instances: Annotated[list[Annotated[list[float], Len(64, 64)]], Len(1)]


class Response(BaseModel):
    predictions: list[list[float]]


@app.post("/v1/model/digits/predict")
async def predict(request: Request) -> Response:
    pixels = np.array(request.instances, dtype=np.float32)
    (probabilities,) = _session.run(["probabilities"], {"pixels": pixels})
    return Response(predictions=probabilities.tolist())
