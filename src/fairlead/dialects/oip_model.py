"""What the Open Inference Protocol tells of models besides their answers: metadata, configuration (S1-G 35), statistics (S1-G 42).

The shapes are Triton's, because its clients read them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fairlead.domain.signature import (
    DataType,
    DocumentSignature,
    Signature,
    TensorSignature,
    TensorSpec,
)

# What is really there (`GET v2`); asking for another one is refused.
EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "statistics",
)
# How a model of documents shows itself to clients of tensors.
DOCUMENTS = TensorSignature(
    (TensorSpec("request", DataType.BYTES, (-1,)),),
    (TensorSpec("response", DataType.BYTES, (-1,)),),
)
PLATFORMS = {"onnx": "onnxruntime_onnx", "python": "python"}
_BACKENDS = {"onnx": "onnxruntime", "python": "python"}
READY = "READY"
UNAVAILABLE = "UNAVAILABLE"
LOADING = "LOADING"
UNLOADING = "UNLOADING"


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a configuration is made of. `versions` are the artifact versions that are served.

    With `max_batch_size` 0 shapes are whole; else the batch dimension is left out of them.
    """

    name: str
    versions: Sequence[int]
    engine: str
    entry: str
    signature: Signature
    labels: Mapping[str, Sequence[str]]
    instances: int = 1
    max_batch_size: int = 0


def server_metadata(version: str) -> dict[str, Any]:
    """What `GET v2` answers."""
    return {"name": "fairlead", "version": version, "extensions": list(EXTENSIONS)}


def metadata(
    name: str, versions: Sequence[int], platform: str, signature: Signature
) -> dict[str, Any]:
    """What `GET v2/models/<name>` answers."""
    shown = DOCUMENTS if isinstance(signature, DocumentSignature) else signature
    return {
        "name": name,
        "versions": [str(version) for version in versions],
        "platform": platform,
        "inputs": [_tensor_metadata(spec) for spec in shown.inputs],
        "outputs": [_tensor_metadata(spec) for spec in shown.outputs],
    }


def configuration(facts: ModelFacts) -> dict[str, Any]:
    """What `GET v2/models/<name>/config` answers."""
    shown = DOCUMENTS if isinstance(facts.signature, DocumentSignature) else facts.signature
    batched = facts.max_batch_size > 0
    return {
        "name": facts.name,
        "platform": PLATFORMS[facts.engine] if facts.engine == "onnx" else "",
        "backend": _BACKENDS[facts.engine],
        "version_policy": {"specific": {"versions": list(facts.versions)}},
        "max_batch_size": facts.max_batch_size,
        "input": [
            {
                **_tensor(spec, batched=batched),
                "format": "FORMAT_NONE",
                "is_shape_tensor": False,
                "allow_ragged_batch": False,
                "optional": False,
            }
            for spec in shown.inputs
        ],
        "output": [
            {
                **_tensor(spec, batched=batched),
                "label_filename": f"{spec.name}.labels" if spec.name in facts.labels else "",
                "is_shape_tensor": False,
            }
            for spec in shown.outputs
        ],
        "instance_group": [
            {
                "name": f"{facts.name}_0",
                "kind": "KIND_CPU",
                "count": facts.instances,
                "gpus": [],
                "profile": [],
            }
        ],
        "default_model_filename": facts.entry,
        "parameters": {},
        "model_warmup": [],
    }


def type_name(datatype: DataType) -> str:
    """The data type as configurations spell it: TYPE_STRING for BYTES."""
    return "TYPE_STRING" if datatype is DataType.BYTES else f"TYPE_{datatype}"


def model_statistics(name: str, version: int, counts: Mapping[str, Any]) -> dict[str, Any]:
    """One entry of `model_stats`."""
    return {"name": name, "version": str(version), **counts}


def merged(entries: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Entries of several servers as one per model and version, in order: counts are added up."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for entry in entries:
        key = (entry["name"], entry["version"])
        found[key] = _sum(found[key], entry) if key in found else dict(entry)
    order = sorted(found, key=lambda key: (key[0], len(key[1]), key[1]))
    return [found[key] for key in order]


def index_entry(name: str, version: int, state: str, reason: str = "") -> dict[str, str]:
    """One entry of what `POST v2/repository/index` answers."""
    return {"name": name, "version": str(version), "state": state, "reason": reason}


def _tensor(spec: TensorSpec, *, batched: bool) -> dict[str, Any]:
    dims = spec.shape[1:] if batched else spec.shape
    return {"name": spec.name, "data_type": type_name(spec.datatype), "dims": list(dims)}


def _sum(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    whole = dict(one)
    whole["last_inference"] = max(one["last_inference"], other["last_inference"])
    for key in ("inference_count", "execution_count"):
        whole[key] = one[key] + other[key]
    whole["inference_stats"] = {
        key: _added(value, other["inference_stats"][key])
        for key, value in one["inference_stats"].items()
    }
    sizes: dict[int, Mapping[str, Any]] = {}
    for part in (*one["batch_stats"], *other["batch_stats"]):
        size = part["batch_size"]
        before = sizes.get(size)
        sizes[size] = part if before is None else _added_parts(before, part)
    whole["batch_stats"] = [sizes[size] for size in sorted(sizes)]
    return whole


def _added_parts(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value if key == "batch_size" else _added(value, other[key])
        for key, value in one.items()
    }


def _added(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {key: value + other[key] for key, value in one.items()}


def _tensor_metadata(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": str(spec.datatype), "shape": list(spec.shape)}
