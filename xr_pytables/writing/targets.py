"""Where the data of a new file go: straight into it, from whatever thread or process has computed them.

`lazy_blocks.put` puts blocks into an `ArenaTarget`, which encodes them, writes the bytes to a region of the file that
nobody else has, and notes where they are. Nobody has the file open with HDF5 meanwhile, so there is no lock.

Tested in `tests/writing/test_new_file.py`.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Final, Protocol

import dask
import numpy as np
from dask.delayed import Delayed
from numpy.typing import NDArray

from ..chunks.encoder import Block, EncodedChunk, encode_block, whole_chunks
from ..chunks.filters import OF_CONSTANT_SIZE
from ..chunks.index import ChunkStorage
from ..disk.arenas import Room, write_in_a_row
from ..disk.opened_files import hdf5_lock
from ..disk.transaction import Transaction, in_folder
from ..errors import FileBusyError, SegmentError
from ..library.target_file import TargetFile
from ..sources.positioned import BINARY
from .fitting import as_announced
from .progress import Done, nobody
from .segment import Segment, SegmentWriter


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


def itemsize(dtype: np.dtype | None) -> int:
    """Bytes of an element; of text of any length, of the reference to it."""
    return np.dtype(object).itemsize if dtype is None else dtype.itemsize


Place = tuple[int, ...]
"""The first element of a block or chunk."""
Records = NDArray[Any]
"""Where the chunks of a block are: an array of `record_dtype`."""


def record_dtype(rank: int) -> np.dtype[Any]:
    """Of a chunk: its first element, where its bytes begin in the file, how many there are, and its filter mask."""
    return np.dtype([("corner", "<i8", (rank,)), ("address", "<u8"), ("size", "<u4"), ("mask", "<u4")])


class Notes(Protocol):
    """What is known of the blocks that were written.

    A block that is stored twice, because its worker died or was slow, has the same place, and the last whole copy
    counts: if a `compute=False` graph failed and is computed again, perhaps from other data, no block of the first run
    may be taken for one of the second.
    """

    def add(self, number: int, start: Place, shape: Place, chunks: Records) -> None:
        """Note where the chunks are of the block at `start` of the array of that number. From any thread."""

    def of(self, number: int, start: Place, shape: Place) -> Records | None:
        """Where the chunks of a block are; None if it was not written."""


class OwnNotes:
    """Of the threads of one process."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, Place], Records] = {}

    def add(self, number: int, start: Place, shape: Place, chunks: Records) -> None:
        """See Notes."""
        self._known[number, start] = chunks

    def of(self, number: int, start: Place, shape: Place) -> Records | None:
        """See Notes."""
        return self._known.get((number, start))


@dataclass(frozen=True)
class SharedNotes:
    """Of many processes: each block is a file of the transaction's folder, a segment, named after its place."""

    folder: str

    def path(self, number: int, start: Place) -> str:
        """Of the segment of a block."""
        return os.path.join(self.folder, "-".join([f"{_PREFIX}{number}", *map(str, start)]) + _SUFFIX)

    def add(self, number: int, start: Place, shape: Place, chunks: Records) -> None:
        """See Notes. Raises FileNotFoundError if the folder is gone."""
        with SegmentWriter(self.path(number, start), start, shape) as segment:
            segment.add_values(start, chunks)

    def of(self, number: int, start: Place, shape: Place) -> Records | None:
        """See Notes. Raises SegmentError for a segment that is damaged, or is of another block."""
        path = self.path(number, start)
        try:
            segment = Segment.of(path)
        except FileNotFoundError:
            return None
        if (segment.start, segment.shape) != (start, shape):
            raise SegmentError(
                f"{path}: is about the block of {segment.shape} at {segment.start}, expected that of {shape} at {start}"
            )
        (item,) = segment
        return item.values

    def places(self) -> Iterator[tuple[int, Place]]:
        """Number of the array and place of each block that was written so far."""
        for name in os.listdir(self.folder):
            if name.startswith(_PREFIX) and name.endswith(_SUFFIX):
                number, *start = map(int, name.removeprefix(_PREFIX).removesuffix(_SUFFIX).split("-"))
                yield number, tuple(start)


_PREFIX, _SUFFIX = "block-", ".seg"


@dataclass(frozen=True)
class ArenaTarget:
    """Takes blocks of an array, whole chunks, from any thread, and from any process if room and notes are shared.

    Pickles then. Every step can be repeated: what is written again goes to another place.
    """

    file: str
    """Path of the file; HDF5 has made the array's structure and closed it."""
    room: Room
    notes: Notes
    number: int
    """Of the array in the file."""
    label: str
    """The user's file and the array, for messages."""
    storage: ChunkStorage
    effort: Effort = USUAL
    threads: int | None = 1
    """How many threads may encode one block; None: as many as there are CPUs without work."""
    budget: AbstractContextManager[Any] | None = None
    """What whoever encodes holds meanwhile; None: one of the process for this file."""
    done: Done = nobody

    @property
    def shape(self) -> tuple[int, ...]:
        """In elements."""
        return self.storage.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """As stored."""
        return self.storage.dtype

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.storage.shape)

    def __setitem__(self, key: tuple[slice, ...], block: Any) -> None:
        values = as_announced(block, key, self.dtype, self.label)
        if not values.size:
            return  # it would have the place of the block that begins where it does
        with in_folder(os.path.dirname(self.file)):
            self.write(tuple(int(part.start or 0) for part in key), values)

    def write(self, start: Place, values: Block) -> None:
        """Put a block, or all values that there are, at `start` (elements).

        Raises FileNotFoundError if this process does not see the file, or the job is over.
        """
        records: list[tuple[Place, int, int, int]] = []
        chunks_left = math.prod(map(len, whole_chunks(start, values.shape, self.storage)))
        certain = self.effort.write_empty_chunks and all(
            step.id in OF_CONSTANT_SIZE for step in self.storage.pipeline.filters
        )
        descriptor = os.open(self.file, os.O_WRONLY | getattr(os, "O_CLOEXEC", 0) | BINARY)

        def put(chunks: Sequence[EncodedChunk]) -> None:
            sizes = [sum(part.size for part in chunk.parts) for chunk in chunks]
            nonlocal chunks_left
            chunks_left -= len(chunks)
            # the others are about as large as these
            place = self.room.take(sum(sizes), sum(sizes) * max(chunks_left, 0) // len(chunks), certain=certain)
            write_in_a_row(descriptor, [part for chunk in chunks for part in chunk.parts], place)
            for chunk, size in zip(chunks, sizes, strict=True):
                records.append((chunk.corner, place, size, chunk.mask))
                place += size

        try:
            encode_block(
                values,
                start,
                self.storage,
                put,
                threads=self.threads,
                budget=self.budget or _budget_here(self.file, self.effort),
                leave_out=not self.effort.write_empty_chunks,
            )
        finally:
            os.close(descriptor)  # which makes the bytes visible to other machines, before they hear of them
        self.notes.add(self.number, start, tuple(values.shape), np.array(records, record_dtype(self.ndim)))
        self.done(math.prod(values.shape) * self.dtype.itemsize)


@dataclass(frozen=True)
class _InGraph:
    """A target of tasks that nobody in particular started: they say what is wrong themselves."""

    transaction: Transaction
    target: Any

    def __setitem__(self, key: tuple[slice, ...], block: Any) -> None:
        if self.transaction.is_decided():
            return  # only the result of an earlier run of this task was lost
        self.transaction.join()
        self.transaction.store(self.target, key, block)


def waiting(begun: Delayed, transaction: Transaction, targets: Sequence[Any]) -> list[Delayed]:
    """The targets of a transaction, for tasks that run once `begun` is done."""
    return [dask.delayed(_second, pure=False)(begun, _InGraph(transaction, target)) for target in targets]


def _second(first: object, second: object) -> object:
    return second


@functools.lru_cache(maxsize=16)
def _budget_here(file: str, effort: Effort) -> AbstractContextManager[Any]:
    """What all threads of this process share that encode for a file."""
    return effort.budget()
