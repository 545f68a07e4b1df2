"""ONNX Runtime: tensors in, tensors out.

Sessions are made for repeatable answers, and for machines they share with other workers: threads do
not spin while they wait. Inputs are never cast: what the caller sends has the model's type already.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime  # type: ignore[import-untyped] # it ships no types

from fairlead.api.cancellation import current
from fairlead.api.inference import InferRequest, InferResponse, Tensor, Tensors
from fairlead.domain.errors import FairleadError, Kind, Refused
from fairlead.domain.signature import DataType, Signature, TensorSignature, TensorSpec

_DATATYPES = {
    "tensor(bool)": DataType.BOOL,
    "tensor(uint8)": DataType.UINT8,
    "tensor(uint16)": DataType.UINT16,
    "tensor(uint32)": DataType.UINT32,
    "tensor(uint64)": DataType.UINT64,
    "tensor(int8)": DataType.INT8,
    "tensor(int16)": DataType.INT16,
    "tensor(int32)": DataType.INT32,
    "tensor(int64)": DataType.INT64,
    "tensor(float16)": DataType.FP16,
    "tensor(float)": DataType.FP32,
    "tensor(double)": DataType.FP64,
    "tensor(bfloat16)": DataType.BF16,
    "tensor(string)": DataType.BYTES,
}
_ERRORS_ONLY = (
    3  # ONNX Runtime's log severity: its warnings about graphs help nobody who serves them
)
_BFLOAT16 = 16  # TensorProto.BFLOAT16
_MESSAGE_LENGTH = 300  # characters of the engine's own words that are worth passing on


class OnnxModel:
    """One ONNX file in one session; a session may be run from several threads at once."""

    concurrent = True

    def __init__(self, path: Path, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ONLY
        options.use_deterministic_compute = True
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # noqa: BLE001 - the engine's error classes share no base but this
            message = f"{path.name} is not a model that ONNX Runtime can load: {_words(error)}"
            raise Refused(Kind.MODEL, message) from None
        inputs = _specs(path.name, "input", self._session.get_inputs())
        outputs = _specs(path.name, "output", self._session.get_outputs())
        self.signature: Signature = TensorSignature(inputs, outputs)
        self._names = [spec.name for spec in outputs]
        self._bits = {spec.name for spec in inputs if spec.datatype is DataType.BF16}
        bits_out = any(spec.datatype is DataType.BF16 for spec in outputs)
        self._run = self._session.run
        if self._bits or bits_out:
            # With the session in it, as in the other: a run that has begun goes on when this is closed.
            self._run = partial(self._run_values, self._session.run_with_ort_values)

    def infer(self, request: InferRequest) -> InferResponse:
        names = self._names if request.outputs is None else list(request.outputs)
        try:
            tensors = self._run(names, request.tensors, _options())
            return InferResponse(dict(zip(names, tensors, strict=True)))
        except Exception as error:  # noqa: BLE001 - as above
            raise _failure(error) from None

    def shrink(self, request: InferRequest) -> None:
        """Answer once more, and give back what the arena took for larger runs; raises FairleadError."""
        options = onnxruntime.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        try:
            self._run(self._names, request.tensors, options)
        except Exception as error:  # noqa: BLE001 - as above
            raise _failure(error) from None

    def _run_values(
        self,
        run: Callable[..., Any],
        names: list[str],
        tensors: Tensors,
        options: Any,  # noqa: ANN401 - the engine ships no types
    ) -> list[Tensor]:
        """Run with BF16, whose bits only the engine's own values carry."""
        value = onnxruntime.OrtValue
        values = {
            name: value.ortvalue_from_numpy_with_onnx_type(np.ascontiguousarray(tensor), _BFLOAT16)
            if name in self._bits
            else value.ortvalue_from_numpy(tensor)
            for name, tensor in tensors.items()
        }
        return [_tensor(one) for one in run(names, values, options)]

    def parse_document(self, data: bytes) -> Any:  # noqa: ANN401 - the protocol of all models
        raise NotImplementedError("an ONNX model takes tensors")

    def dump_document(self, document: Any) -> bytes:  # noqa: ANN401 - the protocol of all models
        raise NotImplementedError("an ONNX model gives tensors")

    def close(self) -> None:
        """Let the session go, with the last run: who still has this model, or an error of it, does not hold it."""
        self._session = None
        self._run = _closed


def _closed(*_: object) -> Any:  # noqa: ANN401 - as a session's run
    raise Refused(Kind.UNAVAILABLE, "the model is being unloaded")


def _tensor(value: Any) -> Tensor:  # noqa: ANN401 - the engine ships no types
    if value.data_type() != "tensor(bfloat16)":
        found: Tensor = value.numpy()
        return found
    bits = np.empty(value.shape(), np.uint16)
    if bits.size:  # the engine's own memory goes with its value
        ctypes.memmove(bits.ctypes.data, value.data_ptr(), bits.nbytes)
    return bits


def _options() -> Any:  # noqa: ANN401 - the engine ships no types
    """Options that end a run between two nodes of the graph once nobody waits; None if it cannot be cancelled."""
    cancellation = current()
    if cancellation is None:
        return None
    options = onnxruntime.RunOptions()

    def stop() -> None:
        options.terminate = True

    cancellation.on_cancel(stop)
    return options


def _specs(file: str, side: str, arguments: Sequence[Any]) -> tuple[TensorSpec, ...]:
    specs = []
    for argument in arguments:
        datatype = _DATATYPES.get(argument.type)
        if datatype is None:
            hint = "cast it in the graph"
            if argument.type.startswith(("seq", "map")):
                hint = "convert with zipmap=False"
            message = f"{file}: {side} {argument.name!r} is a {argument.type}, which cannot be served: {hint}"
            raise Refused(Kind.MODEL, message)
        # A name or nothing in place of a size is a dimension the caller chooses.
        shape = tuple(
            size if isinstance(size, int) and size >= 0 else -1 for size in argument.shape
        )
        specs.append(TensorSpec(argument.name, datatype, shape))
    return tuple(specs)


def _failure(error: Exception) -> FairleadError:
    """Sizes that fit the signature but not each other are the caller's mistake, all else the model's."""
    error.__traceback__ = None  # its frames hold the session for as long as anybody has the error
    if isinstance(error, FairleadError):
        return error
    if isinstance(error, UnicodeEncodeError):
        return Refused(
            Kind.INVALID, "a text holds half of a surrogate pair, which UTF-8 cannot carry"
        )
    if "INVALID_ARGUMENT" in str(error):
        return Refused(Kind.INVALID, f"the model does not take this input: {_words(error)}")
    return Refused(Kind.MODEL, f"the model failed on this input: {_words(error)}")


def _words(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= _MESSAGE_LENGTH else text[:_MESSAGE_LENGTH] + "…"
