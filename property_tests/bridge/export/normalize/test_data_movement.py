"""Dequantizing and quantizing returns the same codes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.export.normalize.data_movement import round_trips

TINY = float(np.finfo(np.float32).tiny)


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int16, np.uint16])
@given(
    scale=st.floats(TINY, 2.0**126, width=32) | st.floats(2.0**-20, 1.0, width=32),
    place=st.floats(0.0, 1.0),
)
def test_every_code_comes_back(kind, scale, place):
    """round(((q - z) * s) / s) + z = q for all codes q and every zero point z, in float32."""
    info = np.iinfo(kind)
    if not round_trips(np.float32(scale), np.dtype(kind)):
        assert scale * 2.0 ** (8 * info.dtype.itemsize) > float(np.finfo(np.float32).max)
        return
    codes = np.arange(info.min, info.max + 1).astype(kind)
    zero = np.float32(info.min + round(place * (int(info.max) - int(info.min))))
    values = (codes.astype(np.float32) - zero) * np.float32(scale)
    again = np.rint(values / np.float32(scale)) + zero
    assert np.array_equal(np.clip(again, info.min, info.max), codes)
