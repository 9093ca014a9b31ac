"""Where the data of a write go: into the open new file, or aside for the process that makes the file.

Arrays in memory are handed to `write_array`; `dask.array.store` puts blocks into a `DirectTarget` or a `SpoolTarget`.
All of them encode whole chunks in threads and outside HDF5, and take the one lock for writing the bytes.

Tested in `tests/writing/test_encoding.py` and `tests/writing/test_segment.py`.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import operator
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from ..chunks.encoder import Box, EncodedChunk, encode_block
from ..chunks.index import ChunkStorage
from ..disk.files import FileBusyError, hdf5_lock
from ..library.target_file import ArrayLayout, TargetFile
from .alignment import Blocks
from .fitting import cast
from .progress import Done, nobody
from .segment import Segment, SegmentError, SegmentWriter

_SLAB_BYTES: Final = 64 * 2**20


@dataclass(frozen=True)
class Effort:
    """How a write goes about it. Makes no difference to the values that are read back."""

    threads: int | None = None
    """How many threads may encode at once; None: one per CPU."""
    write_empty_chunks: bool = True
    """Whether chunks that hold nothing but the fill value are written in arrays that are new."""

    def __post_init__(self) -> None:
        given = self.threads
        if given is not None and (not isinstance(given, int | np.integer) or isinstance(given, bool) or given < 1):
            raise ValueError(f"threads must be 1 or more, not {given!r}")

    def budget(self) -> AbstractContextManager[Any]:
        """What all threads that encode for one write hold while they do, so that there are never more of them."""
        return nullcontext() if self.threads is None else threading.BoundedSemaphore(self.threads)


USUAL: Final = Effort()


@contextlib.contextmanager
def kept_open(path: str, *, keep: int = 0) -> Iterator[TargetFile]:
    """A file to write to, open. Whoever uses it takes the lock for each use; it is free in between.

    `keep` are the bytes at its beginning that must stay if the disk is full.
    """
    try:
        with hdf5_lock():
            file = TargetFile(path, create=False, keep=keep)
    except BlockingIOError as error:
        raise FileBusyError(str(error)) from None
    try:
        yield file
    except BaseException:
        with hdf5_lock(), contextlib.suppress(OSError):  # what went wrong first counts
            file.close()
        raise
    with hdf5_lock():
        file.close()


class DirectTarget:
    """Takes blocks, from any thread of the process that has the new file open."""

    def __init__(
        self,
        file: TargetFile,
        path: str,
        layout: ArrayLayout,
        *,
        new: bool,
        effort: Effort,
        budget: AbstractContextManager[Any],
        offset: tuple[int, ...] = (),
        done: Done = nobody,
    ) -> None:
        """For the array at `path`, which is in the file. `new` says that it has no values yet. Takes the lock.

        The data are a part of the array that begins at `offset` (elements); by default they begin where it does.
        """
        self._file = file
        self._path = path
        self._effort = effort
        self._budget = budget
        self._done = done
        self._leave_out = new and not effort.write_empty_chunks
        self._offset = offset or (0,) * len(layout.shape)
        self.shape, self.dtype, self.ndim = layout.shape, layout.dtype, len(layout.shape)
        with hdf5_lock():
            self._storage = file.chunk_storage(path)
            self._masks = not new and self._storage is not None and file.may_have_masks(self._storage)
        self.chunkshape = layout.chunkshape if self._storage is None else self._storage.chunkshape

    def __setitem__(self, key: tuple[slice, ...], block: Any) -> None:
        self.write(_start(key), as_announced(np.asarray(block), self.dtype, self._path))

    def write(self, start: tuple[int, ...], values: np.ndarray) -> None:
        """Put `values` at `start` (elements): whole chunks as encoded bytes, the rest through HDF5."""
        start = _moved(start, self._offset)
        if self._storage is None or not values.ndim:
            self._write_part(start, values)
            return
        told = 0

        def put(chunks: Sequence[EncodedChunk]) -> None:
            nonlocal told
            with hdf5_lock():
                self._file.write_chunks(self._path, chunks, masks=self._masks)
                told += (some := self._elements(chunks))
            self._tell(some)

        rest = encode_block(
            values,
            start,
            self._storage,
            put,
            threads=self._effort.threads,
            budget=self._budget,
            leave_out=self._leave_out,
        )
        for box in rest:
            part = values[_inside(box, start)]
            self._write_part(tuple(first for first, _ in box), part)
            told += part.size
        self._tell(values.size - told)  # chunks that were left out

    def write_all(self, values: np.ndarray) -> None:
        """The whole array. What HDF5 has to write goes a slab at a time, so that the lock is free in between."""
        if self._storage is not None or not values.ndim:
            self.write((0,) * values.ndim, values)
            return
        rows = _slab_rows(values, self.chunkshape)
        for start in range(0, len(values), rows):
            self.write((start,) + (0,) * (values.ndim - 1), values[start : start + rows])

    def _write_part(self, start: tuple[int, ...], values: np.ndarray) -> None:
        with hdf5_lock():
            self._file.write(self._path, start, values)
        self._tell(values.size)

    def _elements(self, chunks: Sequence[EncodedChunk]) -> int:
        """How many elements of the array there are in some chunks."""
        shape = self.shape if self._storage is None else self._storage.shape
        sides = list(zip(self.chunkshape or (), shape, strict=True))
        return sum(
            math.prod(min(chunk, length - first) for first, (chunk, length) in zip(item.corner, sides, strict=True))
            for item in chunks
        )

    def _tell(self, elements: int) -> None:
        self._done(elements * itemsize(self.dtype))


def as_announced(block: np.ndarray, dtype: np.dtype | None, path: str) -> np.ndarray:
    """A block of Dask in the dtype that its array has. Raises ValueError for values that would be lost in it."""
    return block if dtype is None else cast(block, dtype, f"array {path!r}: a block of the Dask array is not {dtype}")


def itemsize(dtype: np.dtype | None) -> int:
    """Bytes of an element; of text of any length, of the reference to it."""
    return np.dtype(object).itemsize if dtype is None else dtype.itemsize


def _slab_rows(values: np.ndarray, chunkshape: tuple[int, ...] | None) -> int:
    """How many rows to write at once: whole chunks, as HDF5 would encode one that is cut several times."""
    step = chunkshape[0] if chunkshape else 1
    rows = _SLAB_BYTES // max(values[:1].nbytes, 1)
    return max(step, rows // step * step)


@dataclass(frozen=True)
class SpoolTarget:
    """Takes blocks in any process: each becomes a segment, a file of the transaction named after the block's place.

    A block that is stored twice, because its worker died or was slow, has the same name, and the last whole copy
    counts: if a `compute=False` graph failed and is computed again, perhaps from other data, no block of the first run
    may be taken for one of the second.
    """

    folder: str
    path: str
    number: int
    """Of the array in the transaction."""
    shape: tuple[int, ...]
    dtype: Any
    storage: ChunkStorage | None = None
    """How the array's chunks will be stored; None if its values are put aside as they are."""
    effort: Effort = USUAL
    new: bool = True
    """The array has no values yet."""
    offset: tuple[int, ...] = ()
    """First element of the data in the array, if they are a part of it."""

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def segment(self, start: Sequence[int]) -> str:
        """Path of the segment of the block at `start`."""
        return os.path.join(self.folder, "-".join(["block", str(self.number), *map(str, start)]) + SUFFIX)

    def __setitem__(self, key: tuple[slice, ...], block: Any) -> None:
        values, start = as_announced(np.asarray(block), self.dtype, self.path), _moved(_start(key), self.offset)
        if not values.size:
            return  # it would have the name of the block that begins where it does
        # opening fails if the folder is not there: this worker does not see the file system, or the job is over
        with SegmentWriter(self.segment(start), start, values.shape) as segment:
            if self.storage is None or not values.ndim:
                segment.add_values(start, values)
                return
            rest = encode_block(
                values,
                start,
                self.storage,
                segment.add_chunks,
                threads=1,  # the scheduler has given all CPUs to its workers
                budget=_budget_here(self.folder, self.effort),
                leave_out=self.new and not self.effort.write_empty_chunks,
            )
            for box in rest:
                inside = _inside(box, start)
                segment.add_values(tuple(first for first, _ in box), values[inside])


SUFFIX: Final = ".seg"


@functools.lru_cache(maxsize=16)
def _budget_here(folder: str, effort: Effort) -> AbstractContextManager[Any]:
    """What all threads of this process share that encode for the transaction in `folder`."""
    return effort.budget()


def _start(key: tuple[slice, ...]) -> tuple[int, ...]:
    return tuple(int(part.start or 0) for part in key)


def _moved(start: tuple[int, ...], offset: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(map(operator.add, start, offset)) if offset else start


def _inside(box: Box, start: Sequence[int]) -> tuple[slice, ...]:
    """Where a box of the array is in a block that begins at `start`."""
    return tuple(slice(first - begin, last - begin) for (first, last), begin in zip(box, start, strict=True))


def unspool(path: str, target: str, spooled: Sequence[tuple[SpoolTarget, Blocks]]) -> None:
    """Write the blocks that were put aside into the new file at `path`, which is to become `target`.

    Each SpoolTarget comes with the blocks that it must have. Raises OSError if one is missing or damaged.
    """
    if not spooled:
        return
    with kept_open(path) as file:
        for array, blocks in spooled:
            with hdf5_lock():
                storage = None if array.new else file.chunk_storage(array.path)
                masks = storage is not None and file.may_have_masks(storage)
            for segment in _complete(array, blocks, target):
                for item in segment:
                    with hdf5_lock():
                        if isinstance(item, EncodedChunk):
                            file.write_chunks(array.path, [item], masks=masks)
                        else:
                            file.write(array.path, item.start, item.values)


def stored_bytes(spooled: Sequence[tuple[SpoolTarget, Blocks]]) -> int:
    """How many bytes of data the blocks have that were put aside so far."""
    total = 0
    for array, blocks in spooled:
        stem = f"block-{array.number}-"
        sides = [dict(_sides(sizes, 0)) for sizes in blocks]
        for name in os.listdir(array.folder):
            if name.startswith(stem) and name.endswith(SUFFIX):
                start = map(int, name.removeprefix(stem).removesuffix(SUFFIX).split("-"))
                begins = array.offset or (0,) * array.ndim
                lengths = (side[first - begin] for side, first, begin in zip(sides, start, begins, strict=True))
                total += math.prod(lengths) * array.dtype.itemsize
    return total


def _complete(array: SpoolTarget, blocks: Blocks, target: str) -> Iterator[Segment]:
    """The segments of all blocks of an array. Raises OSError if one is missing, or is not the block it should be."""
    begins = array.offset or (0,) * array.ndim
    places = list(itertools.product(*(_sides(sizes, begin) for sizes, begin in zip(blocks, begins, strict=True))))
    present = set(os.listdir(array.folder))
    starts = [tuple(first for first, _ in sides) for sides in places]
    missing = [start for start in starts if os.path.basename(array.segment(start)) not in present]
    if missing:
        raise OSError(
            f"{target}:{array.path}: only {len(places) - len(missing)} of {len(places)} blocks were stored, not the "
            f"one at {missing[0]}; the file was not replaced. Every worker must see the folder of the file"
        )
    return (_checked(array.segment(start), start, sides) for start, sides in zip(starts, places, strict=True))


def _checked(path: str, start: tuple[int, ...], sides: tuple[tuple[int, int], ...]) -> Segment:
    segment = Segment.of(path)
    shape = tuple(size for _, size in sides)
    if (segment.start, segment.shape) != (start, shape):
        raise SegmentError(
            f"{path}: holds the block of {segment.shape} at {segment.start}, expected that of {shape} at {start}"
        )
    return segment


def _sides(sizes: tuple[int, ...], begin: int) -> list[tuple[int, int]]:
    """First element and size of the blocks along a dimension that are not empty."""
    firsts = itertools.accumulate(sizes, initial=begin)
    return [(first, size) for first, size in zip(firsts, sizes, strict=False) if size]
