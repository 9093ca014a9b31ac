"""The values of one variable, piece by piece: in memory, or in files that Dask's tasks have put aside.

A block that is put aside becomes a file of the transaction's folder, named by its place, so that any process can store
it, and store it twice. Reading takes any box of the whole, across blocks. Knows no HDF5.

Tested in `tests/writing/test_appending.py`.
"""

from __future__ import annotations

import bisect
import itertools
import math
import os
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, Protocol

import numpy as np

from ..disk.transaction import in_folder
from ..parsing import parsing
from .fitting import cast
from .segment import Segment, SegmentWriter

Box = tuple[slice, ...]
"""A part of an array: for each dimension a slice from start to stop, both given."""
_SLAB_BYTES: Final = 64 * 2**20


class Values(Protocol):
    """Values to write, wherever they are."""

    @property
    def shape(self) -> tuple[int, ...]:
        """In elements."""

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""

    def read(self, box: Box) -> np.ndarray:
        """The values of a part. May be called by several threads."""

    def pieces(self) -> Iterator[Box]:
        """Boxes that together make up the whole, each of a size that fits into memory."""


@dataclass(frozen=True)
class InMemory:
    """Values that are in memory already."""

    array: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """In elements."""
        return self.array.shape

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return self.array.itemsize

    def read(self, box: Box) -> np.ndarray:
        """A view of a part."""
        key: Any = (*box, ...)  # the ellipsis: one element stays an array of its dtype
        return np.asarray(self.array[key])

    def pieces(self) -> Iterator[Box]:
        """Slabs of some megabytes."""
        if not self.array.ndim or not self.array.size:
            yield ()
            return
        rows = max(1, _SLAB_BYTES // max(self.array[:1].nbytes, 1))
        for start in range(0, len(self.array), rows):
            yield (slice(start, min(start + rows, len(self.array))), *(slice(0, size) for size in self.shape[1:]))


@dataclass(frozen=True)
class BlockTarget:
    """Takes blocks of an array in any process; a target for `lazy_blocks.put`."""

    folder: str
    number: int
    """Of the array, unique in the folder."""
    shape: tuple[int, ...]
    dtype: np.dtype
    """Object for values of variable length."""
    label: str
    """The user's file and the array, for messages."""

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def path(self, start: Sequence[int]) -> str:
        """The file of the block that begins at `start`."""
        suffix = ".seg" if self.dtype.kind == "O" else ".npy"
        return os.path.join(self.folder, "-".join(["values", str(self.number), *map(str, start)]) + suffix)

    def __setitem__(self, key: tuple[slice, ...], block: Any) -> None:
        values = np.asarray(block)
        if not values.size:
            return  # it would have the name of the block that begins where it does
        with in_folder(self.folder):
            self._write(tuple(int(part.start or 0) for part in key), values)

    def _write(self, start: tuple[int, ...], values: np.ndarray) -> None:
        name = self.path(start)
        if self.dtype.kind == "O":
            with SegmentWriter(name, start, values.shape) as segment:
                segment.add_values(start, values)
            return
        making = f"{name}.{uuid.uuid4().hex[:8]}"
        with open(making, "xb") as file:
            stored = cast(values, self.dtype, self.label)
            _write_array(file, np.ascontiguousarray(stored, self.dtype).reshape(values.shape))
        os.replace(making, name)


def _write_array(file: BinaryIO, array: np.ndarray) -> None:
    """As `numpy.lib.format.write_array`, which does not say that a disk is full."""
    np.lib.format.write_array_header_2_0(file, np.lib.format.header_data_from_array_1_0(array))
    file.write(array.reshape(-1).view(np.uint8).data)


@dataclass(frozen=True)
class PutAside:
    """Values whose blocks lie in files."""

    target: BlockTarget
    chunks: tuple[tuple[int, ...], ...]
    """Sizes of the blocks along each dimension, as Dask has them."""

    @property
    def shape(self) -> tuple[int, ...]:
        """In elements."""
        return self.target.shape

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return self.target.dtype.itemsize

    def _edges(self, axis: int) -> list[int]:
        return [0, *itertools.accumulate(self.chunks[axis])]

    def missing(self) -> int:
        """How many elements were never stored."""
        stored: int = sum(
            math.prod(part.stop - part.start for part in box)
            for box in self.pieces()
            if os.path.exists(self.target.path([part.start for part in box]))
        )
        return math.prod(self.shape) - stored

    def pieces(self) -> Iterator[Box]:
        """The blocks that hold something."""
        along = [
            [slice(begin, end) for begin, end in itertools.pairwise(self._edges(axis)) if end > begin]
            for axis in range(len(self.chunks))
        ]
        yield from itertools.product(*along)

    def read(self, box: Box) -> np.ndarray:
        """A part, copied together from its blocks."""
        touched = [self._touched(axis, part) for axis, part in enumerate(box)]
        out = np.empty([part.stop - part.start for part in box], self.target.dtype)
        for block in itertools.product(*touched):
            inside = tuple(
                slice(max(part.start, whole.start) - whole.start, min(part.stop, whole.stop) - whole.start)
                for part, whole in zip(box, block, strict=True)
            )
            into = tuple(
                slice(max(part.start, whole.start) - part.start, min(part.stop, whole.stop) - part.start)
                for part, whole in zip(box, block, strict=True)
            )
            out[into] = self._block([whole.start for whole in block])[inside]
        return out

    def __getitem__(self, box: Box) -> np.ndarray:
        return self.read(box)

    def _touched(self, axis: int, part: slice) -> list[slice]:
        edges = self._edges(axis)
        first = bisect.bisect_right(edges, part.start) - 1
        last = bisect.bisect_left(edges, part.stop)
        return [slice(begin, end) for begin, end in itertools.pairwise(edges[first : last + 1]) if end > begin]

    def _block(self, start: Sequence[int]) -> np.ndarray:
        path = self.target.path(start)
        if self.target.dtype.kind != "O":
            with parsing():
                return np.asarray(np.lib.format.open_memmap(path, mode="r"))
        (item,) = Segment.of(path)
        return item.values
