"""What of an answer is as long as a padded input is learned, and nothing is padded where it cannot be."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from onnx import helper

from fairlead.api.inference import InferRequest, InferResponse
from fairlead.domain.batching import Batching
from fairlead.domain.errors import FairleadError, Kind, Refused
from fairlead.domain.golden import Example, Golden
from fairlead.domain.signature import DataType, Signature, TensorSignature, TensorSpec
from fairlead.engines.batches import Rows
from fairlead.engines.onnx import OnnxModel
from fairlead.engines.together import mixes
from support.models import FLOAT, onnx_bytes

Answer = Callable[[Mapping[str, Any]], dict[str, Any]]
PADS: dict[str, Any] = {"q": 0, "d": 0}


class Answering:
    """Takes `q` and `d`, rows of floats of any length, and answers with what `answer` makes of them."""

    concurrent = True

    def __init__(
        self, answer: Answer, outputs: Sequence[str], inputs: Sequence[str] = ("q", "d")
    ) -> None:
        self._answer = answer
        self.signature: Signature = TensorSignature(
            *(
                tuple(TensorSpec(name, DataType.FP32, (-1, -1)) for name in names)
                for names in (inputs, outputs)
            )
        )

    def infer(self, request: InferRequest) -> InferResponse:
        try:
            return InferResponse(self._answer(request.tensors))
        except ValueError as error:
            raise Refused(Kind.INVALID, str(error)) from None

    def parse_document(self, data: bytes) -> Any:
        raise NotImplementedError

    def dump_document(self, document: Any) -> bytes:
        raise NotImplementedError

    def close(self) -> None:
        """Nothing is held."""


def ask(**rows: Sequence[float]) -> InferRequest:
    return InferRequest({name: np.array([row], np.float32) for name, row in rows.items()})


def golden(model: Answering, *requests: InferRequest) -> Golden:
    def lists(tensors: Mapping[str, Any]) -> dict[str, Any]:
        return {name: tensor.tolist() for name, tensor in tensors.items()}

    return Golden(
        tuple(Example(lists(one.tensors), lists(model.infer(one).tensors)) for one in requests), {}
    )


def proved(
    model: Answering, *examples: InferRequest, pads: Mapping[str, Any] = PADS
) -> tuple[Rows, str | None]:
    assert isinstance(model.signature, TensorSignature)
    rows = Rows(model.signature, Batching(pad_variable_length_inputs=pads))
    return rows, mixes(model, golden(model, *examples), rows, None)


def twice(tensors: Mapping[str, Any]) -> dict[str, Any]:
    return {"oq": tensors["q"] * 2, "od": tensors["d"] * 2}


def lists(answers: Sequence[InferResponse], name: str) -> list[Any]:
    return [answer.tensors[name].tolist() for answer in answers]


def test_an_output_as_long_as_one_input_is_not_cut_to_the_length_of_another(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", [name, name], [f"o{name}"]) for name in "qd"]
    ports = [(FLOAT, ["n", f"l{name}"]) for name in "qd"]
    path = tmp_path / "pair.onnx"
    path.write_bytes(
        onnx_bytes(
            [("q", *ports[0]), ("d", *ports[1])], [("oq", *ports[0]), ("od", *ports[1])], nodes
        )
    )
    model = OnnxModel(path)
    assert isinstance(model.signature, TensorSignature)
    rows = Rows(model.signature, Batching(pad_variable_length_inputs=PADS))
    example = Example({"q": [[1, 2]], "d": [[1, 2, 3]]}, {"oq": [[2, 4]], "od": [[2, 4, 6]]})
    assert mixes(model, Golden((example,), {}), rows, None) is None
    requests = [ask(q=[1, 2], d=[5, 6, 7]), ask(q=[1, 2, 3], d=[5])]
    assert rows.key(requests[0]) == rows.key(requests[1])
    answers = rows.run(model, requests)
    assert lists(answers, "oq") == [[[2, 4]], [[2, 4, 6]]]
    assert lists(answers, "od") == [[[10, 12, 14]], [[10]]]


def test_scores_as_many_as_the_longest_text_has_words_are_not_cut() -> None:
    def scores(tensors: Mapping[str, Any]) -> dict[str, Any]:
        return {"scores": tensors["q"].sum(axis=1, keepdims=True) * np.arange(1, 5)}

    model = Answering(scores, ["scores"], ["q"])
    rows, mixed = proved(model, ask(q=[1, 2, 3]), pads={"q": 0})
    assert mixed is None
    requests = [ask(q=[1, 1, 1, 1]), ask(q=[1, 1])]
    assert rows.key(requests[0]) == rows.key(requests[1])
    assert lists(rows.run(model, requests), "scores") == [[[4, 8, 12, 16]], [[2, 4, 6, 8]]]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda t: {"y": np.concatenate([t["q"], t["d"]], 1)}, "neither as long as one padded"),
        (lambda t: {"y": np.repeat(t["q"], 2, 1)}, "neither as long as one padded"),
        (lambda t: {"y": t["q"][:, :3]}, "neither as long as one padded"),
        (lambda t: {"y": np.pad(t["q"], ((0, 0), (0, t["q"].shape[1] % 2)))}, "neither as long"),
        (lambda t: {"y": t["q"] if t["q"].shape[1] > 5 else t["q"][:, :1, None]}, "same number of"),
        (
            lambda t: {"y": t["q"] + t["d"][:, :1] * 0 + _only(t["q"], 4)},
            "'q' cannot be padded: the model answers no other length than 4",
        ),
    ],
)
def test_sizes_that_do_not_tell_where_they_come_from_are_not_padded(
    answer: Answer, why: str
) -> None:
    rows, mixed = proved(Answering(answer, ["y"]), ask(q=[1, 2, 3, 4], d=[1, 2, 3]))
    assert mixed is not None
    assert why in mixed
    different = [ask(q=[1, 2, 3, 4], d=[1]), ask(q=[1, 2, 3], d=[1])]
    assert rows.key(different[0]) != rows.key(different[1])


def _only(tensor: Any, length: int) -> float:
    if tensor.shape[1] != length:
        raise ValueError("not that length")
    return 0.0


def test_an_answer_that_is_wrong_beside_padding_is_found_whichever_input_was_padded() -> None:
    """Broadcast, a `d` of one value counts for every `q`; padded it would count once."""

    def added(tensors: Mapping[str, Any]) -> dict[str, Any]:
        return {"y": tensors["q"] + tensors["d"]}

    _, mixed = proved(Answering(added, ["y"]), ask(q=[1, 2], d=[5]))
    assert mixed is not None


def test_lengths_that_are_the_same_in_every_example_must_be_so_in_a_padded_request() -> None:
    """A text and its mask: neither alone may have another length."""

    def masked(tensors: Mapping[str, Any]) -> dict[str, Any]:
        return {"y": tensors["q"] * tensors["d"]}

    model = Answering(masked, ["y"])
    rows, mixed = proved(model, ask(q=[1, 2, 3], d=[1, 1, 1]))
    assert mixed is None
    requests = [ask(q=[1, 2], d=[1, 0]), ask(q=[7, 8, 9, 10], d=[1, 1, 1, 1])]
    assert rows.key(requests[0]) == rows.key(requests[1])
    assert lists(rows.run(model, requests), "y") == [[[1, 0]], [[7, 8, 9, 10]]]
    broadcast = ask(q=[1, 2, 3, 4], d=[2])
    assert rows.key(broadcast) != rows.key(requests[1])
    assert rows.key(broadcast) == rows.key(ask(q=[1, 2, 3, 4], d=[3]))


def test_nothing_is_padded_before_anything_is_learned_and_nothing_shorter_than_what_was() -> None:
    model = Answering(twice, ["oq", "od"])
    assert isinstance(model.signature, TensorSignature)
    rows = Rows(model.signature, Batching(pad_variable_length_inputs=PADS))
    long, short, empty = ask(q=[1, 2], d=[3]), ask(q=[1], d=[3]), ask(q=[], d=[3])
    assert rows.key(long) != rows.key(short)
    assert rows.key(long) == rows.key(ask(q=[4, 5], d=[6]))
    assert rows.longer(long) == []
    assert rows.learn(model, [ask(q=[1, 2, 3], d=[1, 2])]) is None
    assert rows.key(long) == rows.key(short) != rows.key(empty)
    assert "no golden example has values" in (rows.learn(model, [empty]) or "")


def test_an_answer_of_other_sizes_than_were_learned_is_refused_not_cut() -> None:
    """More than ten are clipped, which no example shows; alone, each request is answered as it should be."""

    def clipped(tensors: Mapping[str, Any]) -> dict[str, Any]:
        return {"y": tensors["q"][:, :10]}

    model = Answering(clipped, ["y"], ["q"])
    rows, mixed = proved(model, ask(q=[1, 2, 3]), pads={"q": 0})
    assert mixed is None
    with pytest.raises(FairleadError, match=r"output y has the shape \[2, 10\]") as caught:
        rows.run(model, [ask(q=[1.0] * 12), ask(q=[1.0] * 11)])
    assert caught.value.kind is Kind.MODEL
    (alone,) = rows.run(model, [ask(q=[1.0] * 12)])
    assert alone.tensors["y"].shape == (1, 10)


def test_what_was_learned_holds_for_the_sizes_that_are_not_padded() -> None:
    model = Answering(twice, ["oq", "od"])
    rows, mixed = proved(model, ask(q=[1, 2], d=[1, 2, 3]), pads={"q": 0})
    assert mixed is None
    known = [ask(q=[1, 2], d=[5, 6, 7]), ask(q=[1], d=[5, 6, 7])]
    assert rows.key(known[0]) == rows.key(known[1])
    assert lists(rows.run(model, known), "od") == [[[10, 12, 14]], [[10, 12, 14]]]
    other = [ask(q=[1, 2], d=[5]), ask(q=[1], d=[5])]
    assert rows.key(other[0]) != rows.key(other[1])


def test_bf16_is_padded_with_the_number_and_not_with_its_bits() -> None:
    spec = TensorSpec("x", DataType.BF16, (-1, -1))
    model = Answering(lambda tensors: {"y": tensors["x"]}, ["y"], ["x"])
    model.signature = TensorSignature((spec,), (TensorSpec("y", DataType.BF16, (-1, -1)),))
    rows = Rows(model.signature, Batching(pad_variable_length_inputs={"x": 1}))
    one, two = (InferRequest({"x": np.zeros((1, length), np.uint16)}) for length in (1, 2))
    assert rows.merge([one, two]).tensors["x"].tolist() == [[0, 0x3F80], [0, 0]]


row = st.lists(st.integers(-9, 9), min_size=1, max_size=5)


@given(st.lists(st.tuples(row, row), min_size=2, max_size=6))
def test_together_is_the_same_as_alone_whichever_lengths_coincide(
    asked: list[tuple[list[float], list[float]]],
) -> None:
    model = Answering(
        lambda t: {**twice(t), "k": t["q"].sum(axis=1, keepdims=True) * np.ones(3)},
        ["oq", "od", "k"],
    )
    rows, mixed = proved(model, ask(q=[1, 2, 3], d=[1, 2]))
    assert mixed is None
    requests = [ask(q=q, d=d) for q, d in asked]
    for request, answer in zip(requests, rows.run(model, requests), strict=True):
        for name, tensor in model.infer(request).tensors.items():
            assert answer.tensors[name].tolist() == tensor.tolist()
