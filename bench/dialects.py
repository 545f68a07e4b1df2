"""The dialects a server may be asked in over HTTP."""

import json
import struct
from typing import Any

from bench.subject import Case, Dialect

_JSON = {"Content-Type": "application/json", "Accept-Version": "v1"}
_HEADER_LENGTH = "Inference-Header-Content-Length"


def _json_headers(_: Case) -> dict[str, str]:
    return dict(_JSON)


def _values(case: Case) -> list[float]:
    return [value for row in case.rows for value in row]


def _oip_body(case: Case) -> bytes:
    tensor = {"name": case.source, "shape": case.shape, "datatype": "FP32", "data": _values(case)}
    return json.dumps({"inputs": [tensor]}).encode()


def _oip_numbers(case: Case, _: dict[str, str], body: bytes) -> list[list[float]]:
    output = json.loads(body)["outputs"][0]
    width = len(case.expected[0])
    data = [float(value) for value in output["data"]]
    return [data[at : at + width] for at in range(0, len(data), width)]


def _rows(found: Any) -> list[list[float]]:
    return [[float(value) for value in row] for row in found]


PROJECT = Dialect(
    path=lambda case: f"/v1/model/{case.name}/predict",
    body=lambda case: json.dumps({"instances": case.rows}).encode(),
    numbers=lambda _case, _headers, body: _rows(json.loads(body)["predictions"]),
    headers=_json_headers,
)
OIP = Dialect(
    path=lambda case: f"/v2/models/{case.name}/infer",
    body=_oip_body,
    numbers=_oip_numbers,
    headers=_json_headers,
)
# LitServe takes one item a request: its batching puts items together.
LITSERVE = Dialect(
    path=lambda _: "/predict",
    body=lambda case: json.dumps({"row": case.rows[0]}).encode(),
    numbers=lambda _case, _headers, body: _rows([json.loads(body)["result"]]),
    headers=_json_headers,
)
BENTOML = Dialect(
    path=lambda _: "/predict",
    body=lambda case: json.dumps({"rows": case.rows}).encode(),
    numbers=lambda _case, _headers, body: _rows(json.loads(body)),
    headers=_json_headers,
)


# Tensors as bytes: the binary extension of the Open Inference Protocol, and no protocol at all.


def _packed(case: Case) -> bytes:
    return b"".join(struct.pack(f"<{len(row)}f", *row) for row in case.rows)


def _binary_header(case: Case) -> bytes:
    size = 4 * case.shape[0] * case.shape[1]
    tensor = {"name": case.source, "shape": case.shape, "datatype": "FP32"}
    wanted = {"name": case.target, "parameters": {"binary_data": True}}
    request = {
        "inputs": [tensor | {"parameters": {"binary_data_size": size}}],
        "outputs": [wanted],
    }
    return json.dumps(request).encode()


def _binary_headers(case: Case) -> dict[str, str]:
    length = str(len(_binary_header(case)))
    return {"Content-Type": "application/octet-stream", _HEADER_LENGTH: length}


def _unpacked(case: Case, data: bytes) -> list[list[float]]:
    width = len(case.expected[0])
    return [list(row) for row in struct.iter_unpack(f"<{width}f", data)]


def _binary_numbers(case: Case, headers: dict[str, str], body: bytes) -> list[list[float]]:
    start = int(headers[_HEADER_LENGTH.lower()])
    size = json.loads(body[:start])["outputs"][0]["parameters"]["binary_data_size"]
    data = body[start:]
    if len(data) != size:
        raise ValueError(f"{len(data)} bytes of {size}")
    return _unpacked(case, data)


OIP_BINARY = Dialect(
    path=lambda case: f"/v2/models/{case.name}/infer",
    body=lambda case: _binary_header(case) + _packed(case),
    numbers=_binary_numbers,
    headers=_binary_headers,
)
BARE = Dialect(
    path=lambda _: "/",
    # The very bytes that the other one is asked with.
    body=OIP_BINARY.body,
    numbers=lambda case, _, body: _unpacked(case, body[-4 * case.shape[0] * case.shape[1] :]),
    headers=_binary_headers,
)
