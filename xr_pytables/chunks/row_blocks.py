"""Reading columns of a table past HDF5: each chunk of rows is read and decoded once for all columns that want it.

Takes a source, the `ChunkStorage` of whole rows (bytes without a meaning) and where the columns lie in a row;
knows integers and buffers, no lock of HDF5. The lazy arrays and the queries call it. Decoded rows are kept in one
bounded cache for the whole process, because columns that are computed together ask for the same rows one after the
other.

Tested in `tests/arrays/test_tables.py`.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import ChunkError
from ..sources.remote import Remote
from ..sources.source import Source
from . import memory, reading, team
from .codecs import Workspace
from .index import AxisPlan, AxisSelection, ChunkIndex, ChunkStorage, plan_axis

CACHE_BYTES: Final = min(128 * 2**20, memory.kept_bytes(128 * 2**20))
"""Decoded rows that the process keeps."""
_MAX_SHARE: Final = 2
"""A read that touches more than this fraction of the cache passes it by."""
_SLAB: Final = 1 << 20  # bytes of contiguous rows that are read at once

CacheKey = tuple[Hashable, Hashable, Hashable]
"""What keeps the decoded rows alive (see `forget`), a table, and the version of its file."""

Rows = NDArray[Any]
"""Consecutive rows as stored: one-dimensional, elements of the row's size."""


class Wanted(NamedTuple):
    """One column of the selected rows, and where it goes."""

    view: np.dtype[Any]
    """Of a row: the one column, as nested fields (see `Datatype.view_of`)."""
    member: tuple[str, ...]
    """The names that lead to it, one for each level."""
    out: NDArray[Any]
    """The selected rows along the first dimension."""
    within: tuple[AxisSelection, ...] = ()
    """What to take of the column's own dimensions (outer indexing)."""
    points: tuple[NDArray[np.int64], ...] | None = None
    """Instead of `within`: for each selected row, one position along each of the column's own dimensions."""

    def place(self, rows: Rows, inside: slice | NDArray[np.int64], outside: slice | NDArray[np.int64]) -> None:
        """Put the column of the rows `inside` into the places `outside` of the output."""
        column: NDArray[Any] = rows.view(self.view)
        for name in self.member:
            column = column[name]
        if self.points is not None:
            numbers = np.arange(inside.start, inside.stop, inside.step) if isinstance(inside, slice) else inside
            self.out[outside] = column[(numbers, *(along[outside] for along in self.points))]
            return
        column = column[inside]
        for axis in reversed(range(len(self.within))):
            column = column[(slice(None),) * (axis + 1) + (self.within[axis],)]
        self.out[outside] = column


def read_columns(
    source: Source,
    storage: ChunkStorage,
    index: ChunkIndex | None,
    rows: AxisSelection,
    wanted: Sequence[Wanted],
    *,
    cached_as: CacheKey | None = None,
    threads: int | None = None,
    label: str = "",
) -> None:
    """Fill the outputs of `wanted` with the columns of the selected rows, decoding each touched chunk at most once.

    `storage` is that of the rows: one dimension, elements of `V` dtype; `index` locates its chunks (None: contiguous).
    With `cached_as` decoded chunks are shared with other reads of the same table, past and concurrent ones. A read that
    touches too many of them shares the selected rows instead, if they are picked by an array and not too many
    themselves: other columns of the same rows (those that a query found, say) will be asked for next. Threads and
    errors as for `reading.read_into`.
    """
    if index is None:
        _read_contiguous(source, storage, rows, wanted, threads, label)
        return
    assert storage.chunkshape is not None  # it has an index
    plan = plan_axis(rows, storage.shape[0], storage.chunkshape[0])
    if not plan.length:
        return
    if cached_as is None or len(plan.chunks) * storage.chunk_nbytes > CACHE_BYTES // _MAX_SHARE:
        nbytes = plan.length * storage.dtype.itemsize
        if cached_as is None or not isinstance(rows, np.ndarray) or nbytes > CACHE_BYTES // _MAX_SHARE:
            _read_chunks(source, storage, index, plan, wanted, threads, label)
            return

        def gather(_: NDArray[np.int64], take: Callable[[int, Rows], None]) -> None:
            picked = np.empty(plan.length, storage.dtype)
            _read_chunks(source, storage, index, plan, [Wanted(storage.dtype, (), picked)], threads, label)
            take(0, picked)

        def spread(_: int, picked: Rows) -> None:
            for one in wanted:
                one.place(picked, slice(0, plan.length, 1), slice(0, plan.length))

        picks = hashlib.blake2b(rows.tobytes(), digest_size=16).digest()
        _cache.read([(cached_as, picks)], nbytes, gather, spread)
        return

    def decode(i: NDArray[np.int64], take: Callable[[int, Rows], None]) -> None:
        numbers = plan.chunks[i]

        def use(at: int, chunk_rows: Callable[..., Rows]) -> None:
            whole = np.empty(storage.chunkshape or (), storage.dtype)
            take(int(i[at]), chunk_rows(0, len(whole), whole))

        for at in reading.each_chunk(source, storage, index, numbers, use, threads=threads, label=label).tolist():
            take(int(i[at]), _fill_rows(storage, plan.chunk))

    def place(i: int, chunk: Rows) -> None:
        inside, outside = plan.piece(i)
        for one in wanted:
            one.place(chunk, inside, outside)

    _cache.read([(cached_as, int(number)) for number in plan.chunks], storage.chunk_nbytes, decode, place)


def _read_chunks(
    source: Source,
    storage: ChunkStorage,
    index: ChunkIndex,
    plan: AxisPlan,
    wanted: Sequence[Wanted],
    threads: int | None,
    label: str,
) -> None:
    """Decode each chunk into scratch memory, and of it only the blocks that hold selected rows, where possible."""

    def use(i: int, rows: Callable[..., Rows]) -> None:
        inside, outside = plan.piece(i)
        start, stop, inside = _extent(inside)
        part = rows(start, stop, None)
        for one in wanted:
            one.place(part, inside, outside)

    missing = reading.each_chunk(source, storage, index, plan.chunks, use, threads=threads, label=label)
    for i in missing.tolist():
        inside, outside = plan.piece(i)
        start, stop, inside = _extent(inside)
        for one in wanted:
            one.place(_fill_rows(storage, stop - start), inside, outside)


def _extent(inside: slice | NDArray[np.int64]) -> tuple[int, int, slice | NDArray[np.int64]]:
    """(first row, row behind the last, positions from the first on)."""
    if isinstance(inside, slice):
        return inside.start, inside.stop, slice(0, inside.stop - inside.start, inside.step)
    return int(inside[0]), int(inside[-1]) + 1, inside - inside[0]


def _fill_rows(storage: ChunkStorage, count: int) -> Rows:
    fill = np.frombuffer(storage.fill or bytes(storage.dtype.itemsize), storage.dtype)
    return np.repeat(fill, count)


def _read_contiguous(
    source: Source,
    storage: ChunkStorage,
    rows: AxisSelection,
    wanted: Sequence[Wanted],
    threads: int | None,
    label: str,
) -> None:
    size = storage.dtype.itemsize
    plan = plan_axis(rows, storage.shape[0], max(_SLAB // size, 1))
    if not plan.length:
        return
    where = label + ": " if label else ""
    offset, end = storage.offset, source.size
    if offset is not None and offset + size * storage.shape[0] > end:
        raise ChunkError(f"{where}{storage.shape[0]} rows at {offset} lie beyond the end of the file ({end} bytes)")

    def place(i: int, data: NDArray[np.uint8] | None) -> None:
        inside, outside = plan.piece(i)
        start, stop, inside = _extent(inside)
        part = _fill_rows(storage, stop - start) if data is None else data.view(storage.dtype)
        for one in wanted:
            one.place(part, inside, outside)

    def extent_of(i: int) -> tuple[int, int]:
        start, stop, _ = _extent(plan.piece(i)[0])
        assert offset is not None
        return offset + (int(plan.chunks[i]) * plan.chunk + start) * size, (stop - start) * size

    def read(i: int, workspace: Workspace) -> None:
        if offset is None:
            place(i, None)
            return
        first, count = extent_of(i)
        data = workspace.take(count)
        if source.read_into(data, first) != data.size:
            raise ChunkError(f"{where}the file ends before {first + data.size}")
        place(i, data)

    number = len(plan.chunks)
    if isinstance(source, Remote) and offset is not None:
        arriving = source.arriving([extent_of(i) for i in range(number)])
        team.run(arriving, lambda some, _: place(some[0], np.frombuffer(some[1], np.uint8)), threads, count=number)
        return
    team.run(iter(range(number)), read, threads, count=number)


# ---------------------------------------------------------------------------------------------------------------------
# decoded rows that are kept

Key = tuple[CacheKey, int | bytes]
"""A table in one version of a file, and the number of a chunk (or a digest of the numbers of rows)."""


class _Entry:
    """One chunk's rows, or the promise of them."""

    __slots__ = ("done", "rows", "used")

    def __init__(self) -> None:
        self.done = threading.Event()
        self.rows: Rows | None = None
        """None as long as it is not decoded, and for good if that failed."""
        self.used = False
        """Whether anybody came back for it."""


class RowCache:
    """Decoded chunks of tables, the least recently used ones dropped above a bound; safe from several threads.

    Of several threads that want a chunk at the same time one decodes it, and the others wait for that. Where nobody
    comes back for what is kept (one column after the other of a table larger than the cache), keeping it would cost
    time and give nothing: then only the keys are remembered, until one of them is asked for again.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.lock = threading.Lock()
        self.entries: OrderedDict[Key, _Entry] = OrderedDict()
        self.held = 0
        self.wasted = 0
        """Bytes dropped unused since somebody came back for an entry."""
        self.seen: OrderedDict[Key, None] = OrderedDict()
        """Keys of the last chunks that were decoded and not kept, as many as would have had room."""
        self.dead: deque[Hashable] = deque()
        """Owners of keys that are gone."""

    def read(
        self,
        keys: Sequence[Key],
        nbytes: int,
        decode: Callable[[NDArray[np.int64], Callable[[int, Rows], None]], None],
        place: Callable[[int, Rows], None],
    ) -> None:
        """Call `place` with the number and rows of each of the chunks `keys`, `nbytes` each.

        `decode(numbers, take)` decodes chunks and hands each to `take`, from any thread.
        """
        mine, kept, keep = self._claim(keys, nbytes)
        fresh = dict(mine)

        def take(number: int, rows: Rows) -> None:
            if keep:
                self._publish(keys[number], fresh[number], rows, nbytes)
            place(number, rows)

        try:
            if mine:
                decode(np.array([number for number, _ in mine], np.int64), take)
        finally:
            if keep:
                self._give_up([(keys[number], entry) for number, entry in mine if entry.rows is None])
        failed = []
        for number, entry in kept:
            entry.done.wait()
            if entry.rows is None:
                failed.append(number)
            else:
                place(number, entry.rows)
        if failed:  # another thread could not read them: this one finds out why
            decode(np.array(failed, np.int64), place)

    def _claim(
        self, keys: Sequence[Key], nbytes: int
    ) -> tuple[list[tuple[int, _Entry]], list[tuple[int, _Entry]], bool]:
        """Chunks to decode, chunks that others have or are at, and whether to keep what is decoded."""
        mine, kept = [], []
        with self.lock:
            self._bury()
            if any(key in self.seen for key in keys):
                self.wasted = 0
            keep = self.wasted <= 2 * self.limit
            for number, key in enumerate(keys):
                entry = self.entries.get(key)
                if entry is not None:
                    entry.used = True
                    self.wasted = 0
                    self.entries.move_to_end(key)
                    kept.append((number, entry))
                    continue
                entry = _Entry()
                mine.append((number, entry))
                if keep:
                    self.seen.pop(key, None)
                    self.entries[key] = entry
                else:
                    self.seen[key] = None
            while len(self.seen) * nbytes > self.limit:
                self.seen.popitem(last=False)
        return mine, kept, keep

    def _publish(self, key: Key, entry: _Entry, rows: Rows, nbytes: int) -> None:
        rows.flags.writeable = False
        with self.lock:
            entry.rows = rows
            if self.entries.get(key) is entry:
                self.held += nbytes
            self._shrink()
        entry.done.set()

    def _give_up(self, failed: Sequence[tuple[Key, _Entry]]) -> None:
        with self.lock:
            for key, entry in failed:
                if self.entries.get(key) is entry:
                    del self.entries[key]
        for _, entry in failed:
            entry.done.set()

    def _shrink(self) -> None:
        while self.held > self.limit:
            oldest = next(((key, entry) for key, entry in self.entries.items() if entry.rows is not None), None)
            if oldest is None:  # the others are still being decoded
                return
            self._drop(*oldest)

    def _drop(self, key: Key, entry: _Entry) -> None:
        assert entry.rows is not None
        del self.entries[key]
        self.held -= entry.rows.nbytes
        if not entry.used:
            self.wasted += entry.rows.nbytes

    def forget(self, owner: Hashable) -> None:
        """Drop all that `owner` keeps alive; may be called at any time, by a finalizer too."""
        self.dead.append(owner)
        if self.lock.acquire(blocking=False):
            try:
                self._bury()
            finally:
                self.lock.release()

    def _bury(self) -> None:
        while self.dead:
            owner = self.dead.popleft()
            for key in [key for key, entry in self.entries.items() if key[0][0] == owner and entry.rows is not None]:
                wasted = self.wasted
                self._drop(key, self.entries[key])
                self.wasted = wasted


_cache = RowCache(CACHE_BYTES)


def forget(owner: Hashable) -> None:
    """Drop the decoded rows that `owner` keeps alive."""
    _cache.forget(owner)


def _renew_cache() -> None:
    """After a fork: the lock may have been held, and chunks been decoded, by threads that are gone."""
    global _cache
    _cache = RowCache(CACHE_BYTES)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_cache)
