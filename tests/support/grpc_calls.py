"""Asking over gRPC: bare calls with bytes, and the messages of the protocol."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np

from fairlead.api.grpc_status import SERVICE
from fairlead.api.oip_messages import message


def infer_request(name: str, inputs: dict[str, np.ndarray[Any, Any]], **more: Any) -> Any:
    """A ModelInferRequest with raw tensors."""
    types = {"f4": "FP32", "i8": "INT64", "i4": "INT32", "f8": "FP64"}
    asked = message("ModelInferRequest")(model_name=name, **more)
    for key, array in inputs.items():
        kind = types[array.dtype.str[1:]]
        asked.inputs.add(name=key, datatype=kind, shape=list(array.shape))
        asked.raw_input_contents.append(array.tobytes())
    return asked


def call(channel: Any, method: str, service: str = SERVICE) -> Any:
    """A unary method of the protocol, messages in and out."""
    request, answer = message(f"{method}Request"), message(f"{method}Response")
    return channel.unary_unary(
        f"/{service}/{method}",
        request_serializer=request.SerializeToString,
        response_deserializer=answer.FromString,
    )


def aio_channel(port: int, *options: tuple[str, Any]) -> Any:
    return grpc.aio.insecure_channel(
        f"127.0.0.1:{port}",
        options=[
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            *options,
        ],
    )


HEALTH = "/grpc.health.v1.Health"


def stream(channel: Any) -> Any:
    """ModelStreamInfer."""
    return channel.stream_stream(
        f"/{SERVICE}/ModelStreamInfer",
        request_serializer=message("ModelInferRequest").SerializeToString,
        response_deserializer=message("ModelStreamInferResponse").FromString,
    )
