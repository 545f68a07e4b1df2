"""What may be said about batching: read whole, written back, merged key by key, contradictions named."""

from __future__ import annotations

from typing import Any

import pytest

from fairlead.domain.batching import (
    BATCHING_KEYS,
    Batching,
    batching_from_json,
    batching_to_json,
    checked,
    contradictions,
)
from fairlead.domain.errors import InvalidInput
from fairlead.domain.ids import ArtifactRef
from fairlead.domain.manifest import Manifest, ManifestFile, manifest_from_bytes, manifest_to_bytes
from fairlead.domain.reading import Node
from fairlead.domain.release import release_from_document, release_to_json
from fairlead.domain.signature import DocumentSignature

EVERYTHING: dict[str, Any] = {
    "enabled": True,
    "maxBatchSize": 16,
    "maxQueueDelayMicroseconds": 500,
    "preferredBatchSizes": [8, 16],
    "allowedBatchSizes": [4, 8, 16],
    "padVariableLengthInputs": {"ids": 0, "text": "", "mask": False},
    "maxQueueSize": 100,
    "priorityLevels": 3,
    "defaultPriorityLevel": 3,
    "defaultTimeoutMicroseconds": 10_000,
    "timeoutAction": "delay",
}


def read(document: Any, *, whole: bool = True) -> Batching:
    node = Node(document, "batching")
    found = batching_from_json(node)
    node.done("model.yaml")
    node.problems.extend(contradictions(found, "batching", whole=whole))
    node.done("model.yaml")
    return found


def test_everything_that_can_be_said_reads_back_and_every_key_is_tried_here() -> None:
    assert set(EVERYTHING) == {key.name for key in BATCHING_KEYS}
    assert batching_to_json(read(EVERYTHING)) == EVERYTHING
    assert not read({})
    assert batching_to_json(Batching()) == {}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "batching: is a list; write an object"),
        ({"maxbatchsize": 4}, "batching.maxbatchsize: unknown key; did you mean 'maxBatchSize'?"),
        ({"maxBatchSize": 0}, "batching.maxBatchSize: is 0; write a whole number from 1 to 65536"),
        ({"maxBatchSize": True}, "batching.maxBatchSize: is true"),
        ({"enabled": "yes"}, "batching.enabled: is 'yes'; write true or false"),
        (
            {"maxBatchSize": 8, "preferredBatchSizes": [4, 16]},
            "batching.preferredBatchSizes: names 16; at most maxBatchSize, 8",
        ),
        (
            {"preferredBatchSizes": [8, 4]},
            "batching.preferredBatchSizes: [8, 4] does not rise; each size once, the smallest first",
        ),
        ({"preferredBatchSizes": []}, "batching.preferredBatchSizes: is empty"),
        ({"preferredBatchSizes": ["4"]}, "batching.preferredBatchSizes[0]: is '4'"),
        (
            {"maxBatchSize": 16, "allowedBatchSizes": [4, 8]},
            "batching.allowedBatchSizes: ends with 8; end with maxBatchSize, 16",
        ),
        (
            {"allowedBatchSizes": [4, 8], "preferredBatchSizes": [6]},
            "batching.preferredBatchSizes: names 6; one of allowedBatchSizes [4, 8]",
        ),
        (
            {"defaultPriorityLevel": 2},
            "batching.defaultPriorityLevel: is 2; say priorityLevels too",
        ),
        (
            {"priorityLevels": 2, "defaultPriorityLevel": 3},
            "batching.defaultPriorityLevel: is 3; at most priorityLevels, 2",
        ),
        ({"timeoutAction": "delay"}, "batching.timeoutAction: is delay, after no time"),
        (
            {"timeoutAction": "later", "defaultTimeoutMicroseconds": 1},
            "batching.timeoutAction: is 'later'; write one of reject, delay",
        ),
        (
            {"padVariableLengthInputs": {"ids": [0]}},
            "batching.padVariableLengthInputs.ids: is a list",
        ),
        (
            {"maxQueueDelayMicroseconds": 1000, "defaultTimeoutMicroseconds": 1000},
            "batching.maxQueueDelayMicroseconds: is 1000, as long as defaultTimeoutMicroseconds or longer; "
            "write less than 1000",
        ),
        ({"padVariableLengthInputs": 0}, "batching.padVariableLengthInputs: is 0; write an object"),
    ],
)
def test_what_is_wrong_is_named_with_its_key(document: Any, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(document)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "said",
    [
        {"maxQueueDelayMicroseconds": 999, "defaultTimeoutMicroseconds": 1000},
        {"maxQueueDelayMicroseconds": 999, "defaultTimeoutMicroseconds": 0},
        # What a free engine is about to take does not wait in the queue.
        {"maxQueueDelayMicroseconds": 1, "maxQueueSize": 3, "maxBatchSize": 4},
        # Who is only put behind all others still has its run.
        {
            "maxQueueDelayMicroseconds": 1000,
            "defaultTimeoutMicroseconds": 1000,
            "timeoutAction": "delay",
        },
    ],
)
def test_waits_that_can_end_are_right(said: dict[str, Any]) -> None:
    assert read(said)


def test_a_wait_must_end_before_the_endpoints_own_time() -> None:
    release = {"service": "s", "model": "v1", "version": "1", "artifact": "s/1"}
    said = {"maxQueueDelayMicroseconds": 2_000_000}
    endpoint = {"timeoutSeconds": 3, "batching": said}
    assert release_from_document({**release, "endpoints": {"predict": endpoint}}, "")
    endpoint["timeoutSeconds"] = 2
    with pytest.raises(
        InvalidInput,
        match=r"predict\.batching\.maxQueueDelayMicroseconds: is 2000000, as long as .* \(2 s\)",
    ):
        release_from_document({**release, "endpoints": {"predict": endpoint}}, "")


OVER_A_MODEL: list[dict[str, Any]] = [
    {"timeoutAction": "delay"},
    {"defaultPriorityLevel": 2},
    {"maxBatchSize": 8},
    {"preferredBatchSizes": [16]},
    {"maxQueueDelayMicroseconds": 500},
]


@pytest.mark.parametrize("said", OVER_A_MODEL)
def test_a_release_may_say_what_only_the_models_own_file_makes_whole(said: dict[str, Any]) -> None:
    model = read(
        {"defaultTimeoutMicroseconds": 1000, "priorityLevels": 2, "preferredBatchSizes": [4]}
    )
    release = {"service": "s", "model": "v1", "version": "1", "artifact": "s/1"}
    endpoints = {"predict": {"batching": said}}
    (endpoint,) = release_from_document({**release, "endpoints": endpoints}, "").endpoints
    assert checked(endpoint.batching.over(model), "endpoints.predict")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"timeoutAction": "delay", "defaultTimeoutMicroseconds": 0}, "is delay, after no time"),
        ({"priorityLevels": 0, "defaultPriorityLevel": 2}, "say priorityLevels too"),
        ({"allowedBatchSizes": [4, 8], "preferredBatchSizes": [16]}, "at most maxBatchSize, 8"),
        ({"preferredBatchSizes": [8, 4]}, "does not rise"),
        (
            {"maxQueueDelayMicroseconds": 9, "defaultTimeoutMicroseconds": 9},
            "as long as defaultTimeoutMicroseconds or longer",
        ),
    ],
)
def test_what_a_release_says_is_refused_where_no_model_could_make_it_right(
    said: dict[str, Any], message: str
) -> None:
    release = {"service": "s", "model": "v1", "version": "1", "artifact": "s/1"}
    for endpoints in (
        {"endpoints": {"stream": {"batching": said}}},
        {"stream": {"batching": said}},
    ):
        with pytest.raises(InvalidInput, match=r"stream\.batching\.\w+: .*" + message):
            release_from_document({**release, **endpoints}, "")


def test_what_an_endpoint_says_stands_over_what_the_model_says_key_by_key() -> None:
    model = read({"maxBatchSize": 16, "maxQueueSize": 5, "enabled": True})
    endpoint = read({"maxQueueSize": 7, "enabled": False})
    assert endpoint.over(model) == Batching(enabled=False, max_batch_size=16, max_queue_size=7)


def test_two_files_that_contradict_each_other_only_together_are_refused() -> None:
    model, endpoint = read({"maxBatchSize": 8}), read({"preferredBatchSizes": [16]})
    with pytest.raises(InvalidInput, match="names 16; at most maxBatchSize, 8"):
        checked(endpoint.over(model), "endpoints.predict")


def test_a_request_that_names_no_level_gets_the_middle_one() -> None:
    assert [Batching(priority_levels=n).default_level for n in (0, 1, 2, 3, 5)] == [1, 1, 1, 2, 3]


def manifest(batching: Batching) -> Manifest:
    files = (ManifestFile("golden.json", 1, "1" * 64), ManifestFile("m.onnx", 1, "0" * 64))
    empty = DocumentSignature()
    ref = ArtifactRef("m", 1)
    return Manifest(ref, "onnx", "m.onnx", files, empty, "golden.json", batching=batching)


def test_a_manifest_keeps_it_and_one_without_it_is_what_it_always_was() -> None:
    said = manifest(read(EVERYTHING))
    assert manifest_from_bytes(manifest_to_bytes(said)) == said
    plain = manifest_to_bytes(manifest(Batching()))
    assert b'"schema":1' in plain
    assert b"batching" not in plain
    assert b'"schema":2' in manifest_to_bytes(said)


def test_a_release_file_keeps_it_and_one_without_it_has_the_digest_it_always_had() -> None:
    document = {"service": "s", "model": "v1", "version": "1", "artifact": "s/1"}
    plain = release_from_document({**document, "endpoints": {"predict": {}}}, "")
    said = release_from_document(
        {**document, "endpoints": {"predict": {"batching": EVERYTHING}}}, ""
    )
    assert "batching" not in release_to_json(plain)["endpoints"]["predict"]
    assert release_from_document(release_to_json(said), "") == said
    assert said.digest() != plain.digest()
    wrong = {**document, "endpoints": {"predict": {"batching": {"maxBatchSize": -1}}}}
    with pytest.raises(InvalidInput, match=r"endpoints\.predict\.batching\.maxBatchSize: is -1"):
        release_from_document(wrong, "")
