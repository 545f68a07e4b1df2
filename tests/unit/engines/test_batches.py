"""Merging requests and splitting answers: rows in order, padded where that is said, nothing copied back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from fairlead.api.inference import InferRequest, InferResponse
from fairlead.domain.batching import Batching
from fairlead.domain.errors import FairleadError, Kind
from fairlead.domain.signature import DataType, TensorSignature, TensorSpec
from fairlead.engines.batches import Rows

IDS = TensorSpec("ids", DataType.INT64, (-1, -1))
SCALE = TensorSpec("scale", DataType.FP32, (-1,))
TEXT = TensorSpec("text", DataType.BYTES, (-1, 1))
TOKENS = TensorSpec("tokens", DataType.INT64, (-1, -1))
SUM = TensorSpec("sum", DataType.INT64, (-1,))
SIGNATURE = TensorSignature((IDS, SCALE), (TOKENS, SUM))


def ask(ids: list[list[int]], outputs: tuple[str, ...] | None = None) -> InferRequest:
    tensors = {"ids": np.array(ids, np.int64), "scale": np.ones(len(ids), np.float32)}
    return InferRequest(tensors, outputs=outputs)


def answer(request: InferRequest) -> InferResponse:
    ids = request.tensors["ids"]
    return InferResponse({"tokens": ids * 10, "sum": ids.sum(axis=1)})


class Answering:
    """A model that answers as `answer` does."""

    signature = SIGNATURE
    concurrent = True

    def infer(self, request: InferRequest) -> InferResponse:
        return answer(request)


def rows(**said: Any) -> Rows:
    """Those of a model whose golden example has three tokens."""
    one = Rows(SIGNATURE, Batching(**said))
    assert one.learn(Answering(), [ask([[1, 2, 3]])]) is None  # type: ignore[arg-type] # only what is asked of it
    return one


def test_shorter_requests_are_padded_and_get_back_their_own_length() -> None:
    one = rows(pad_variable_length_inputs={"ids": 0})
    requests = [ask([[1, 2, 3]]), ask([[4], [5]]), ask([[6, 7]])]
    assert len({one.key(each) for each in requests}) == 1
    merged = one.merge(requests)
    assert merged.tensors["ids"].tolist() == [[1, 2, 3], [4, 0, 0], [5, 0, 0], [6, 7, 0]]
    answers = one.split(requests, answer(merged))
    assert [each.tensors["tokens"].tolist() for each in answers] == [
        [[10, 20, 30]],
        [[40], [50]],
        [[60, 70]],
    ]
    assert [each.tensors["sum"].tolist() for each in answers] == [[6], [4, 5], [13]]


def test_without_padding_other_lengths_and_other_outputs_are_other_runs() -> None:
    one = rows()
    assert one.key(ask([[1, 2]])) == one.key(ask([[3, 4], [5, 6]]))
    assert one.key(ask([[1, 2]])) != one.key(ask([[1]]))
    assert one.key(ask([[1]])) != one.key(ask([[1]], ("sum",)))


def test_a_batch_is_filled_up_to_an_allowed_size_with_its_last_row() -> None:
    one = rows(allowed_batch_sizes=(4, 8))
    requests = [ask([[1]]), ask([[2], [3]])]
    merged = one.merge(requests)
    assert merged.tensors["ids"].tolist() == [[1], [2], [3], [3]]
    answers = one.split(requests, answer(merged))
    assert [each.tensors["sum"].tolist() for each in answers] == [[1], [2, 3]]
    alone = one.merge(requests[:1])
    assert len(alone.tensors["ids"]) == 4
    (only,) = one.split(requests[:1], answer(alone))
    assert only.tensors["sum"].tolist() == [1]
    assert [one.run_size(count) for count in (1, 4, 5, 8)] == [4, 4, 8, 8]


@pytest.mark.parametrize(("count", "has"), [(9, "it has 9 rows"), (0, "its tensors have no rows")])
def test_a_request_that_no_allowed_size_holds_is_refused_before_it_runs(
    count: int, has: str
) -> None:
    one = rows(allowed_batch_sizes=(4, 8))
    ids = np.zeros((count, 1), np.int64)
    asked = InferRequest({"ids": ids, "scale": np.ones(count, np.float32)})
    with pytest.raises(FairleadError, match=has) as caught:
        one.run(Answering(), [asked])  # type: ignore[arg-type] # as above
    assert caught.value.kind is Kind.INVALID
    assert "allowedBatchSizes [4, 8] only: send 1 to 8 rows at once" in caught.value.message


def test_one_request_alone_is_neither_copied_nor_cut() -> None:
    one = rows()
    request = ask([[1], [2]])
    assert one.merge([request]) is request
    response = answer(request)
    assert one.split([request], response) == [response]


def test_texts_are_merged_like_numbers() -> None:
    signature = TensorSignature((TEXT,), (TensorSpec("n", DataType.INT64, (-1,)),))
    one = Rows(signature, Batching())
    merged = one.merge(
        [InferRequest({"text": np.array([[word]], object)}) for word in ("ä", "", "three")]
    )
    assert merged.tensors["text"].tolist() == [["ä"], [""], ["three"]]


def test_tensors_that_disagree_about_rows_count_none() -> None:
    one = rows()
    odd = InferRequest({"ids": np.zeros((2, 1), np.int64), "scale": np.zeros(3, np.float32)})
    assert one.count(odd) == 0
    assert one.count(ask([[1], [2]])) == 2


@pytest.mark.parametrize("shape", [(), (1,), (4, 1)])
def test_an_answer_without_a_row_for_each_is_refused(shape: tuple[int, ...]) -> None:
    one = rows()
    wrong = InferResponse({"sum": np.zeros(shape)})
    with pytest.raises(FairleadError, match="not a row for each") as caught:
        one.split([ask([[1]]), ask([[2]])], wrong)
    assert caught.value.kind is Kind.MODEL


lengths = st.lists(
    st.lists(st.integers(-9, 9), min_size=1, max_size=4), min_size=1, max_size=3
).map(lambda found: [(row * 4)[: len(found[0])] for row in found])


@given(
    st.lists(lengths, min_size=1, max_size=6),
    st.sampled_from([None, (2, 5, 20), (64,)]),
)
def test_together_is_the_same_as_alone_whatever_is_asked(
    asked: list[list[list[int]]], allowed: tuple[int, ...] | None
) -> None:
    one = rows(pad_variable_length_inputs={"ids": 0}, allowed_batch_sizes=allowed)
    requests = [ask(ids) for ids in asked]
    answers = one.split(requests, answer(one.merge(requests)))
    for request, given_back in zip(requests, answers, strict=True):
        alone = answer(request)
        for name, tensor in alone.tensors.items():
            assert given_back.tensors[name].tolist() == tensor.tolist()


@given(st.lists(st.lists(st.integers(-9, 9), min_size=1, max_size=3), min_size=1, max_size=6))
def test_rows_that_are_not_filled_up_take_the_short_way_to_the_same_answers(
    asked: list[list[int]],
) -> None:
    requests = [ask([[value] for value in column]) for column in asked]
    answers = rows().run(Answering(), requests)  # type: ignore[arg-type] # only what is asked of it
    for request, given_back in zip(requests, answers, strict=True):
        assert {name: found.tolist() for name, found in given_back.tensors.items()} == {
            name: found.tolist() for name, found in answer(request).tensors.items()
        }


FIXED = TensorSignature(
    (TensorSpec("x", DataType.FP32, (-1, 2)),),
    (TensorSpec("y", DataType.FP32, (-1, 2)), TensorSpec("z", DataType.FP32, (-1, 2))),
)


def fixed(count: int, outputs: tuple[str, ...] | None = None) -> InferRequest:
    return InferRequest({"x": np.ones((count, 2), np.float32)}, outputs=outputs)


def test_also_where_all_sizes_are_fixed_other_outputs_are_other_runs() -> None:
    one = Rows(FIXED, Batching())
    keys = [one.key(fixed(1, outputs)) for outputs in (None, ("y",), ("z",), ("z", "y"))]
    assert len(set(keys)) == 4
    assert one.key(fixed(3, ("y",))) == keys[1]


class Summing:
    """Gives one row, however many it is asked for."""

    signature = FIXED
    concurrent = True

    def infer(self, request: InferRequest) -> InferResponse:
        return InferResponse({"y": request.tensors["x"].sum(axis=0, keepdims=True)})


@pytest.mark.parametrize("counts", [(1, 1), (2, 3)])
def test_rows_that_are_not_all_there_are_nobodys(counts: tuple[int, int]) -> None:
    one = Rows(FIXED, Batching())
    with pytest.raises(FairleadError, match="not a row for each") as caught:
        one.run(Summing(), [fixed(count) for count in counts])  # type: ignore[arg-type] # as above
    assert caught.value.kind is Kind.MODEL
