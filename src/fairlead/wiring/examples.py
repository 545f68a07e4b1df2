"""An artifact's first golden example as a request that any client may send, and where it is sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fairlead.agent.asking import open_inference
from fairlead.domain.golden import golden_from_bytes
from fairlead.domain.manifest import Manifest
from fairlead.domain.signature import DocumentSignature, Signature, TensorSignature, TensorSpec
from fairlead.wiring.homes import Control


@dataclass(frozen=True, slots=True)
class Asking:
    """A request's body. `tensors`: it is Open Inference's, because the project API has no instances of this model."""

    body: Any
    tensors: bool = False

    def path(self, service: str, root: str) -> str:
        """Where this is asked of a service; `root` starts the project API's paths."""
        return f"/v2/models/{service}/infer" if self.tensors else f"{root}/model/{service}/predict"


def first_example(control: Control, manifest: Manifest) -> Asking:
    """The first golden example of an artifact; of one that takes rows the first row."""
    (file,) = [file for file in manifest.files if file.path == manifest.golden]
    golden = golden_from_bytes(control.artifacts.read(file.sha256, 0, file.size))
    return asking(manifest.signature, golden.examples[0].request)


def asking(signature: Signature, request: Any) -> Asking:  # noqa: ANN401 - JSON values
    """A golden example's request as a caller sends it: one instance where the model has such."""
    if isinstance(signature, DocumentSignature):
        return Asking(request)
    row = _first_row(signature, request)
    if row is None:
        return Asking(open_inference(signature, request), tensors=True)
    return Asking({"instances": [row[0] if len(row) == 1 else _named(signature, row)]})


def _first_row(signature: TensorSignature, request: Mapping[str, Any]) -> list[Any] | None:
    """What the first row holds of each input; None if one row alone is no request of this model, or has no answer."""
    if not all(map(_has_rows, (*signature.inputs, *signature.outputs))):
        return None
    columns = [request.get(spec.name) for spec in signature.inputs]
    if not all(columns):
        return None
    return [column[0] for column in columns if column]


def _has_rows(spec: TensorSpec) -> bool:
    return bool(spec.shape) and spec.shape[0] in (-1, 1)


def _named(signature: TensorSignature, row: list[Any]) -> dict[str, Any]:
    return {spec.name: value for spec, value in zip(signature.inputs, row, strict=True)}
