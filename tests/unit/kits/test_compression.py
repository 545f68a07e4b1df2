"""What is compressed, whole or as far as it came."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given, strategies as st

from fairlead.kits.compression import IDENTITY, beginning, whole

PACKED = {
    b"gzip": gzip.compress,
    b"x-gzip": gzip.compress,
    b"deflate": zlib.compress,
    IDENTITY: bytes,
}
encodings = st.sampled_from(sorted(PACKED))


@given(encodings, st.binary(max_size=300), st.integers(1, 400))
def test_all_of_it_and_its_beginning(encoding: bytes, data: bytes, most: int) -> None:
    packed = PACKED[encoding](data)
    assert whole(packed, encoding, len(data)) == data
    assert beginning(packed, encoding, most) == data[:most]
    if len(data) > most:
        with pytest.raises(ValueError, match="too long"):
            whole(packed, encoding, most)


@given(encodings, st.binary(min_size=1, max_size=300), st.data())
def test_the_end_may_be_missing_of_what_is_only_begun(
    encoding: bytes, data: bytes, draw: st.DataObject
) -> None:
    packed = PACKED[encoding](data)
    cut = packed[: draw.draw(st.integers(0, len(packed) - 1))]
    assert data.startswith(beginning(cut, encoding, len(data)))
    if encoding != IDENTITY:
        for wrong in (cut, packed + b"x"):
            with pytest.raises(ValueError, match="cut off"):
                whole(wrong, encoding, len(data))


@pytest.mark.parametrize("encoding", [b"br", b"", b"GZIP"])
def test_an_encoding_nobody_reads_is_told(encoding: bytes) -> None:
    with pytest.raises(ValueError, match="not an encoding"):
        beginning(b"x", encoding, 10)


def test_damaged_data_are_told() -> None:
    with pytest.raises(ValueError, match="incorrect header"):
        whole(b"\xff" * 20, b"gzip", 10)
