"""A model that is compiled for some sizes, as its callers find it: alone or together, quick or in threads."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from onnx import helper

from fairlead.api.worker import ServedEndpoint
from fairlead.domain.batching import Batching
from support.models import FLOAT, example, make_artifact, onnx_bytes, rebatched
from support.serving import in_process

pytestmark = pytest.mark.timeout(60)
ROW = [1.0, 2.0]


def fours(directory: Path) -> Any:
    """`x` [n, 2] to itself, if the rows are fours."""
    shapes = [
        helper.make_node("Constant", [], [name], value_ints=shape)
        for name, shape in (("apart", [-1, 4, 2]), ("back", [-1, 2]))
    ]
    nodes = [
        *shapes,
        helper.make_node("Reshape", ["x", "apart"], ["fours"]),
        helper.make_node("Reshape", ["fours", "back"], ["y"]),
    ]
    data = onnx_bytes([("x", FLOAT, ["n", 2])], [("y", FLOAT, ["n", 2])], nodes)
    examples = [example({"x": [ROW] * 4}, {"y": [ROW] * 4})]
    made = make_artifact(directory, {"model.onnx": data}, examples)
    return rebatched(made, Batching(allowed_batch_sizes=(4, 8)))


@pytest.mark.parametrize("said", [{}, {"enabled": False}, {"enabled": True}])
async def test_every_request_is_filled_up_and_one_that_is_too_large_is_told_so(
    tmp_path: Path, said: dict[str, Any]
) -> None:
    spec = fours(tmp_path).spec(endpoints=(ServedEndpoint(batching=said),))
    path = f"/v1/model/{spec.revision.service}/predict"
    async with in_process(spec) as one:

        async def ask(rows: int) -> httpx.Response:
            return await one.client.post(path, json={"instances": [ROW] * rows})

        for rows in (1, 3, 4, 5, 8):
            assert (await ask(rows)).json() == {"predictions": [ROW] * rows}
        together = await asyncio.gather(*(ask(1) for _ in range(6)))
        assert [answer.json() for answer in together] == [{"predictions": [ROW]}] * 6
        large = await ask(9)
        assert large.status_code == 400
        assert "allowedBatchSizes" in large.text
        assert "8" in large.text
