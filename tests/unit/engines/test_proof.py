"""Golden examples prove a model, or say which one it failed and how."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fairlead.domain.errors import FairleadError, Kind
from fairlead.domain.golden import Example, Golden
from fairlead.engines.loading import load_model
from fairlead.engines.proof import differences, prove
from support.models import echo_artifact, example, make_artifact, scaled, scaled_artifact, two_ways


def golden(*examples: tuple[Any, Any], **tolerance: float) -> Golden:
    return Golden(tuple(Example(*one) for one in examples), tolerance)


async def test_a_model_that_answers_its_examples_is_proved(tmp_path: Path) -> None:
    made = scaled_artifact(tmp_path, 2.0)
    model = load_model(made.directory, made.manifest)
    await prove(model, golden(({"x": [[1, 2, 3]]}, {"y": [[2, 4, 6]]})))


async def test_a_wrong_answer_names_example_output_and_both_values(tmp_path: Path) -> None:
    made = scaled_artifact(tmp_path, 2.0)
    model = load_model(made.directory, made.manifest)
    right = ({"x": [[0, 0, 0]]}, {"y": [[0, 0, 0]]})
    wrong = ({"x": [[1, 2, 3]]}, {"y": [[2, 4.5, 6]]})
    with pytest.raises(FairleadError) as caught:
        await prove(model, golden(right, wrong, y=0.1))
    assert caught.value.kind is Kind.MODEL
    assert (
        caught.value.message == "golden example 2: y[0][1]: 4.5 expected within 0.1, 4.0 answered"
    )
    await prove(model, golden(right, wrong, y=0.6))


async def test_an_example_that_does_not_fit_the_signature_says_so(tmp_path: Path) -> None:
    made = scaled_artifact(tmp_path)
    model = load_model(made.directory, made.manifest)
    cases: list[tuple[Any, str]] = [
        ({"z": [[1, 2, 3]]}, "its request holds 'z'; the model's inputs are 'x'"),
        ({"x": [[1, 2]]}, "x: Expected `array` of length >= 3"),
        ({"x": [[1, 2, True]]}, "Expected `float`, got `bool`"),
        ({"x": [["1", 2, 3]]}, "got `str`"),
        ([], "its request holds none"),
    ]
    for request, message in cases:
        (found,) = await differences(model, golden((request, {"y": []})))
        assert message in found


async def test_an_example_may_be_about_some_outputs_only(tmp_path: Path) -> None:
    request = {"a": [5], "b": [[1.0, 2.0]]}
    made = make_artifact(tmp_path, {"model.onnx": two_ways()}, [example(request, {"a out": [5]})])
    model = load_model(made.directory, made.manifest)
    await prove(model, golden((request, {"a out": [5]})))
    assert await differences(model, golden((request, {"a out": [6]})))


async def test_documents_are_compared_as_the_caller_would_see_them(tmp_path: Path) -> None:
    made = echo_artifact(tmp_path)
    model = load_model(made.directory, made.manifest)
    try:
        await prove(model, golden(({"text": "a"}, {"text": "a!"})))
        (found,) = await differences(model, golden(({"text": "a"}, {"text": "b!"})))
        assert found == "golden example 1: text: 'b!' expected, 'a!' answered"
        (found,) = await differences(model, golden(({"text": 1}, {"text": "b!"})))
        assert "text: Input should be a valid string" in found
    finally:
        model.close()


def test_an_engine_nobody_knows_and_an_entry_that_is_missing_are_clear_errors(
    tmp_path: Path,
) -> None:
    made = make_artifact(tmp_path, {"model.onnx": scaled()}, [example({"x": []}, {})])
    (tmp_path / "model.onnx").unlink()
    with pytest.raises(FairleadError, match=r"model\.onnx is not in"):
        load_model(tmp_path, made.manifest)
