"""Every kind of error has a status, in every dialect."""

from __future__ import annotations

import json

import pytest

from fairlead.domain.errors import Kind, Refused
from fairlead.server.http.errors import OIP_STATUSES, STATUSES, shape_for


def test_every_kind_has_a_status_in_every_dialect() -> None:
    assert set(STATUSES) == set(Kind)
    assert set(OIP_STATUSES) == set(Kind)
    assert all(400 <= status < 600 for status in (*STATUSES.values(), *OIP_STATUSES.values()))


@pytest.mark.parametrize(
    ("path", "key"),
    [
        (b"/v2", "error"),
        (b"/v2/models/x/infer", "error"),
        (b"/v2x", "detail"),
        (b"/v1/model/x/predict", "detail"),
        (b"/api/own", "detail"),
        (b"/", "detail"),
    ],
)
def test_an_error_has_the_shape_of_its_paths_dialect(path: bytes, key: str) -> None:
    _, body = shape_for(path)
    assert json.loads(body(Refused(Kind.INTERNAL, "what"))) == {key: "what"}
