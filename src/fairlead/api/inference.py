"""The one shape every dialect decodes to and every engine answers: `InferRequest`, `InferResponse`.

A model takes tensors or a document (its signature says which); N dialects and M engines meet only here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from fairlead.domain.signature import Signature

# String tensors (BYTES) travel as object arrays of str; numeric ones as the matching numpy type. BF16, which
# numpy has not, travels as its bits (uint16); `api.bf16` makes numbers of them.
Tensor = npt.NDArray[Any]
Tensors = Mapping[str, Tensor]

NUMPY_TYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BF16": np.dtype(np.uint16),
    "BYTES": np.dtype(np.object_),
}


class InferRequest(msgspec.Struct):
    """One question. `tensors` for a tensor signature, `document` for a document signature.

    `outputs` names the wanted outputs; None means all. `priority` is the level asked for, 1 before all
    others; 0 is the model's default. `queue_seconds` is how long it may wait for its run; 0 is as long as others.
    `text` is the JSON that the document was parsed from, if it may have to be run more than once: code may
    change the document that it is given.
    """

    tensors: Tensors = msgspec.field(default_factory=dict)
    document: Any = None
    text: bytes | None = None
    outputs: tuple[str, ...] | None = None
    priority: int = 0
    queue_seconds: float = 0.0


class InferResponse(msgspec.Struct):
    """One answer, in the model's output order."""

    tensors: Tensors = msgspec.field(default_factory=dict)
    document: Any = None


class Model(Protocol):
    """A loaded artifact. `infer` is called from one thread at a time unless `concurrent` is true."""

    signature: Signature
    concurrent: bool  # may several threads call `infer` at once?

    def infer(self, request: InferRequest) -> InferResponse | Awaitable[InferResponse]:
        """Answer one request; raises FairleadError (SCHEMA, INVALID or MODEL) with a message for the caller."""
        ...

    def parse_document(self, data: bytes) -> Any:  # noqa: ANN401 - the model's own request type
        """Read and check a JSON request of a document signature; raises SchemaMismatch."""
        ...

    def dump_document(self, document: Any) -> bytes:  # noqa: ANN401 - the model's own response type
        """Check and write a response of a document signature as JSON; raises FairleadError (MODEL)."""
        ...

    def close(self) -> None:
        """Free what the model holds."""
        ...
