"""Reading many rows of a file to their own places in memory with few system calls: `preadv` of the C library.

Python's `os.preadv` wants an object for each row, which takes longer to make than the row to read. Here the list of
places is an array. Knows addresses and sizes only: the caller vouches that the memory is there.

Tested in `tests/chunks/test_reading_chunks.py`.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .libblosc2 import pointer

MAX_GAP: Final = 1 << 15
"""Bytes: what lies between two rows is read along, and dropped, up to this size."""
_MOST_PLACES: Final = 1024  # IOV_MAX of Linux and macOS; POSIX promises 16
_MOST_BYTES: Final = 1 << 28  # of one call: Linux reads no more than 2 GiB
_DROPPED: Final = np.empty(MAX_GAP, np.uint8)
"""Where the bytes between rows go, of all threads at once: nobody looks at them."""


@functools.cache
def _preadv() -> Callable[[int, int, int, int], int] | None:
    """The function, None where the system has none or its arguments may be of other sizes."""
    if os.name != "posix" or ctypes.sizeof(ctypes.c_void_p) != 8:
        return None
    try:
        function = ctypes.CDLL(None).preadv
    except (OSError, AttributeError):
        return None
    function.restype = ctypes.c_ssize_t
    function.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_int64)
    preadv: Callable[[int, int, int, int], int] = function
    return preadv


def available() -> bool:
    return _preadv() is not None


def read_rows(fd: int, starts: NDArray[np.int64], places: NDArray[np.int64], size: int) -> int:
    """Read rows of `size` bytes from the offsets `starts`, ascending, to the addresses `places`.

    Returns how many rows were read: fewer than asked for where the file ends, or where the system gave up early for
    another reason; those that follow may be read in part. The GIL is free meanwhile.
    """
    preadv = _preadv()
    if preadv is None:
        return 0
    gaps = np.diff(starts, append=starts[-1:] + size) - size
    ends = np.append(np.flatnonzero((gaps < 0) | (gaps > MAX_GAP)), len(starts) - 1)
    most = max(min(_MOST_PLACES // (2 if gaps.any() else 1), _MOST_BYTES // (size + MAX_GAP)), 1)
    begin = 0
    for end in (ends + 1).tolist():
        for first in range(begin, end, most):
            last = min(first + most, end)
            vector, wanted = _vector(places[first:last], gaps[first : last - 1], size)
            if preadv(fd, pointer(vector), len(vector), int(starts[first])) != wanted:
                return first
        begin = end
    return len(starts)


def _vector(places: NDArray[np.int64], gaps: NDArray[np.int64], size: int) -> tuple[NDArray[np.int64], int]:
    """The array of `struct iovec` for rows with these gaps between them, and how many bytes it takes in all."""
    if not gaps.any():
        vector = np.empty((len(places), 2), np.int64)
        vector[:, 0], vector[:, 1] = places, size
        return vector, size * len(places)
    vector = np.empty((len(places), 2, 2), np.int64)
    vector[:, 0, 0], vector[:, 0, 1] = places, size
    vector[:, 1, 0] = pointer(_DROPPED)
    vector[:-1, 1, 1], vector[-1, 1, 1] = gaps, 0
    return vector.reshape(-1, 2)[:-1], size * len(places) + int(gaps.sum())
