import numpy as np
import pytest
from numcodecs import blosc

from skyframe.data.decode import blosc_decoder, decode_by_numcodecs, frame_sizes

RAW = np.arange(4000, dtype="<u2")


@pytest.mark.parametrize("decode", [blosc_decoder(), decode_by_numcodecs])
@pytest.mark.parametrize("codec", [b"lz4", b"zstd"])
def test_both_decoders_give_what_was_packed(decode, codec):
    packed = blosc.compress(RAW, codec, 5, blosc.BITSHUFFLE, 0, 2)
    assert frame_sizes(packed) == (8000, len(packed))
    held = np.frombuffer(packed, np.uint8)
    for source in (packed, held.ctypes.data):  # bytes, and an address as in a mapped file
        out = np.zeros(4001, "<u2")
        assert decode(source, out.ctypes.data, 8000, 1) == 8000
        assert np.array_equal(out[:4000], RAW) and out[4000] == 0


@pytest.mark.parametrize("decode", [blosc_decoder(), decode_by_numcodecs])
def test_what_does_not_decode_is_said_and_nothing_is_written_past_the_target(decode):
    packed = blosc.compress(RAW, b"lz4", 5, blosc.BITSHUFFLE, 0, 2)
    out = np.zeros(4000, "<u2")
    assert decode(packed, out.ctypes.data, 4000, 1) < 0  # half the room that the frame needs
    assert not out.any()
    torn = packed[:16] + bytes(len(packed) - 16)
    assert decode(torn, out.ctypes.data, 8000, 1) < 0


def test_a_header_cut_short_has_no_sizes():
    assert frame_sizes(b"short") == (0, 0)
