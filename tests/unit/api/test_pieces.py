"""Large tensors in pieces are, to the byte, what they are as a whole."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, strategies as st

from fairlead.api.inference import InferRequest, InferResponse
from fairlead.api.pieces import (
    LARGE_BYTES,
    array_in_pieces,
    encoded_in_pieces,
    flat_in_pieces,
    groups,
    nested_in_pieces,
)
from fairlead.dialects.project import TensorCodec
from fairlead.domain.errors import FairleadError
from fairlead.domain.signature import DataType, TensorSignature, TensorSpec
from support.effort import effort

raws_of: Any = msgspec.json.Decoder(list[msgspec.Raw]).decode
shapes = st.sampled_from(
    [(1, 90, 90, 3), (30_000,), (5000, 2), (3, 9000), (2, 3, 5000), (400, 7, 9), (1,), (7, 1)]
)


@effort(30)
@given(shapes, st.integers(0, 2**32), st.sampled_from(["FP32", "INT64", "BOOL", "BYTES"]))
def test_a_tensor_is_read_and_written_as_if_at_once(
    shape: tuple[int, ...], seed: int, kind: str
) -> None:
    random = np.random.default_rng(seed)
    numbers = random.standard_normal(shape) * 100
    tensor: Any = {
        "FP32": lambda: numbers.astype(np.float32),
        "INT64": lambda: numbers.astype(np.int64),
        "BOOL": lambda: numbers > 0,
        "BYTES": lambda: numbers.astype(np.int64).astype(str).astype(object),
    }[kind]()
    body = msgspec.json.encode(tensor.tolist())
    assert encoded_in_pieces(tensor) == body
    spec = TensorSpec("x", DataType(kind), (-1, *shape[1:]))
    found = array_in_pieces(spec, raws_of(body), shape[1:])
    assert found is not None
    assert found.dtype == tensor.dtype
    assert found.tolist() == tensor.tolist()

    deep = nested_in_pieces(spec, memoryview(body), len(shape)) if len(shape) > 1 else None
    flat = flat_in_pieces(spec, memoryview(msgspec.json.encode(tensor.ravel().tolist())))
    assert deep is None or deep.tolist() == tensor.tolist()
    assert (flat is None) == (kind == "BYTES")
    assert flat is None or flat.tolist() == tensor.ravel().tolist()


@pytest.mark.parametrize(
    "body",
    [
        "[]",
        "[1.0,]",
        "[,1]",
        "[1,,2]",
        "[1 2]",
        "[1,[2]]",
        '["1"]',
        "[1",
        "1]",
        "{}",
        "[null]",
        "[1]]",
    ],
)
@pytest.mark.parametrize("place", ["start", "end"])
def test_a_list_of_numbers_that_is_none_is_left_to_who_can_say_why(body: str, place: str) -> None:
    many = ",".join(["0.5"] * 20_000)
    data = body.replace("[", f"[{many},", 1) if place == "end" else body[:-1] + f",{many}]"
    spec = TensorSpec("x", DataType.FP32, (-1,))
    assert flat_in_pieces(spec, memoryview(data.encode())) is None
    assert flat_in_pieces(spec, memoryview(f"[{many}]".encode())) is not None


@pytest.mark.parametrize("body", ["[[0.5]", "{}", "7", "[" * 100_000])
def test_lists_of_lists_that_are_none_are_left_to_who_can_say_why(body: str) -> None:
    spec = TensorSpec("x", DataType.FP32, (-1, 1))
    assert nested_in_pieces(spec, memoryview(body.encode()), 2) is None
    assert nested_in_pieces(spec, memoryview(b"[[0.5]]"), 2) is not None


def test_a_comma_too_many_is_seen_also_where_a_piece_ends() -> None:
    spec = TensorSpec("x", DataType.FP32, (-1,))
    for spaces in (16 * 1024, 32 * 1024):
        good = b"[1" + b" " * spaces + b",2]"
        found = flat_in_pieces(spec, memoryview(good))
        assert found is not None
        assert found.tolist() == [1, 2]
        assert flat_in_pieces(spec, memoryview(good.replace(b"2]", b"]"))) is None


def test_lists_are_grouped_without_loss() -> None:
    values = [list(range(n % 50)) for n in range(3000)]
    pieces = list(groups(raws_of(msgspec.json.encode(values))))
    assert len(pieces) > 5
    assert [one for piece in pieces for one in msgspec.json.decode(piece)] == values


IMAGE = TensorSignature(
    (TensorSpec("x", DataType.FP32, (-1, 120, 40, 3)),), (TensorSpec("y", DataType.FP32, (-1, 2)),)
)
TWO = TensorSignature(
    (TensorSpec("a", DataType.FP32, (-1, 30)), TensorSpec("b", DataType.INT64, (-1,))),
    (TensorSpec("y", DataType.FP32, (-1, 2)), TensorSpec("z", DataType.INT64, (-1,))),
)


def image(change: Any = None) -> list[Any]:
    rows: Any = np.linspace(0, 1, 2 * 120 * 40 * 3).reshape(2, 120, 40, 3).tolist()
    if change is not None:
        change(rows)
    return list(rows)


def drop_pixel(rows: Any) -> None:
    del rows[1][7][3]


def drop_line(rows: Any) -> None:
    del rows[1][7]


def put_text(rows: Any) -> None:
    rows[0][100][3][1] = "7"


def put_null(rows: Any) -> None:
    rows[0] = None


def put_large(rows: Any) -> None:
    rows[0][0][0][0] = 1e39


@pytest.mark.parametrize("change", [None, drop_pixel, drop_line, put_text, put_null, put_large])
def test_a_large_body_gets_the_answer_or_the_error_it_would_get_as_a_whole(change: Any) -> None:
    codec = TensorCodec(IMAGE)
    body = msgspec.json.encode({"instances": image(change)})
    assert len(body) > LARGE_BYTES
    outcomes = []
    for read in (codec.decode, lambda whole: _whole(codec, whole)):
        try:
            outcomes.append(read(body).tensors["x"].tolist())
        except FairleadError as error:
            outcomes.append((type(error), error.message))
    assert outcomes[0] == outcomes[1]
    assert isinstance(outcomes[0], list) == (change is None)


def _whole(codec: TensorCodec, body: bytes) -> InferRequest:
    codec._in_pieces = lambda _: None  # type: ignore[method-assign] # noqa: SLF001 - as if it were small
    return codec.decode(body)


@pytest.mark.parametrize("body", [b"{" + b" " * 70_000, b'{"instances":[' + b" " * 70_000 + b"]}"])
def test_large_bodies_that_are_nothing_are_refused_as_ever(body: bytes) -> None:
    with pytest.raises(FairleadError):
        TensorCodec(IMAGE).decode(body)


def test_several_inputs_and_outputs_go_through_in_pieces_too() -> None:
    codec = TensorCodec(TWO)
    rows = [{"a": [n / 7] * 30, "b": n} for n in range(2000)]
    request = codec.decode(msgspec.json.encode({"instances": rows}))
    assert request.tensors["b"].tolist() == list(range(2000))
    assert request.tensors["a"].shape == (2000, 30)
    count = 9000
    y = np.arange(2 * count, dtype=np.float32).reshape(count, 2)
    z = np.arange(count)
    asked = InferRequest({"a": np.zeros((count, 30), np.float32), "b": z})
    answer = codec.encode(asked, InferResponse({"y": y, "z": z}))
    expected = [{"y": [2.0 * n, 2.0 * n + 1], "z": n} for n in range(count)]
    assert msgspec.json.decode(answer) == {"predictions": expected}
    wrong = msgspec.json.encode({"instances": [*rows, {"a": [0.0] * 29, "b": 1}]})
    with pytest.raises(FairleadError, match=r"instances\[2000\]|instances.2000"):
        codec.decode(wrong)
