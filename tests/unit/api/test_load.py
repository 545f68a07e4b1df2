"""What a worker says of its load is what its agent reads."""

import pytest
from hypothesis import given, strategies as st

from fairlead.api.load import Load, loads_from_json, loads_to_json
from fairlead.domain.ids import EndpointId

SECONDS = st.floats(0, 1e9)
COUNTS = st.integers(0, 2**53)
NAMES = st.sampled_from(["predict", "stream", "validate"])
ENDPOINTS = st.builds(EndpointId, st.just("speech"), st.just("v9"), st.just("v9.2"), NAMES)
LOADS = st.builds(Load, SECONDS, COUNTS, COUNTS, COUNTS, SECONDS)


@given(st.dictionaries(ENDPOINTS, LOADS))
def test_what_is_written_is_read(loads: dict[EndpointId, Load]) -> None:
    assert loads_from_json(loads_to_json(loads)) == loads


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"[" * 100_000,
        b"{}",
        b'{"endpoints": 1}',
        b'{"endpoints": [1]}',
        b'{"endpoints": [{"service": "speech"}]}',
        loads_to_json({EndpointId("speech", "v9", "v9.2", "predict"): Load(0, 0, 0, 0, 0)}).replace(
            b'"queued": 0', b'"queued": "many"'
        ),
    ],
)
def test_what_is_none_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match="is no load"):
        loads_from_json(body)
