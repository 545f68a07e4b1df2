"""The models that Open Inference clients' own examples ask, as folders a user would write."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from support.models import (
    INT32,
    bf16_doubled,
    example,
    identity,
    simple,
    simple_string,
    text_identity,
)
from support.plain import NO_TLS
from support.running import FAIRLEAD, free_port, until

ROW = list(range(16))
SUMS = [one + 1 for one in ROW]
DIFFERENCES = [one - 1 for one in ROW]
LABELS = ["cat", "dog", "eel"]


def _texts(values: list[int]) -> list[list[str]]:
    return [[str(one) for one in values]]


def _pair(first: Any, second: Any) -> dict[str, Any]:
    return {"INPUT0": first, "INPUT1": second}


# name -> (the graph, its golden example, more of its model.yaml)
MODELS: dict[str, tuple[bytes, dict[str, Any], dict[str, Any]]] = {
    "simple": (
        simple(),
        example(_pair([ROW], [[1] * 16]), {"OUTPUT0": [SUMS], "OUTPUT1": [DIFFERENCES]}),
        {},
    ),
    "simple-string": (
        simple_string(),
        example(
            _pair(_texts(ROW), _texts([1] * 16)),
            {"OUTPUT0": _texts(SUMS), "OUTPUT1": _texts(DIFFERENCES)},
        ),
        {},
    ),
    "simple-identity": (
        text_identity(),
        example({"INPUT0": _texts(ROW)}, {"OUTPUT0": _texts(ROW)}),
        {},
    ),
    "classes": (
        identity(INT32, ["n", 3]),
        example({"x": [[1, 3, 2]]}, {"y": [[1, 3, 2]]}),
        {"labels": {"y": LABELS}},
    ),
    "bits": (bf16_doubled(), example({"x": [[1.5, -2]]}, {"y": [[3, -4]]}), {}),
}


def write_models(directory: Path) -> list[Path]:
    """Each model in a folder of its own, `NAME/1`."""
    folders = []
    for name, (model, golden, more) in MODELS.items():
        folder = directory / name / "1"
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(model)
        (folder / "golden.json").write_text(json.dumps({"tolerance": {}, "examples": [golden]}))
        described = {"name": name, "version": 1, "engine": "onnx", **more}
        (folder / "model.yaml").write_text(json.dumps(described))  # JSON is YAML too
        folders.append(folder)
    return folders


def write_releases(directory: Path) -> list[Path]:
    """A release file for each model."""
    files = []
    for name in MODELS:
        document = {
            "service": name,
            "model": "v1",
            "version": "1",
            "artifact": f"{name}/1",
            "traffic": [{"tag": "1", "percent": 100}],
        }
        files.append(directory / f"{name}.json")
        files[-1].write_text(json.dumps(document))
    return files


@contextlib.contextmanager
def served(directory: Path) -> Iterator[str]:
    """`fairlead serve` of all the models; gives HOST:PORT."""
    folders = write_models(directory)
    address = f"127.0.0.1:{free_port()}"
    log = directory / "serve.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*FAIRLEAD, "serve", *map(str, folders), "--port", address.rpartition(":")[2]],
            stdout=output,
            stderr=output,
        )

    def ready() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return httpx.get(f"http://{address}/v2/health/ready", verify=NO_TLS).is_success
        except httpx.TransportError:
            return False

    try:
        until(ready, 60, "fairlead serve is ready")
        yield address
    finally:
        process.terminate()
        assert process.wait(30) == 0, log.read_text()
