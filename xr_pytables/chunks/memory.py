"""Memory for what a read returns: blocks of some MiB that are used again instead of given back to the system.

A stream of Dask blocks asks for memory of one size over and over. What comes from the system and goes back each time is
cleared page by page once more, and with it what NumPy's own functions let go of meanwhile. So an array that nobody uses
any more leaves its memory here, for the next one of its size. Knows sizes and dtypes, nothing of files.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .cpus import usable_cpus

SMALLEST: Final = 1 << 18
"""Bytes: the allocator keeps smaller blocks by itself."""
LARGEST: Final = 1 << 26
"""Bytes of the largest block that is used again."""
VARIABLE: Final = "XR_PYTABLES_KEPT_MEMORY"
"""The environment variable that says how much memory is kept, in MiB."""


def kept_bytes(usual: int, environment: Mapping[str, str] = os.environ) -> int:
    """How many bytes may be kept: `usual`, or what the environment says. Raises ValueError if that is no number."""
    said = environment.get(VARIABLE, "").strip()
    if not said:
        return usual
    if not said.isdecimal():
        raise ValueError(f"the environment variable {VARIABLE} must be a whole number of MiB, not {said[:40]!r}")
    return int(said) << 20


LIMIT: Final = kept_bytes(min(LARGEST * usable_cpus(), 1 << 29))
"""Bytes that are kept for later at most, in the whole process."""


_PAGE: Final = 4096  # bytes
_MOST: Final = np.iinfo(np.intp).max
_BYTE: Final = np.dtype(np.uint8)


class _Kept:
    """Blocks that nobody uses, by size.

    Without a lock, as the collector of garbage may bring a block back at any moment, in the middle of a method here
    too. So each step is one operation on a list or a dict that makes no object which the collector counts, and the next
    step is right whatever came between.
    """

    def __init__(self) -> None:
        self.blocks: dict[int, list[NDArray[np.uint8]]] = {}

    def take(self, size: int) -> NDArray[np.uint8] | None:
        """The block of exactly `size` bytes that came last."""
        try:
            return self.blocks[size].pop()
        except (KeyError, IndexError):
            return None

    def put(self, block: NDArray[np.uint8]) -> None:
        """Keep a block for later; if there are too many, others go, the sizes first that came first."""
        self.blocks.setdefault(block.size, []).append(block)
        if self.size() <= LIMIT:
            return
        for size in list(self.blocks):
            alike = self.blocks.get(size, [])
            while alike and self.size() > LIMIT:
                with contextlib.suppress(IndexError):
                    alike.pop(0)
            if not alike:
                self.blocks.pop(size, None)

    def size(self) -> int:
        """In bytes, all blocks together."""
        return sum([size * len(self.blocks.get(size, ())) for size in list(self.blocks)])

    def forget(self) -> None:
        self.blocks.clear()


_kept = _Kept()


class _Lease:
    """A block in use: the owner of an array's memory, which brings it back when the last view of it has gone."""

    __slots__ = ("__array_interface__", "block")

    def __init__(self, block: NDArray[np.uint8]) -> None:
        self.block = block
        self.__array_interface__ = block.__array_interface__

    def __del__(self) -> None:
        if _kept is not None:  # at the end of the interpreter it may have gone already
            _kept.put(self.block)


def empty(shape: Sequence[int], dtype: np.dtype[Any]) -> NDArray[Any]:
    """`np.empty(shape, dtype)`, in memory that was used before where there is some.

    From SMALLEST bytes on, the array does not own its memory (`array.base` does); in everything else it is like others.
    """
    size = int(math.prod(shape)) * dtype.itemsize
    if dtype.hasobject or size < SMALLEST:
        return _new(shape, dtype)
    if size > LARGEST:
        return _on_pages(size, shape, dtype).view(dtype).reshape(shape)
    rounded = _rounded(size)
    block = _kept.take(rounded)
    lease = _Lease(_on_pages(rounded, (rounded,), _BYTE) if block is None else block)
    return np.asarray(lease)[:size].view(dtype).reshape(shape)


def _on_pages(size: int, shape: Sequence[int], dtype: np.dtype[Any]) -> NDArray[np.uint8]:
    """`size` bytes, for an array of that shape, that begin with a page of memory.

    Large memory from the allocator begins 16 bytes behind one. To copy what begins with a page of a file there, as much
    of what is large does, takes some processors several times as long (those of AMD, for destinations a few bytes
    further than the source, modulo pages: `rep movsb`).
    """
    try:
        block = _new((min(size, _MOST - _PAGE) + _PAGE,), _BYTE)
    except MemoryError:
        return _new(shape, dtype).reshape(-1).view(np.uint8)  # says of which array there is too much
    start = -block.ctypes.data % _PAGE
    return block[start : start + size]


def _new(shape: Sequence[int], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Memory from the system; if there is none left, what is kept is given back to it first. Raises MemoryError."""
    try:
        return np.empty(shape, dtype)
    except ValueError:  # also if there are no elements, of which NumPy leaves out dimensions of none
        told = f"shape {tuple(map(int, shape))} of dtype {dtype} is more than an array of NumPy can have"
        raise MemoryError(told) from None
    except MemoryError:
        _kept.forget()
        return np.empty(shape, dtype)


def _rounded(size: int) -> int:
    """The next multiple of a sixteenth of the size or so: blocks at the edge of an array are a little smaller."""
    step = 1 << max(size.bit_length() - 4, 0)
    return -(-size // step) * step
