"""Values into arrays of a file, chunk by chunk: merged with what is there, encoded in threads, stored under the lock.

Chunks that are changed in part are read from what the file held before, so blocks need not fit the chunk grid. HDF5
writes what cannot be encoded here: text of variable length, contiguous arrays, foreign filters.

An array that grows keeps its last chunks as they are, without compression, as long as they are not full: such chunks
have a constant size and are written again in place. HDF5 forgets what is free in a file when it is closed, so chunks
that change their size with each append would leave a hole each time. Once the next row of chunks begins, the full ones
are encoded, and the new ones take their room.

Tested in `tests/writing/test_appending.py` and `tests/disk/test_journal.py`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..chunks import codecs, libblosc2, team
from ..chunks.encoder import is_fill
from ..chunks.filters import OF_CONSTANT_SIZE, FilterPipeline, of_level_0
from ..chunks.index import DAMAGED, MISSING, ChunkIndex, ChunkStorage
from ..errors import ChunkError
from ..hdf5.chunk_entries import Span
from ..hdf5.chunk_indexes import NO_NODES, IndexNodes, index_nodes, read_index
from ..hdf5.dataset import DatasetInfo
from ..hdf5.file import File
from ..library.target_file import TargetFile
from ..sources.source import Source
from .blocks import Box, Values
from .progress import Done, nobody

ReadBytes = Callable[[int, int], bytes]
"""(offset, count) to the bytes that the file had there before the change."""
Lock = Callable[[], AbstractContextManager[None]]
_BATCH_BYTES: Final = 64 * 2**20
_Coordinates = tuple[int, ...]


@dataclass(frozen=True)
class Before:
    """What an array held before the change."""

    storage: ChunkStorage
    index: ChunkIndex
    """Of the chunks that the change may need."""

    def chunk(self, at: _Coordinates) -> tuple[int, int, int] | None:
        """Address, size in bytes and filter mask of a chunk; None if it is not stored."""
        where = tuple(number - first for number, first in zip(at, self.index.origin, strict=True))
        if any(not 0 <= number < size for number, size in zip(where, self.index.address.shape, strict=True)):
            return None
        address = int(self.index.address[where])
        if address == MISSING:
            return None
        if address == DAMAGED:
            raise ChunkError(f"the chunk {at} of the chunk grid cannot be changed: the index says that it is nowhere")
        return address, int(self.index.size[where]), int(self.index.filter_mask[where])


@dataclass(frozen=True)
class ChunkTask:
    """One chunk to write."""

    at: _Coordinates
    """In the chunk grid."""
    plain: bool
    """Store it without compression."""


@dataclass(frozen=True)
class ArrayChange:
    """What happens to the chunks of one array. A plain value."""

    storage: ChunkStorage
    """With the new shape."""
    start: tuple[int, ...]
    count: tuple[int, ...]
    before: Before | None
    """None for a new array."""
    tasks: tuple[ChunkTask, ...]
    """In the order in which they are stored."""
    cut: tuple[int, ...] | None = None
    """A shape to shrink to first, so that the room of chunks that are written again is free for others."""
    span: Span | None = None
    """All chunks that HDF5 may add, change or remove are in it; None if the array is new or keeps all as they are."""
    nodes: IndexNodes = NO_NODES
    """Those of the chunk tree that HDF5 may write to then."""

    def least_growth(self) -> int:
        """Bytes that the stored chunks will certainly grow by: those that are not compressed."""
        pipeline = self.storage.pipeline
        plain = [task for task in self.tasks if task.plain or not _plain_mask(pipeline)]
        return max(0, len(plain) * self.storage.chunk_nbytes - sum(size for _, size in self._chunks(self.before)))

    def _chunks(self, state: Before | None) -> list[tuple[int, int]]:
        found = (state.chunk(task.at) for task in self.tasks) if state is not None else ()
        return [(address, size) for address, size, _ in filter(None, found)]

    def rewritten(self) -> list[tuple[int, int]]:
        """Offset and size of stored chunks, and of nodes of their tree, that are overwritten or given up, in bytes."""
        return [*self._chunks(self.before), *_pairs(self.nodes.within)]

    def touched(self) -> list[tuple[int, int]]:
        """The same, with the nodes that stay what they are but for pointers."""
        return [*self.rewritten(), *_pairs(self.nodes.beside)]

    def written(self, file: File) -> list[tuple[int, int]]:
        """The same of what was stored instead, as the file has it now."""
        if not self.tasks:
            return []
        sides = list(zip(*(task.at for task in self.tasks), strict=True))
        chunks = self.storage.chunkshape or ()
        region = tuple((min(side) * chunk, (max(side) + 1) * chunk) for side, chunk in zip(sides, chunks, strict=True))
        source, info = file.source, file.dataset(self.storage.header)
        now = Before(self.storage, read_index(source, self.storage, region, info=info))
        nodes = index_nodes(source, self.storage.base, info, self.span)
        return [*self._chunks(now), *_pairs(nodes.within), *_pairs(nodes.beside)]


def plan_change(
    source: Source,
    info: DatasetInfo,
    storage: ChunkStorage,
    new_shape: tuple[int, ...],
    start: tuple[int, ...],
    count: tuple[int, ...],
) -> ArrayChange:
    """The change of an array in the file `source`, which gets `count` elements from `start` on.

    `info` is what its header says now, `storage` has that shape. Raises ChunkError if its chunks cannot be located.
    """
    old, chunks = storage.shape, storage.chunkshape
    assert chunks is not None
    after = _with_shape(storage, new_shape)
    grown = [axis for axis, (size, new) in enumerate(zip(old, new_shape, strict=True)) if new > size]
    needed = [(first, first + size) for first, size in zip(start, count, strict=True)]
    if grown:
        axis = grown[0]
        needed = [(0, size) for size in old]
        needed[axis] = (max(old[axis] - 1, 0) // chunks[axis] * chunks[axis], old[axis])
    before = Before(storage, read_index(source, storage, tuple(needed), info=info))
    touched = [range(first // c, -(-(first + n) // c)) for first, n, c in zip(start, count, chunks, strict=True)]
    if not math.prod(count):
        return ArrayChange(after, start, count, before, ())
    if not grown:
        places = itertools.product(*touched)
        tasks = tuple(ChunkTask(at, _is_cut_off(storage, at) and _is_plain(source, before, at)) for at in places)
        span = Span(tasks[0].at, tasks[-1].at)
        return ArrayChange(
            after, start, count, before, tasks, span=span, nodes=index_nodes(source, storage.base, info, span)
        )
    change = _growth(source, after, start, count, before, touched, axis, is_filled=not info.fill_off)
    # all that are new along the axis: HDF5 may store fill values in those that get no others (H5D_ALLOC_TIME_EARLY)
    first = tuple(max(old[axis] - 1, 0) // chunks[axis] if other == axis else 0 for other in range(len(old)))
    span = Span(first, tuple(number - 1 for number in after.grid))
    return replace(change, span=span, nodes=index_nodes(source, storage.base, info, span))


def _pairs(rows: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    return ((offset, size) for offset, size in rows.tolist())


def _growth(
    source: Source,
    after: ChunkStorage,
    start: tuple[int, ...],
    count: tuple[int, ...],
    before: Before,
    touched: Sequence[range],
    axis: int,
    *,
    is_filled: bool,
) -> ArrayChange:
    """How an array grows along `axis`; `is_filled` says that what is behind its end in a chunk is the fill value."""
    old, chunks = before.storage.shape, after.chunkshape
    assert chunks is not None
    chunk, size = chunks[axis], after.shape[axis]
    first, last = (old[axis] - 1) // chunk if old[axis] else -1, (size - 1) // chunk
    unfinished = size % chunk > 0 and chunk > 1
    row = [range(n) for n in before.storage.grid]
    row[axis] = range(first, first + 1)
    stored = [at for at in itertools.product(*row) if before.chunk(at) is not None] if first >= 0 else []
    closes = last > first and chunk > 1 and any(not is_filled or _is_plain(source, before, at) for at in stored)
    places = [at for at in itertools.product(*touched) if not (closes and at[axis] == first)]
    if closes:
        inside = (
            itertools.product(*touched[:axis], row[axis], *touched[axis + 1 :]) if touched[axis][0] == first else ()
        )
        places += sorted({*stored, *inside})
    tasks = [
        ChunkTask(at, at[axis] == last and (unfinished or (last == first and _is_plain(source, before, at))))
        for at in places
    ]
    tasks.sort(key=lambda task: not task.plain)  # those of constant size first: they take the room of those before
    cut = (*old[:axis], first * chunk, *old[axis + 1 :]) if closes else None
    return ArrayChange(after, start, count, before, tuple(tasks), cut)


def plan_new(storage: ChunkStorage) -> ArrayChange:
    """The change that fills a new array."""
    tasks = tuple(ChunkTask(at, plain=False) for at in itertools.product(*map(range, storage.grid)))
    return ArrayChange(storage, (0,) * len(storage.shape), storage.shape, None, tasks)


def _with_shape(storage: ChunkStorage, shape: tuple[int, ...]) -> ChunkStorage:
    return ChunkStorage(
        shape, storage.chunkshape, storage.dtype, storage.pipeline, storage.header, storage.base, None, storage.fill,
        storage.rank,
    )  # fmt: skip


def _plain_mask(pipeline: FilterPipeline) -> int:
    """The filter mask of a chunk that is not compressed; 0 if there is no compressor.

    It is the mask that HDF5 gives to a chunk that does not compress. So when another program writes such a chunk again
    in place, where HDF5 keeps the mask that it had, the mask is right.
    """
    return sum(1 << number for number, step in enumerate(pipeline.filters) if step.id not in OF_CONSTANT_SIZE)


def _is_plain(source: Source, before: Before, at: _Coordinates) -> bool:
    """Whether a chunk is stored without compression, though the array has one."""
    stored, mask = before.chunk(at), _plain_mask(before.storage.pipeline)
    if stored is None or not mask:
        return False
    address, size, left_out = stored
    if left_out == mask:
        return True
    return before.storage.holds_frames and libblosc2.is_plain(source.read(address, min(size, libblosc2.UP_TO_LEVEL)))


def _plain_filters(storage: ChunkStorage) -> tuple[FilterPipeline, int]:
    """The filters that make a chunk of constant size, and the mask that goes with it; frames are made with level 0."""
    pipeline = storage.pipeline
    if storage.holds_frames:
        return FilterPipeline(tuple(map(of_level_0, pipeline.filters))), 0
    kept = tuple(step for step in pipeline.filters if step.id in OF_CONSTANT_SIZE)
    return FilterPipeline(kept), _plain_mask(pipeline)


def _is_cut_off(storage: ChunkStorage, at: _Coordinates) -> bool:
    """Whether a chunk reaches over the end of the array."""
    sizes = zip(at, storage.chunkshape or (), storage.shape, strict=True)
    return any((number + 1) * chunk > size for number, chunk, size in sizes)


# -- carrying it out ---------------------------------------------------------------------------------------


def write(
    file: TargetFile,
    path: str,
    change: ArrayChange,
    values: Values,
    *,
    before: ReadBytes,
    lock: Lock,
    threads: int | None,
    leave_out: bool = False,
    done: Done = nobody,
) -> None:
    """Carry out the change of the array at `path`, with the values for its part from `start` on.

    `before` gives bytes as they were before anything was changed. With `leave_out`, chunks of nothing but the fill
    value are not written. Takes the lock for each batch of chunks.
    """
    with lock(), file.array(path) as array:
        if change.cut is not None:
            array.set_shape(change.cut)
        array.set_shape(change.storage.shape)
    writer = _ChunkEncoder(change, values, before, leave_out)
    per_batch = max(1, _BATCH_BYTES // max(change.storage.chunk_nbytes, 1))
    for begin in range(0, len(change.tasks), per_batch):
        batch = change.tasks[begin : begin + per_batch]
        encoded: list[tuple[Any, int]] = [(b"", 0)] * len(batch)

        def encode(number: int, workspace: codecs.Workspace, batch: Any = batch, encoded: Any = encoded) -> None:
            encoded[number] = writer.encoded(batch[number])

        team.run(iter(range(len(batch))), encode, threads, count=len(batch))
        with lock(), file.array(path) as array:
            for task, (data, mask) in zip(batch, encoded, strict=True):
                if data is not None:
                    array.write_chunk(writer.corner(task.at), data, mask, replaces=writer.replaced(task.at))
        done(sum(map(writer.new_bytes, batch)))


class _ChunkEncoder:
    """Makes the bytes of chunks. Used by several threads at once."""

    def __init__(self, change: ArrayChange, values: Values, before: ReadBytes, leave_out: bool) -> None:
        self.change = change
        self.values = values
        self.before = before
        storage = change.storage
        self.leave_out = leave_out and not storage.holds_frames
        self.chunks = storage.chunkshape or ()
        self.type = codecs.ChunkType(self.chunks, storage.dtype)
        self.plain, self.plain_mask = _plain_filters(storage)

    def corner(self, at: _Coordinates) -> _Coordinates:
        """The first element of a chunk."""
        return tuple(number * chunk for number, chunk in zip(at, self.chunks, strict=True))

    def replaced(self, at: _Coordinates) -> tuple[int, int] | None:
        """Size and filter mask of the chunk that is stored there when this one comes."""
        change = self.change
        if change.before is None or (found := change.before.chunk(at)) is None:
            return None
        gone = change.cut is not None and any(
            first >= size for first, size in zip(self.corner(at), change.cut, strict=True)
        )
        return None if gone else found[1:]

    def new_bytes(self, task: ChunkTask) -> int:
        """How many bytes of the new values are in a chunk."""
        sides = zip(self.corner(task.at), self.chunks, self.change.start, self.change.count, strict=True)
        counts = (min(low + chunk, first + n) - max(low, first) for low, chunk, first, n in sides)
        return math.prod(max(n, 0) for n in counts) * self.type.element_size

    def encoded(self, task: ChunkTask) -> tuple[Any, int]:
        """The bytes to store, None for a chunk that is left out, and their filter mask."""
        data = np.ascontiguousarray(self._content(task.at)).reshape(-1).view(np.uint8)
        if self.leave_out and is_fill(data, self.change.storage.fill_values()):
            return None, 0
        if task.plain:
            stored, _ = codecs.encode_chunk(data, self.plain, self.type)
            return stored, self.plain_mask
        return codecs.encode_chunk(data, self.change.storage.pipeline, self.type)

    def _content(self, at: _Coordinates) -> np.ndarray:
        """The elements of a chunk after the change; fill values beyond the end of the array."""
        change, storage = self.change, self.change.storage
        low = self.corner(at)
        high = tuple(
            min(first + chunk, size) for first, chunk, size in zip(low, self.chunks, storage.shape, strict=True)
        )
        begin = tuple(map(max, low, change.start))
        end = tuple(min(stop, first + n) for stop, first, n in zip(high, change.start, change.count, strict=True))
        is_touched = all(a < b for a, b in zip(begin, end, strict=True))
        content = None if is_touched and (begin, end) == (low, high) else self._old_content(at, low)
        if content is None:
            content = np.full(self.chunks, storage.fill_values(), storage.dtype)
        if is_touched:
            box: Box = tuple(slice(a - first, b - first) for a, b, first in zip(begin, end, change.start, strict=True))
            into = tuple(slice(a - first, b - first) for a, b, first in zip(begin, end, low, strict=True))
            content[into] = self.values.read(box)
        return content

    def _old_content(self, at: _Coordinates, low: _Coordinates) -> np.ndarray | None:
        found = self.change.before.chunk(at) if self.change.before is not None else None
        if found is None or self.change.before is None:
            return None
        address, size, mask = found
        storage = self.change.before.storage
        raw = np.frombuffer(self.before(address, size), np.uint8)
        content = np.empty(self.chunks, storage.dtype)
        codecs.decode_chunk(raw, mask, storage.pipeline, storage.chunk_nbytes, content.reshape(-1).view(np.uint8))
        for axis, (first, chunk, length) in enumerate(zip(low, self.chunks, storage.shape, strict=True)):
            if first + chunk > length:  # what lies beyond the end may be anything
                content[(slice(None),) * axis + (slice(max(length - first, 0), None),)] = storage.fill_values()
        return content


def write_through_hdf5(
    file: TargetFile,
    path: str,
    shape: tuple[int, ...],
    start: tuple[int, ...],
    values: Values,
    *,
    lock: Lock,
    done: Done = nobody,
) -> None:
    """Put `values` at `start` of the array at `path`, which gets `shape`, by HDF5's own means."""
    with lock(), file.array(path) as array:
        array.set_shape(shape)
    for box in values.pieces():
        piece = values.read(box)
        first = tuple(begin + part.start for begin, part in zip(start, box, strict=True)) if box else start
        with lock():
            file.write(path, first, piece)
        done(piece.nbytes)
