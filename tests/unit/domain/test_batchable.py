"""Settings that do not fit a model are found from its signature."""

from __future__ import annotations

from typing import Any

import pytest

from fairlead.domain.batchable import misfits, rows_problem
from fairlead.domain.batching import Batching
from fairlead.domain.signature import DataType, DocumentSignature, TensorSignature, TensorSpec

IDS = TensorSpec("ids", DataType.INT64, (-1, -1))
SCALE = TensorSpec("scale", DataType.FP32, (-1,))
TOKENS = TensorSpec("tokens", DataType.INT64, (-1, -1))
SUM = TensorSpec("sum", DataType.INT64, (-1,))
SIGNATURE = TensorSignature((IDS, SCALE), (TOKENS, SUM))
FIXED = TensorSignature((TensorSpec("x", DataType.FP32, (4, 2)),), (SUM,))


@pytest.mark.parametrize(
    ("signature", "reason"),
    [
        (SIGNATURE, None),
        (
            TensorSignature((TensorSpec("x", DataType.FP32, ()),), (SUM,)),
            "input 'x' has no dimension that counts rows",
        ),
        (
            TensorSignature((IDS,), (TensorSpec("y", DataType.FP32, (1, 3)),)),
            "the first dimension of output 'y' is always 1",
        ),
        (TensorSignature((), (SUM,)), "it has no inputs"),
    ],
)
def test_why_requests_cannot_share_a_run(signature: TensorSignature, reason: str | None) -> None:
    found = rows_problem(signature)
    assert found == reason if reason is None else (found or "").startswith(reason)


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        ({"pad_variable_length_inputs": {"ids": 0}}, None),
        ({"pad_variable_length_inputs": {"idz": 0}}, "is no input of the model"),
        ({"pad_variable_length_inputs": {"scale": 0}}, "only variable lengths"),
        ({"pad_variable_length_inputs": {"ids": 0.5}}, "write a value of INT64"),
        ({"pad_variable_length_inputs": {"ids": "0"}}, "write a value of INT64"),
        ({"pad_variable_length_inputs": {"ids": 2**70}}, "write a value of INT64"),
        ({"max_queue_size": 3}, None),
    ],
)
def test_settings_must_fit_the_models_tensors(said: dict[str, Any], wrong: str | None) -> None:
    found = "; ".join(map(str, misfits(Batching(**said), SIGNATURE)))
    assert found == "" if wrong is None else wrong in found


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        ("UINT8", [0, 255, 7.0], [-1, 256, 0.5, "0", False, 2**70]),
        ("INT8", [-128, 127], [-129, 128]),
        ("FP16", [0, -65504.0], [70000, float("nan"), "x"]),
        ("BF16", [0.5, -1], [1e39, True]),
        ("FP32", [3.4e38], [4e38, float("inf")]),
        ("FP64", [1e308, 2**70], [float("inf"), -float("inf"), 10**5000]),
        ("BOOL", [True], [0, "true"]),
        ("BYTES", ["", "x"], [0, False]),
    ],
)
def test_what_fills_up_must_be_an_element_of_the_input(
    kind: str, right: list[Any], wrong: list[Any]
) -> None:
    signature = TensorSignature((TensorSpec("x", DataType(kind), (-1, -1)),), ())
    for values, problems in ((right, 0), (wrong, 1)):
        for value in values:
            found = misfits(Batching(pad_variable_length_inputs={"x": value}), signature)
            assert (str(found), len(found)) == (str(found), problems)


@pytest.mark.parametrize(
    ("said", "signature", "wrong"),
    [
        ({"enabled": True}, FIXED, "batching.enabled: is true; the model cannot be batched: the"),
        ({"allowed_batch_sizes": (4,)}, FIXED, "batching.allowedBatchSizes: names sizes; the mod"),
        ({"enabled": True, "allowed_batch_sizes": (4,)}, SIGNATURE, ""),
        ({"enabled": True, "max_batch_size": 4}, DocumentSignature(), ""),
        (
            {"allowed_batch_sizes": (4,)},
            DocumentSignature(),
            "batching.allowedBatchSizes: counts rows of tensors; the model takes documents",
        ),
        (
            {"pad_variable_length_inputs": {"x": 0}},
            DocumentSignature(),
            "batching.padVariableLengthInputs: names tensors; the model takes documents: leave it",
        ),
    ],
)
def test_what_a_signature_cannot_do_is_refused_with_its_key(
    said: dict[str, Any], signature: Any, wrong: str
) -> None:
    found = [str(one) for one in misfits(Batching(**said), signature)]
    assert [one[: len(wrong)] for one in found] == ([wrong] if wrong else [])
