"""gRPC's frames, however they are cut."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from fairlead.kits.frames import Frame, Frames, TooLong, framed


@given(st.lists(st.binary(max_size=40), max_size=6), st.integers(1, 30))
def test_messages_come_out_whole_however_they_arrive(messages: list[bytes], size: int) -> None:
    wire = b"".join(map(framed, messages))
    frames = Frames(40)
    found = []
    for at in range(0, len(wire), size):
        frames.feed(wire[at : at + size])
        while (one := frames.take()) is not None:
            assert not one.compressed
            found.append(one.content)
    assert found == messages
    assert not frames.unfinished


def test_a_message_that_is_too_long_is_refused_before_it_is_whole() -> None:
    large = Frames(10)
    large.feed(framed(b"x" * 11)[:5])
    with pytest.raises(TooLong) as caught:
        large.take()
    assert caught.value.length == 11


def test_a_compressed_message_comes_as_it_is() -> None:
    packed = Frames(10)
    packed.feed(b"\x01\x00\x00\x00\x01x")
    assert packed.take() == Frame(b"x", compressed=True)
