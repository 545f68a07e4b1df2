"""BF16: the upper half of a 32-bit float. numpy has no such type, so a tensor of it holds the bits as uint16."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_NAN = 0x7FC0


def to_floats(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """Every BF16 number is a 32-bit float too: nothing is lost."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def from_floats(values: npt.NDArray[np.floating]) -> npt.NDArray[np.uint16]:
    """Rounded to the nearest BF16, to the even one of two as near."""
    wide = _odd(values).view(np.uint32)
    even = (wide >> np.uint32(16)) & np.uint32(1)
    bits = ((wide + np.uint32(0x7FFF) + even) >> np.uint32(16)).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(_NAN), bits)


def _odd(values: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """As 32-bit floats. One that lies between two of them becomes the odd one: it must not look like a half of BF16's."""
    near = values.astype(np.float32)
    if values.dtype.itemsize <= near.itemsize:
        return near
    bits = near.view(np.uint32)
    beyond = np.abs(near) > np.abs(values)
    return np.where(near == values, bits, (bits - beyond) | np.uint32(1)).view(np.float32)
