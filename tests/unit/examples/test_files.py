from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from examples import build, check

from fairlead.domain.release import TrafficShare, release_from_document

HERE = build.HERE
RELEASES = sorted(path for path in HERE.glob("*/release*") if path.suffix in (".yaml", ".json"))


@pytest.mark.timeout(60)  # builds the examples
@pytest.mark.parametrize("path", RELEASES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_release_file_is_valid_and_names_an_artifact_that_is_built(
    path: Path, built: Path
) -> None:
    text = path.read_text()
    document = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    release = release_from_document(document, path.name)
    assert release.service == path.parent.name
    assert (built / str(release.artifact) / "model.yaml").is_file()


def test_sentiment_splits_line_v1_and_has_a_line_v2() -> None:
    releases = [
        release_from_document(yaml.safe_load(path.read_text()), path.name)
        for path in RELEASES
        if path.parent.name == "sentiment"
    ]
    assert [str(release.revision_id) for release in releases] == [
        "sentiment/v1.1",
        "sentiment/v1.2",
        "sentiment/v2.1",
    ]
    assert releases[1].traffic == (TrafficShare("1", 90), TrafficShare("2", 10))


@pytest.mark.parametrize("example", build.EXAMPLES, ids=lambda example: example.name)
def test_every_example_has_a_guide_and_requests_that_succeed_and_fail(
    example: build.Example,
) -> None:
    folder = HERE / example.name
    assert "curl" in (folder / "README.md").read_text()
    statuses = {case.status for case in check.read_cases(folder)}
    assert 200 in statuses
    assert statuses & {400, 404, 422}


@pytest.mark.parametrize(
    ("expected", "actual", "wrong"),
    [
        ({"a": 1}, {"a": 1.004, "b": 2}, None),
        ({"a": 1}, {"a": 1.2}, "body.a is 1.2 instead of 1"),
        ({"a": 1}, {}, "body lacks 'a'"),
        ([1, 2], [1], "body has 1 elements instead of 2"),
        ({"a": [{"b": "x"}]}, {"a": [{"b": "y"}]}, "body.a[0].b is 'y' instead of 'x'"),
        (True, 1, "body is 1 instead of True"),
        (None, None, None),
        ({}, [], "body is [] instead of {}"),
    ],
)
def test_answers_are_compared_by_value_and_tolerance(
    expected: object, actual: object, wrong: str | None
) -> None:
    assert check.difference(expected, actual, 0.01, "body") == wrong


def test_a_wrong_status_or_header_is_a_problem() -> None:
    case = check.Case(
        "x", "GET", "/", {}, None, 200, None, {"X-Served-Version": ["v1.1", "v1.2"]}, 0
    )
    assert check.problem(case, check.Answer(200, {"x-served-version": "v1.2"}, b"")) is None
    assert "status 503" in (check.problem(case, check.Answer(503, {}, b"down")) or "")
    assert "X-Served-Version" in (check.problem(case, check.Answer(200, {}, b"")) or "")
