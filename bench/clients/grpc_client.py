"""A gRPC client of the Open Inference Protocol: grpcio with the messages that tritonclient ships.

Runs in .bench/tools and prints one line of JSON: `ask` what a server answers to one request, once it
answers; `frame` writes the request as h2load sends it; `load` keeps so many requests under way.
"""

import argparse
import asyncio
import json
import math
import struct
import sys
import time
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped,unused-ignore]
import numpy as np
from tritonclient.grpc import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
    service_pb2,
    service_pb2_grpc,
)

_ANSWER_SECONDS = 10.0
_CHANNELS = 4
# A server that is starting says this of a moment; one that has no gRPC says it for ever.
_UNIMPLEMENTED_SECONDS = 10.0
# Each channel has connections of its own.
_OPTIONS = [("grpc.use_local_subchannel_pool", 1)]


def request(case: dict[str, Any]) -> Any:
    """The request of a case, its tensor as raw bytes."""
    rows = np.array(case["rows"], dtype=np.float32)
    message = service_pb2.ModelInferRequest(model_name=case["name"])
    message.inputs.add(name=case["source"], datatype="FP32", shape=rows.shape)
    message.raw_input_contents.append(rows.tobytes())
    return message


def numbers(answer: Any) -> list[list[float]]:
    """The rows of an answer, raw or typed."""
    output = answer.outputs[0]
    if answer.raw_output_contents:
        flat = np.frombuffer(answer.raw_output_contents[0], dtype=np.float32)
    else:
        flat = np.array(output.contents.fp32_contents, dtype=np.float32)
    rows: list[list[float]] = flat.reshape(tuple(output.shape)).tolist()
    return rows


def ask(address: str, message: Any, metadata: Any, wait_seconds: float) -> dict[str, Any]:
    """Ask until there is an answer, or `wait_seconds` are over."""
    until = time.monotonic() + wait_seconds
    first = math.inf
    while True:
        with grpc.insecure_channel(address, _OPTIONS) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            try:
                answer = stub.ModelInfer(message, metadata=metadata, timeout=_ANSWER_SECONDS)
                return {"numbers": numbers(answer), "bytes": answer.ByteSize()}
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                    first = min(first, time.monotonic())
                if time.monotonic() > min(until, first + _UNIMPLEMENTED_SECONDS):
                    return {"failed": f"{error.code().name}: {error.details()}"}
        time.sleep(0.02)


async def load(
    address: str, message: Any, metadata: Any, connections: int, seconds: float
) -> dict[str, Any]:
    """Keep `connections` requests under way for so long."""
    latencies: list[float] = []
    bad = 0
    channels = [
        grpc.aio.insecure_channel(address, _OPTIONS) for _ in range(min(_CHANNELS, connections))
    ]
    stubs = [service_pb2_grpc.GRPCInferenceServiceStub(channel) for channel in channels]
    await asyncio.gather(*(channel.channel_ready() for channel in channels))
    began = time.perf_counter()

    async def caller(stub: Any) -> None:
        nonlocal bad
        while (now := time.perf_counter()) - began < seconds:
            try:
                await stub.ModelInfer(message, metadata=metadata, timeout=_ANSWER_SECONDS)
            except grpc.RpcError:
                bad += 1
            latencies.append(time.perf_counter() - now)

    await asyncio.gather(*(caller(stubs[number % len(stubs)]) for number in range(connections)))
    spent = time.perf_counter() - began
    for channel in channels:
        await channel.close()
    p50, p99 = np.percentile(latencies, (50, 99)) * 1e6 if latencies else (0, 0)
    return {
        "requests": len(latencies) - bad,
        "microseconds": int(spent * 1e6),
        "p50": int(p50),
        "p99": int(p99),
        "bad_status": bad,
        "broken": 0,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("ask", "frame", "load"))
    parser.add_argument("case", type=Path, help="file with name, source and rows")
    parser.add_argument("--address")
    parser.add_argument("--metadata", type=json.loads, default={})
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    message = request(json.loads(given.case.read_text()))
    metadata = tuple(given.metadata.items())
    if given.what == "frame":
        body = message.SerializeToString()
        given.out.write_bytes(struct.pack(">BI", 0, len(body)) + body)
        result: dict[str, Any] = {"bytes": len(body)}
    elif given.what == "ask":
        result = ask(given.address, message, metadata, given.seconds)
    else:
        result = asyncio.run(
            load(given.address, message, metadata, given.connections, given.seconds)
        )
    json.dump(result, sys.stdout)
    print()


if __name__ == "__main__":
    main()
