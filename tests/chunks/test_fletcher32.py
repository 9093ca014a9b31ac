"""The checksum of HDF5's filter, against that of libhdf5."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xr_pytables.chunks.fletcher32 import fletcher32
from xr_pytables.library import libhdf5

theirs = ctypes.CDLL(libhdf5._library_paths()[0]).H5_checksum_fletcher32
theirs.restype, theirs.argtypes = ctypes.c_uint32, (ctypes.c_void_p, ctypes.c_size_t)


def check(data: np.ndarray) -> None:
    assert fletcher32(data) == theirs(data.ctypes.data, data.size)


@given(st.binary(min_size=1, max_size=64))
def test_any_few_bytes(data: bytes) -> None:
    check(np.frombuffer(data, np.uint8))


@pytest.mark.parametrize("size", [1, 2, 3, 720, 721, 2047, 2048, 2049, 2050, 262_144, 262_147, 1_000_003])
@pytest.mark.parametrize("kind", ["random", "zeros", "ones", "one at the end", "sum of zero", "no multiple of words"])
def test_sizes_and_contents(size: int, kind: str) -> None:
    data = np.zeros(size, np.uint8)
    if kind == "random":
        data[:] = np.random.default_rng(size).integers(0, 256, size)
    elif kind == "ones":
        data[:] = 255
    elif kind == "one at the end":
        data[-1] = 1
    elif kind == "sum of zero":  # modulo 65535
        data[:2] = 255
    else:
        data[:] = np.arange(size) % 251
    check(data)
    check(np.concatenate([np.zeros(1, np.uint8), data])[1:])  # at an odd address


def test_nothing() -> None:
    assert fletcher32(np.empty(0, np.uint8)) == 0
