"""Lazy arrays over the leaves of a file: what xarray indexes and Dask cuts into blocks.

An array is a path, the identity of a file and a `VariableSpec`, so it pickles and travels. Chunks are located once and
then read and decoded in threads, without a lock.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from xarray.core import indexing

from ..chunks import memory, reading
from ..chunks.index import ChunkIndex, ChunkStorage, Region, Selection, bounding_region, plan_selection
from ..disk import journal
from ..disk.files import hdf5_of
from ..disk.opened_files import OpenedFile
from ..errors import FileChangedError, FormatError, MissingNodeError, RemoteError
from ..hdf5.chunk_indexes import read_index
from ..hdf5.conversion import without_padding
from ..hdf5.dataset import DatasetInfo
from ..model import leaves
from ..model.netcdf import as_netcdf
from ..model.pytables_types import as_pytables
from ..model.specs import VariableSpec
from ..sources.place import Opened, Version
from ..sources.remote import Remote
from .lazy_array import LazyArray

SMALL_GRID: Final = 1 << 16
"""Chunks: the index of a leaf up to this size is read whole at once (some milliseconds)."""
_SMALL_REMOTE_GRID: Final = 1 << 10
"""The same behind a network, where the nodes of an index take a request each."""
_SHARE_BEFORE_WHOLE: Final = 16
_MOST_KEPT: Final = 1 << 22  # chunks: 64 MiB of index
_MOST_CHUNKS: Final = 1 << 20
"""The whole index is read once the parts that were read on their own amount to this share of it."""
_MAX_POINT_DIMENSIONS: Final = 1 << 24
"""Elements: larger pointwise selections go through the outer product of their dimensions."""


def storage_of(spec: VariableSpec) -> ChunkStorage:
    """Where the bytes of the array are, in the words of the bytes side."""
    return leaves.storage_of(spec.info, spec.base_address, shape=spec.shape, chunks=spec.chunks)


class PyTablesArray(LazyArray):
    """One leaf as an array that reads what is asked for, when it is asked for."""

    __slots__ = ("dtype", "file", "shape", "spec", "threads")

    def __init__(self, file: OpenedFile, spec: VariableSpec, *, threads: int | None = None) -> None:
        self.file = file
        self.spec = spec
        self.threads = threads
        self.shape = spec.shape
        self.dtype = spec.dtype

    def __repr__(self) -> str:
        return f"PyTablesArray({self.spec.label}, shape={self.shape}, dtype={self.dtype})"

    def _getitem(self, key: indexing.ExplicitIndexer) -> np.ndarray:
        return converted(self.stored(key), self.spec)

    def stored(self, key: indexing.ExplicitIndexer) -> np.ndarray:
        """The selected elements as native numbers, before `converted`."""
        return leaves.native(self._selected(key), self.spec.datatype)

    def _adapted(self, key: indexing.ExplicitIndexer, support: indexing.IndexingSupport, read: Any) -> np.ndarray:
        array: np.ndarray = indexing.explicit_indexing_adapter(key, self.shape, support, read)
        return array

    def _selected(self, key: indexing.ExplicitIndexer) -> np.ndarray:
        """The selected elements as stored."""
        if isinstance(key, indexing.VectorizedIndexer) and self.spec.chunks is not None and not self._is_short():
            points = _as_points(key, self.shape)
            if points is not None:
                return self._read_points(points)
        return self._adapted(key, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: Selection) -> np.ndarray:
        """The selected elements (outer indexing, steps > 0), read and decoded in threads without a lock."""
        storage = storage_of(self.spec)
        out = memory.empty(selected_shape(key, self.shape), storage.dtype.newbyteorder("="))
        self._guarded(lambda descriptor, version: self._fetch(descriptor, version, storage, key, out))
        self._fill_up(out, key)
        return out

    def _fetch(
        self, descriptor: Opened, version: Version, storage: ChunkStorage, key: Selection, out: np.ndarray
    ) -> None:
        """Fill `out` with the selected elements as stored (`storage.dtype` in native byte order)."""
        if self.spec.info.layout == "compact":
            out[...] = leaves.picked(leaves.read_compact(self.spec.info, storage), key)
            return
        if storage.chunkshape is None:
            reading.read_contiguous(descriptor.source, storage, key, out, threads=self.threads, label=self.label())
            return
        most = [
            _most_chunks(*along) for along in zip(key, self.shape, storage.chunkshape[: storage.rank], strict=False)
        ]
        if not out.size:
            return
        if math.prod(most) > _MOST_CHUNKS:  # planning costs memory for each of them
            for part, there in _halves(key, self.shape, most.index(max(most)), out):
                self._fetch(descriptor, version, storage, part, there)
            return
        plans = plan_selection(storage, key)
        touched = math.prod([len(plan.chunks) for plan in plans[: storage.rank]])
        index = self._index(descriptor, version, storage, bounding_region(storage, plans), touched)
        reading.read_into(
            descriptor.source, storage, index, key, out, plans=plans, threads=self.threads, label=self.label()
        )

    def _is_short(self) -> bool:
        """Whether the leaf ends before its dimensions do."""
        stored = self.spec.info.shape or ()
        return stored != self.shape[: len(stored)]

    def _fill_up(self, out: np.ndarray, key: Selection) -> None:
        """Put fill values where the leaf has ended: the rest of its last chunks may hold anything."""
        if not self._is_short():
            return
        axis = 0
        for index, size, stored in zip(key, self.shape, self.spec.info.shape or (), strict=False):
            if stored < size:
                beyond = np.arange(size)[index] >= stored
                if beyond.any():
                    out[(slice(None),) * axis + (beyond,) if beyond.ndim else ...] = self._fill_value()
            axis += not isinstance(index, int | np.integer)

    def _fill_value(self) -> Any:
        return storage_of(self.spec).fill_values()

    def _read_points(self, points: Sequence[np.ndarray]) -> np.ndarray:
        """The elements at `points`, arrays of one shape, one per dimension."""
        storage = storage_of(self.spec)
        out = memory.empty(points[0].shape, storage.dtype.newbyteorder("="))
        flat = [along.reshape(-1) for along in points]
        region = tuple((int(along.min(initial=0)), int(along.max(initial=-1)) + 1) for along in flat[: storage.rank])

        def read(descriptor: Opened, version: Version) -> None:
            index = self._index(descriptor, version, storage, region, out.size)
            reading.read_points(
                descriptor.source, storage, index, flat, out.reshape(-1), threads=self.threads, label=self.label()
            )

        self._guarded(read)
        return out

    def label(self) -> str:
        return self.spec.label

    def _guarded(self, read: Any) -> None:
        """Run `read`, and make sure that nobody changed the file before or meanwhile."""
        with self.file.descriptor() as descriptor:
            before = descriptor.version()
            try:
                if not before.same_version(self.file.identity):
                    journal.check(self.spec.file)  # if its writer died, the old version is back after this
                    before = descriptor.version()
                if not before.same_version(self.file.identity):
                    self._check_only_grown(descriptor, before)
                read(descriptor, before)
            except FormatError:
                check_unchanged_since(before, descriptor.version(), self.spec)
                raise
            except (RemoteError, FileChangedError, PermissionError) as error:
                if not isinstance(descriptor.source, Remote):
                    raise
                raise type(error)(f"{error} (while {self.spec.path!r} was read)") from error
            check_unchanged_since(before, descriptor.version(), self.spec)

    def _check_only_grown(self, descriptor: Opened, version: Version) -> None:
        key = f"grown {self.spec.path}"
        if descriptor.kept.get(key) == version:
            return
        try:
            file = hdf5_of(descriptor)
            now = file.dataset(file.resolve(self.spec.path).address)
        except (FormatError, MissingNodeError) as error:
            raise FileChangedError(
                f"{self.label()}: the file was changed since it was opened, and cannot be looked into: {error}. Open "
                "it again"
            ) from None
        check_only_grown(self.spec, now, self.file.identity, version)
        self._check_chunks_stayed(descriptor)
        descriptor.kept[key] = version

    def _check_chunks_stayed(self, descriptor: Opened) -> None:
        """Raise FileChangedError unless each chunk that was full lies where it was, as far as that can be known.

        Where the chunks were is known if they were located before. Else full ones lie at least within the old file.
        """
        storage = self._whole_storage()
        if storage.chunkshape is None:
            return
        kept, proven = descriptor.kept.get(self.spec.path), descriptor.kept.get(f"grown {self.spec.path}")
        known = kept.whole if isinstance(kept, _KeptIndex) and kept.version in (self.file.identity, proven) else None
        if known is None and math.prod(storage.grid) > SMALL_GRID:
            return
        now = read_index(descriptor.source, storage, label=self.label())
        full = tuple(
            slice(size // chunk if grows else None)
            for size, chunk, grows in zip(storage.shape, storage.chunkshape or (), self._grows(), strict=False)
        )
        if known is not None:
            same = all(
                np.array_equal(before[full], after[full])
                for before, after in ((known.address, now.address), (known.size, now.size))
            )
        else:
            same = not (now.address[full] + now.size[full] > self.file.identity.size).any()
        if not same:
            raise FileChangedError(
                f"{self.label()}: chunks that were full when it was opened were written again since. Open it again"
            )

    def _whole_storage(self) -> ChunkStorage:
        """Where the elements of the leaf are."""
        return storage_of(self.spec)

    def _grows(self) -> tuple[bool, ...]:
        """For each dimension of the leaf, whether it may grow."""
        info = self.spec.info
        return tuple(most != size for most, size in zip(info.maxshape, info.shape or (), strict=True))

    def _index(
        self, descriptor: Opened, version: Version, storage: ChunkStorage, region: Region, touched: int
    ) -> ChunkIndex:
        kept = descriptor.kept.setdefault(self.spec.path, _KeptIndex())
        assert isinstance(kept, _KeptIndex)
        with kept.lock:
            if kept.version != version:
                kept.forget(version)
            whole = math.prod(storage.grid)
            often = whole <= _MOST_KEPT and kept.located > whole // _SHARE_BEFORE_WHOLE
            small = _SMALL_REMOTE_GRID if isinstance(descriptor.source, Remote) else SMALL_GRID
            if kept.whole is None and (whole <= small or often):
                kept.whole = read_index(descriptor.source, storage, label=self.label())
            kept.located += touched
            if kept.whole is not None:
                return kept.whole
            return read_index(descriptor.source, storage, region, label=self.label())


@dataclass
class _KeptIndex:
    """What is known of one leaf's chunks, as long as the descriptor is open and the file does not change."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    version: Version | None = None
    whole: ChunkIndex | None = None
    located: int = 0
    """How many chunks were located in parts."""

    def forget(self, version: Version) -> None:
        self.version, self.whole, self.located = version, None, 0


def _most_chunks(index: Any, size: int, chunk: int) -> int:
    """How many chunks a selection along one dimension touches at most."""
    if isinstance(index, slice):
        chosen = range(size)[index]
        return min(len(chosen), (chosen[-1] - chosen[0]) // chunk + 2) if chosen else 0
    return len(index) if isinstance(index, np.ndarray) else 1


def _halves(key: Selection, shape: Sequence[int], axis: int, out: np.ndarray) -> Iterator[tuple[Selection, np.ndarray]]:
    """Both halves of a selection along an axis, and where they are in `out`."""
    index, position = key[axis], sum(not isinstance(one, int | np.integer) for one in key[:axis])
    middle = out.shape[position] // 2
    for part in (slice(middle), slice(middle, None)):
        if isinstance(index, slice):
            chosen = range(shape[axis])[index][part]
            half: Any = slice(chosen.start, chosen.stop, chosen.step)
        else:
            half = np.asarray(index)[part]
        yield (*key[:axis], half, *key[axis + 1 :]), out[(slice(None),) * position + (part,)]


def selected_shape(key: Selection, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape that outer indexing with `key` gives, in elements."""
    lengths = []
    for index, size in zip(key, shape, strict=True):
        if isinstance(index, slice):
            lengths.append(len(range(size)[index]))
        elif isinstance(index, np.ndarray):
            lengths.append(len(index))
    return tuple(lengths)


def _as_points(key: indexing.VectorizedIndexer, shape: Sequence[int]) -> list[np.ndarray] | None:
    """Index arrays of the result's shape, one for each dimension; None if there would be too many of them.

    Dimensions that share arrays come first in the result, sliced ones follow (xarray's rule).
    """
    arrays = [index for index in key.tuple if isinstance(index, np.ndarray)]
    sliced = [range(size)[index] for index, size in zip(key.tuple, shape, strict=True) if isinstance(index, slice)]
    if not arrays:
        return None
    points = np.broadcast_shapes(*(array.shape for array in arrays))
    result = (*points, *map(len, sliced))
    if math.prod(result) > _MAX_POINT_DIMENSIONS:
        return None
    found, axis = [], len(points)
    for index, size in zip(key.tuple, shape, strict=True):
        if isinstance(index, slice):
            chosen = range(size)[index]
            along = np.arange(chosen.start, chosen.stop, chosen.step)
            along = along.reshape([-1 if number == axis else 1 for number in range(len(result))])
            axis += 1
        else:
            along = np.asarray(index).reshape(np.shape(index) + (1,) * len(sliced))
        found.append(np.broadcast_to(along, result))
    return found


def converted(stored: np.ndarray, spec: VariableSpec) -> np.ndarray:
    """Stored elements as the user sees them: native byte order, times as integers, text as str."""
    return spec.form.shown(without_padding(stored, spec.datatype), spec.dtype)


def check_only_grown(spec: VariableSpec, now: DatasetInfo, opened: Version, current: Version) -> None:
    """Accept a file that was extended in place since it was opened; raise FileChangedError for any other change."""
    old = spec.info
    where = spec.label
    if current.size <= opened.size:
        raise FileChangedError(
            f"{where}: the file was changed in place since it was opened (then {opened.size} bytes, now "
            f"{current.size}). Open it again"
        )
    # what is contiguous cannot grow: its shape is part of what has to be the same
    grown = now.shape is not None and all(a <= b for a, b in zip(old.shape or (), now.shape, strict=False))
    was_empty = old.layout == "chunked" and not math.prod(old.shape or ())  # its index may be made only now
    same = replace(
        now,
        shape=old.shape if old.layout == "chunked" else now.shape,
        index=old.index if was_empty else now.index,
    )
    if not grown or old not in (same, as_pytables(same), as_netcdf(same)):
        raise FileChangedError(
            f"{where}: the array was changed since it was opened (then {old.shape}, now {now.shape}). Open it again"
        )


def check_unchanged_since(before: Version, after: Version, spec: VariableSpec) -> None:
    """Raise FileChangedError if somebody wrote to the file while it was read."""
    if not before.same_version(after):
        raise FileChangedError(f"{spec.label}: the file was changed while it was read. Read it again")
