"""What is compressed, whole or as far as it came."""

from __future__ import annotations

import gzip
import itertools
import random
import zlib

import pytest
from hypothesis import given, strategies as st

from fairlead.kits.compression import IDENTITY, MOST_MEMBERS, Unpacker, beginning, whole

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
        for wrong in (cut, packed + b"x", packed + b"more"):
            with pytest.raises(ValueError, match=r"cut off|more behind|incorrect header"):
                whole(wrong, encoding, len(data))


members = st.lists(st.binary(max_size=200), min_size=1, max_size=6)
piece_sizes = st.lists(st.integers(1, 300), min_size=1, max_size=5)


@given(st.sampled_from([b"gzip", b"x-gzip"]), members, st.integers(1, 400), piece_sizes)
def test_gzips_members_are_read_as_one(
    encoding: bytes, parts: list[bytes], most: int, sizes: list[int]
) -> None:
    packed, data = b"".join(map(gzip.compress, parts)), b"".join(parts)
    assert whole(packed, encoding, len(data)) == data
    assert beginning(packed, encoding, most) == data[:most]
    if len(data) > most:
        with pytest.raises(ValueError, match="too long"):
            whole(packed, encoding, most)
    reader, found = Unpacker(packed, encoding), b""
    for size in itertools.cycle(sizes):
        piece = reader.read(size)
        found += piece
        if len(piece) < size:
            break
    assert (found, reader.whole, reader.read(10)) == (data, True, b"")


@given(members, st.data())
def test_a_member_that_is_cut_off_or_damaged_is_told(
    parts: list[bytes], draw: st.DataObject
) -> None:
    packed = b"".join(map(gzip.compress, parts))
    ends = set(itertools.accumulate(len(gzip.compress(part)) for part in parts))
    cut = draw.draw(st.integers(0, len(packed) - 1).filter(lambda at: at not in ends))
    with pytest.raises(ValueError, match="cut off"):
        whole(packed[:cut], b"gzip", 2000)
    with pytest.raises(ValueError, match="incorrect"):
        whole(packed + gzip.compress(b"data")[:-8] + bytes(8), b"gzip", 2000)


def test_deflate_has_no_members() -> None:
    with pytest.raises(ValueError, match="more behind"):
        whole(zlib.compress(b"a") + zlib.compress(b"b"), b"deflate", 10)


def test_members_are_bounded_and_each_is_looked_at_once() -> None:
    nothing = gzip.compress(b"")
    assert whole(nothing * MOST_MEMBERS, b"gzip", 10) == b""
    for most in (0, 1, 10):
        with pytest.raises(ValueError, match="more than 2048 members"):
            whole(
                nothing * 1_000_000, b"gzip", most
            )  # at once: nothing of it is copied again and again


def test_a_member_may_end_where_what_is_fed_ends() -> None:
    data = random.Random(7).randbytes(70_000)
    shorter = len(gzip.compress(data[:65_000])) - 65_000
    for end in range(65_530, 65_543):
        first = data[: end - shorter]
        packed = gzip.compress(first) + gzip.compress(data)
        assert whole(packed, b"gzip", 200_000) == first + data


@pytest.mark.parametrize("encoding", [b"br", b"", b"GZIP"])
def test_an_encoding_nobody_reads_is_told(encoding: bytes) -> None:
    with pytest.raises(ValueError, match="not an encoding"):
        beginning(b"x", encoding, 10)


def test_damaged_data_are_told() -> None:
    with pytest.raises(ValueError, match="incorrect header"):
        whole(b"\xff" * 20, b"gzip", 10)
