"""Talking to a worker through its unix socket: the same transport and dialects its callers use."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from fairlead.api.held import Held, held_from_json
from fairlead.api.load import LOAD_PATH, Load, loads_from_json
from fairlead.api.worker import (
    IDENTITY_PATH,
    METRICS_PATH,
    PROVED_PATH,
    REPLICAS_PATH,
    RETIRE_PATH,
    WorkerSpec,
)
from fairlead.domain.errors import FairleadError, Kind
from fairlead.domain.ids import EndpointId
from fairlead.domain.signature import DataType, TensorSignature
from fairlead.kits.unixhttp import unix_client

_SHOWN = 300  # characters of a worker's refusal that a reason may hold
_OK = 200
_UNAVAILABLE = 503
OPENMETRICS = "application/openmetrics-text"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who answers on a socket, and whether it is loaded."""

    worker: str
    digest: str
    ready: bool
    failed: str = ""  # why it will never be
    held: Held | None = None  # runs that do not end hold it


@dataclass(frozen=True, slots=True)
class Company:
    """Everybody in one process by name, and what they have counted together."""

    replicas: Mapping[str, Identity]
    counted: int


def socket_of(spec: WorkerSpec) -> Path:
    """Where a worker listens. Only a stand-alone model server has none, and no agent starts one."""
    if spec.socket is None:
        raise ValueError(f"worker {spec.worker} has no socket")
    return spec.socket


class WorkerClient:
    """A connection to one worker. Use it as a context manager."""

    def __init__(self, socket: Path, timeout_seconds: float) -> None:
        self._http = unix_client(socket, timeout_seconds)

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._http.__aexit__(kind, error, trace)

    async def identity(self) -> Identity | None:
        """Who is there; None while nobody answers."""
        document = await self._document(IDENTITY_PATH)
        return None if document is None else _identity(document)

    async def company(self) -> Company | None:
        """Who is in this process; None while nobody answers."""
        document = await self._document(REPLICAS_PATH)
        if document is None:
            return None
        replicas, counted = document.get("replicas"), document.get("counted")
        each = replicas if isinstance(replicas, list) else []
        found = [_identity(one) for one in each if isinstance(one, dict)]
        return Company(
            {one.worker: one for one in found}, counted if isinstance(counted, int) else -1
        )

    async def load(self) -> Mapping[EndpointId, Load] | None:
        """How much everybody in this process is asked; None if nobody answers."""
        body = await self._body(LOAD_PATH)
        try:
            return None if body is None else loads_from_json(body)
        except ValueError:
            return None

    async def retire(self) -> bool:
        """Ask the replica of this socket to leave its process; has it left?"""
        try:
            answer = await self._http.post(RETIRE_PATH)
        except httpx.HTTPError:
            return False
        return answer.status_code == _OK

    async def proved(self) -> None:
        """Tell the replica of this socket that its examples are over; one that does not hear it counts them."""
        with contextlib.suppress(httpx.HTTPError):
            await self._http.post(PROVED_PATH)

    async def _body(self, path: str) -> bytes | None:
        try:
            answer = await self._http.get(path)
        except httpx.HTTPError:
            return None
        return answer.content if answer.status_code == _OK else None

    async def _document(self, path: str) -> dict[str, Any] | None:
        body = await self._body(path)
        try:
            document = None if body is None else json.loads(body)
        except ValueError:
            return None
        return document if isinstance(document, dict) else None

    async def predict(self, path: str, request: Any) -> Any:  # noqa: ANN401 - JSON values
        """The project API's answer to a document."""
        return await self._post(path, request)

    async def infer(
        self, path: str, signature: TensorSignature, request: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Open Inference Protocol: nested lists by tensor name in, nested lists by tensor name out."""
        answer = await self._post(path, open_inference(signature, request))
        try:
            return {
                tensor["name"]: nested(list(tensor["data"]), list(tensor["shape"]))
                for tensor in answer["outputs"]
            }
        except (KeyError, TypeError, ValueError) as error:
            message = f"the worker's answer is no inference response ({error!r})"
            raise FairleadError(message, kind=Kind.INTERNAL) from None

    async def metrics(self) -> tuple[str, str]:
        """The worker's exposition and its content type; raises httpx.HTTPError."""
        answer = await self._http.get(METRICS_PATH, headers={"accept": OPENMETRICS})
        answer.raise_for_status()
        return answer.text, answer.headers.get("content-type", "")

    async def _post(self, path: str, body: Any) -> Any:  # noqa: ANN401 - JSON values
        try:
            answer = await self._http.post(
                path,
                content=json.dumps(body, ensure_ascii=False).encode(),
                headers={"content-type": "application/json"},
            )
        except httpx.HTTPError as error:
            message = f"the worker does not answer: {type(error).__name__} {error}".rstrip()
            raise FairleadError(message, kind=Kind.UNAVAILABLE) from None
        if answer.status_code != _OK:
            message = f"the worker answered {answer.status_code}: {answer.text[:_SHOWN]}"
            # One that is only busy, or ends, has not answered wrongly.
            busy = answer.status_code == _UNAVAILABLE
            raise FairleadError(message, kind=Kind.UNAVAILABLE if busy else Kind.MODEL)
        try:
            return json.loads(answer.content)
        except ValueError:
            message = f"the worker's answer is not JSON: {answer.text[:_SHOWN]}"
            raise FairleadError(message, kind=Kind.INTERNAL) from None


def _identity(document: Mapping[str, Any]) -> Identity:
    return Identity(
        str(document.get("worker")),
        str(document.get("digest")),
        document.get("ready") is True,
        str(document.get("failed") or ""),
        held_from_json(document.get("held")),
    )


def open_inference(signature: TensorSignature, request: Mapping[str, Any]) -> dict[str, Any]:
    """The Open Inference Protocol's request for nested lists by tensor name."""
    inputs = [
        _tensor(spec.name, spec.datatype, request[spec.name])
        for spec in signature.inputs
        if spec.name in request
    ]
    return {"inputs": inputs}


def shape_of(values: Any) -> list[int]:  # noqa: ANN401 - nested lists of any depth
    """Shape of nested lists, as their first elements tell it."""
    shape = []
    while isinstance(values, list):
        shape.append(len(values))
        if not values:
            break
        values = values[0]
    return shape


def flat(values: Any) -> list[Any]:  # noqa: ANN401 - nested lists of any depth
    """The elements of nested lists, the last dimension running fastest."""
    if not isinstance(values, list):
        return [values]
    return [element for value in values for element in flat(value)]


def nested(data: list[Any], shape: list[int]) -> Any:  # noqa: ANN401 - nested lists of any depth
    """Nested lists of that shape; raises ValueError if the number of elements is another."""
    elements = flat(data)
    count = 1
    for size in shape:
        count *= size
    if len(elements) != count:
        raise ValueError(f"{len(elements)} elements for shape {shape}")
    return _nest(elements, shape)


def _nest(elements: list[Any], shape: list[int]) -> Any:  # noqa: ANN401 - nested lists of any depth
    if not shape:
        return elements[0]
    size, rest = shape[0], shape[1:]
    step = len(elements) // size if size else 0
    return [_nest(elements[index * step : (index + 1) * step], rest) for index in range(size)]


def _tensor(name: str, datatype: DataType, values: Any) -> dict[str, Any]:  # noqa: ANN401 - nested lists
    return {
        "name": name,
        "datatype": str(datatype),
        "shape": shape_of(values),
        "data": flat(values),
    }
