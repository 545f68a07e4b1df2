"""What an agent writes for a worker reads back whole, and anything else is told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fairlead.api.worker import (
    INFER_PATH,
    PREDICT_PATH,
    ServedEndpoint,
    ServingSettings,
    WorkerSpec,
)
from fairlead.domain.errors import InvalidInput
from fairlead.domain.ids import RevisionId

SPEC = WorkerSpec(
    "w1",
    RevisionId("speech", "v9", "2"),
    Path("/artifacts/a"),
    "sha256:ab",
    (ServedEndpoint("stream", 1, ("/say",)), ServedEndpoint()),
    Path("/run/w1.sock"),
    ServingSettings(api_version=""),
    threads=2,
    legacy_key=True,
)


def test_a_spec_reads_back() -> None:
    assert WorkerSpec.from_json(SPEC.to_json()) == SPEC


def test_keys_go_with_it_to_another_process_and_into_no_log() -> None:
    spec = replace(SPEC, legacy_keys=("s3cret",))
    assert WorkerSpec.from_json(spec.to_json()) == spec
    assert "s3cret" not in repr(spec)


@pytest.mark.parametrize("has_default", [True, False])
def test_whoever_proves_it_asks_the_service_or_a_path_of_its_own(*, has_default: bool) -> None:
    endpoints = SPEC.endpoints if has_default else SPEC.endpoints[:1]
    spec = replace(SPEC, endpoints=endpoints, settings=ServingSettings(api_version="v1"))
    assert (spec.predict_path, spec.infer_path) == (
        ("/v1/model/speech/predict", "/v2/models/speech/infer")
        if has_default
        else (PREDICT_PATH, INFER_PATH)
    )


def test_what_is_left_out_has_its_default() -> None:
    document = json.loads(SPEC.to_json())
    for name in ("endpoints", "socket", "threads"):
        del document[name]
    document["settings"] = None
    read = WorkerSpec.from_json(json.dumps(document))
    assert (read.endpoints, read.socket, read.threads) == ((ServedEndpoint(),), None, 0)
    assert read.settings == ServingSettings()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ('{"worker": "w1"}', "revision"),
        (json.dumps({**json.loads(SPEC.to_json()), "speed": 3}), "speed"),
    ],
)
def test_anything_else_is_refused_with_what_is_wrong(text: str, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        WorkerSpec.from_json(text)
