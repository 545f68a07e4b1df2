"""Golden examples as requests that really work: in the banner, for `predict` and for `verify`."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from fairlead.control import releases
from fairlead.domain.ids import ArtifactRef
from fairlead.domain.signature import DataType, DocumentSignature, TensorSignature, TensorSpec
from fairlead.wiring.asking import Way
from fairlead.wiring.banner import banner
from fairlead.wiring.examples import Asking, asking
from fairlead.wiring.homes import Control, open_home, read_releases
from fairlead.wiring.up import announce
from fairlead.wiring.verifying import calls_of
from support.models import (
    FLOAT,
    Artifact,
    echo_artifact,
    example,
    identity,
    make_artifact,
    scaled_artifact,
)

FP32, INT64 = DataType.FP32, DataType.INT64
WAY = Way("http://here", "/v1", "key", verify=True)


def tensor(name: str, *shape: int, kind: DataType = FP32) -> TensorSpec:
    return TensorSpec(name, kind, shape)


def signature(inputs: list[TensorSpec], outputs: list[TensorSpec]) -> TensorSignature:
    return TensorSignature(tuple(inputs), tuple(outputs))


def test_a_document_and_a_row_are_asked_by_the_project_api() -> None:
    assert asking(DocumentSignature(), {"text": "hi"}) == Asking({"text": "hi"})
    one = signature([tensor("x", -1, 2)], [tensor("y", -1)])
    assert asking(one, {"x": [[1, 2], [3, 4]]}) == Asking({"instances": [[1, 2]]})
    two = signature([tensor("a", -1), tensor("b", 1, 2)], [tensor("y", -1)])
    request = {"a": [5], "b": [[1, 2]]}
    assert asking(two, request) == Asking({"instances": [{"a": 5, "b": [1, 2]}]})
    assert asking(two, request).path("s", "/v1") == "/v1/model/s/predict"


@pytest.mark.parametrize(
    ("inputs", "outputs", "request_"),
    [
        ([tensor("x")], [tensor("y")], {"x": 7}),
        ([tensor("x", -1), tensor("k")], [tensor("y", -1)], {"x": [1, 2], "k": 3}),
        ([tensor("x", -1)], [tensor("y")], {"x": [1, 2]}),
        ([tensor("x", 3)], [tensor("y", 3)], {"x": [1, 2, 3]}),
        ([tensor("x", -1, 2)], [tensor("y", -1, 2)], {"x": []}),
    ],
    ids=["scalar", "a scalar beside rows", "an answer without rows", "all rows or none", "no row"],
)
def test_what_has_no_rows_is_asked_whole_by_open_inference(
    inputs: list[TensorSpec], outputs: list[TensorSpec], request_: dict[str, Any]
) -> None:
    found = asking(signature(inputs, outputs), request_)
    assert found.path("s", "/v1") == "/v2/models/s/infer"
    assert [one["name"] for one in found.body["inputs"]] == list(request_)


def test_a_scalar_is_a_tensor_without_dimensions() -> None:
    found = asking(signature([tensor("x", kind=INT64)], [tensor("y")]), {"x": 7})
    assert found.body == {"inputs": [{"name": "x", "datatype": "INT64", "shape": [], "data": [7]}]}


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> list[Artifact]:
    root = tmp_path_factory.mktemp("artifacts")
    scalar = make_artifact(
        root / "scalar",
        {"model.onnx": identity(FLOAT, [])},
        [example({"x": 1.5}, {"y": 1.5})],
        ArtifactRef("scalar", 1),
    )
    return [scalar, scaled_artifact(root / "scaled"), echo_artifact(root / "echo")]


@pytest.fixture
def home(
    artifacts: list[Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Control, list[releases.SourcedRelease]]:
    """A home with a scalar model, one of rows and one of documents, and their releases."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/tmp")
    control = open_home(tmp_path / "home", create=True)
    files = []
    for one in artifacts:
        control.artifacts.publish(one.manifest, one.directory)
        name = one.manifest.ref.name
        files.append(tmp_path / f"{name}.yaml")
        files[-1].write_text(
            f"service: {name}\nmodel: v1\nversion: '1'\nartifact: {name}/1\n"
            f"endpoints: {{predict: {{paths: [/own/{name}]}}}}\n"
        )
    sourced = read_releases(files)
    releases.apply(control.catalogs, control.artifacts, control.clock, sourced)
    return control, sourced


def test_the_banner_has_a_line_that_works_for_each(
    home: tuple[Control, list[releases.SourcedRelease]],
) -> None:
    told = banner(home[0], "http://here", "/v1", 1.0)
    tried = [shlex.split(line) for line in told.splitlines() if line.startswith("  curl")]
    sent = {words[4]: json.loads(words[6]) for words in tried}
    assert sent == {
        "http://here/v1/model/echo/predict": {"text": "hi", "times": 2},
        "http://here/v1/model/scaled/predict": {"instances": [[1.0, 2.0, 3.0]]},
        "http://here/v2/models/scalar/infer": {
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [], "data": [1.5]}]
        },
    }


def test_verify_asks_a_model_without_rows_where_it_answers(
    home: tuple[Control, list[releases.SourcedRelease]],
) -> None:
    control, sourced = home
    found = {one.release.service: calls_of(control, WAY, one.release) for one in sourced}
    paths = {service: [call.path for call in calls] for service, calls in found.items()}
    assert paths == {
        "scalar": ["/v2/models/scalar/infer"],  # its own path speaks of instances, which it has not
        "scaled": ["/own/scaled"],
        "echo": ["/own/echo"],
    }
    assert json.loads(found["scalar"][0].body)["inputs"][0]["data"] == [1.5]


def test_a_banner_that_fails_is_told_and_ends_nothing() -> None:
    def ready(seconds: float) -> None:
        raise TypeError(f"no banner after {seconds}")

    told: list[str] = []
    announce(ready, 2.0, told.append)
    assert told == [
        "Ready after 2.0 s. Lines to try cannot be shown (TypeError: no banner after 2.0): see `fairlead status`"
    ]
