"""Lazy arrays over the leaves of a file: what xarray indexes and Dask cuts into blocks.

An array is a path, the identity of a file and a `VariableSpec`, so it pickles and travels. It holds no HDF5 handle.
Chunks are located once and then read and decoded past HDF5, in threads and without its lock, where `why_not_direct`
has no objection; else HDF5 reads, under the lock, from a file that is opened and closed for each read.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from xarray.backends import BackendArray
from xarray.core import indexing

from . import journal
from .chunks import codecs, memory, reading
from .chunks.filters import SHUFFLE, FilterPipeline
from .chunks.index import (
    MAX_GRID,
    MISSING,
    ChunkError,
    ChunkIndex,
    ChunkStorage,
    Region,
    Selection,
    UnsupportedIndex,
    bounding_region,
    plan_selection,
)
from .chunks.vlen import DESCRIPTOR
from .files import Descriptor, FileChangedError, FileIdentity, OpenedFile
from .hdf5.chunk_indexes import read_index
from .libhdf5 import HDF5Error, chunk_info, object_address
from .nodes import Conversion, VariableSpec
from .safe_file import DatasetInfo, describe_dataset, read_hyperslab

_BasicKey = tuple[int | np.integer[Any] | slice, ...]

SMALL_GRID: Final = 1 << 16
"""Chunks: the index of a leaf up to this size is read whole at once (some milliseconds)."""
_SHARE_BEFORE_WHOLE: Final = 16
"""The whole index is read once the parts that were read on their own amount to this share of it."""
_MAX_POINT_DIMENSIONS: Final = 1 << 24
"""Elements: larger pointwise selections go through the outer product of their dimensions."""


def why_not_direct(spec: VariableSpec) -> str | None:
    """The reason why HDF5 has to read the array; None if its bytes can be read and decoded past HDF5."""
    info, datatype = spec.info, spec.datatype
    if spec.member and info.datatype.stored_size is None:
        return "its rows have members of variable length, which only HDF5 finds in a row"
    if spec.member and datatype.dtype is None:
        return "variable-length text of a column is read by HDF5"
    if not datatype.exact:
        return f"its {datatype.kind} format has no NumPy dtype, so HDF5 converts it"
    if datatype.kind not in _DIRECT_KINDS:
        return f"elements of kind {datatype.kind!r} are read by HDF5"
    if info.external or info.layout not in ("chunked", "contiguous"):
        return f"its layout is {'external' if info.external else info.layout}"
    return why_not_decoded(info)


def why_not_decoded(info: DatasetInfo) -> str | None:
    """The reason why the chunks of a leaf cannot be decoded here; None if they can."""
    steps = info.filters.filters
    if info.datatype.dtype is None:  # HDF5 sets no element size for values of variable length: it shuffles nothing
        steps = tuple(step for step in steps if step.id != SHUFFLE or step.values)
    return codecs.why_not(FilterPipeline(steps))


_DIRECT_KINDS: Final = frozenset(
    "integer float complex bool string enum time text vlen compound opaque reference".split()
)


def storage_of(spec: VariableSpec) -> ChunkStorage:
    """Where the bytes of the array are, in the words of the bytes side."""
    info = spec.info
    dtype = DESCRIPTOR if info.datatype.kind in ("text", "vlen") else info.datatype.dtype
    if dtype is None:
        raise TypeError(f"{spec.path}: elements of kind {info.datatype.kind!r} have no dtype")
    return ChunkStorage(
        shape=spec.shape,
        chunkshape=spec.chunks,
        dtype=dtype,
        pipeline=info.filters,
        header=info.address,
        base=spec.base_address,
        offset=info.offset,
        fill=info.fill_value or b"",
        rank=len(info.shape or ()),
    )


class PyTablesArray(BackendArray):
    """One leaf as an array that reads what is asked for, when it is asked for."""

    __slots__ = ("dtype", "file", "shape", "spec", "threads", "why_not_direct")

    def __init__(self, file: OpenedFile, spec: VariableSpec, *, threads: int | None = None) -> None:
        self.file = file
        self.spec = spec
        self.threads = threads
        self.shape = spec.shape
        self.dtype = spec.dtype
        self.why_not_direct = why_not_direct(spec)

    def __repr__(self) -> str:
        return f"PyTablesArray({self.spec.file}:{self.spec.path}, shape={self.shape}, dtype={self.dtype})"

    def __getitem__(self, key: indexing.ExplicitIndexer) -> np.ndarray:
        return converted(self.stored(key), self.spec)

    def stored(self, key: indexing.ExplicitIndexer) -> np.ndarray:
        """The selected elements as they are in the file, before `converted`."""
        plain = with_plain_empty_slices(key, self.shape)
        if self.why_not_direct is None:
            try:
                return self._direct(plain)
            except UnsupportedIndex as reason:
                self.why_not_direct = str(reason)
        return self._adapted(plain, indexing.IndexingSupport.BASIC, self._read)

    def _adapted(self, key: indexing.ExplicitIndexer, support: indexing.IndexingSupport, read: Any) -> np.ndarray:
        array: np.ndarray = indexing.explicit_indexing_adapter(key, self.shape, support, read)
        return array

    # -- past HDF5 ------------------------------------------------------------------------------------------

    def _direct(self, key: indexing.ExplicitIndexer) -> np.ndarray:
        if isinstance(key, indexing.VectorizedIndexer) and self.spec.chunks is not None and not self._is_short():
            points = _as_points(key, self.shape)
            if points is not None:
                return self._read_points(points)
        return self._adapted(key, indexing.IndexingSupport.OUTER, self._read_directly)

    def _read_directly(self, key: Selection) -> np.ndarray:
        """The selected elements (outer indexing, steps > 0), read and decoded in threads without a lock."""
        storage = storage_of(self.spec)
        out = memory.empty(selected_shape(key, self.shape), storage.dtype.newbyteorder("="))
        self._guarded(lambda descriptor, version: self._fetch(descriptor, version, storage, key, out))
        self._fill_up(out, key)
        return out

    def _fetch(
        self, descriptor: Descriptor, version: FileIdentity, storage: ChunkStorage, key: Selection, out: np.ndarray
    ) -> None:
        """Fill `out` with the selected elements as stored (`storage.dtype` in native byte order)."""
        if storage.chunkshape is None:
            reading.read_contiguous(descriptor.source, storage, key, out, threads=self.threads, label=self._label())
            return
        plans = plan_selection(storage, key)
        touched = math.prod([len(plan.chunks) for plan in plans[: storage.rank]])
        index = self._index(descriptor, version, storage, bounding_region(storage, plans), touched)
        reading.read_into(
            descriptor.source, storage, index, key, out, plans=plans, threads=self.threads, label=self._label()
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
        datatype, fill = self.spec.info.datatype, self.spec.info.fill_value
        if datatype.dtype is None:  # of variable length: nothing
            return np.zeros((), DESCRIPTOR)[()]
        if not fill or len(fill) != datatype.dtype.itemsize:
            return np.zeros((), datatype.dtype)[()]
        return np.frombuffer(fill, datatype.dtype)[0]

    def _read_points(self, points: Sequence[np.ndarray]) -> np.ndarray:
        """The elements at `points`, arrays of one shape, one per dimension."""
        storage = storage_of(self.spec)
        out = memory.empty(points[0].shape, storage.dtype.newbyteorder("="))
        flat = [along.reshape(-1) for along in points]
        region = tuple((int(along.min(initial=0)), int(along.max(initial=-1)) + 1) for along in flat[: storage.rank])

        def read(descriptor: Descriptor, version: FileIdentity) -> None:
            index = self._index(descriptor, version, storage, region, out.size)
            reading.read_points(
                descriptor.source, storage, index, flat, out.reshape(-1), threads=self.threads, label=self._label()
            )

        self._guarded(read)
        return out

    def _label(self) -> str:
        return f"{self.spec.file}:{self.spec.path}"

    def _guarded(self, read: Any) -> None:
        """Run `read`, and make sure that nobody changed the file before or meanwhile."""
        with self.file.descriptor() as descriptor:
            before = FileIdentity.of(descriptor.fd)
            try:
                if not before.same_version(self.file.identity):
                    journal.check(self.spec.file)  # if its writer died, the old version is back after this
                    before = FileIdentity.of(descriptor.fd)
                if not before.same_version(self.file.identity):
                    self._check_only_grown(descriptor, before)
                read(descriptor, before)
            except ChunkError:
                check_unchanged_since(before, FileIdentity.of(descriptor.fd), self.spec)
                raise
            except HDF5Error as error:
                raise OSError(f"{self._label()}: cannot be read: {error}") from None
            check_unchanged_since(before, FileIdentity.of(descriptor.fd), self.spec)

    def _check_only_grown(self, descriptor: Descriptor, version: FileIdentity) -> None:
        key = f"grown {self.spec.path}"
        if descriptor.kept.get(key) == version:
            return
        with self.file.safe_file(descriptor) as file, file.open(self.spec.path) as dataset:
            now = describe_dataset(dataset, object_address(dataset))
        check_only_grown(self.spec, now, self.file.identity, version)
        descriptor.kept[key] = version

    def _index(
        self, descriptor: Descriptor, version: FileIdentity, storage: ChunkStorage, region: Region, touched: int
    ) -> ChunkIndex:
        kept = descriptor.kept.setdefault(self.spec.path, _KeptIndex())
        assert isinstance(kept, _KeptIndex)
        with kept.lock:
            if kept.version != version:
                kept.forget(version)
            whole = math.prod(storage.grid)
            often = whole <= MAX_GRID and kept.located > whole // _SHARE_BEFORE_WHOLE
            if kept.whole is None and (whole <= SMALL_GRID or often):
                kept.whole = read_index(descriptor.source, storage)
            kept.located += touched
            index = kept.whole if kept.whole is not None else read_index(descriptor.source, storage, region)
            if not kept.checked:
                self._self_check(descriptor, storage, index)
                kept.checked = True
            return index

    def _self_check(self, descriptor: Descriptor, storage: ChunkStorage, index: ChunkIndex) -> None:
        """Compare one chunk with what HDF5 says of it, once for each file; raise UnsupportedIndex if they differ."""
        if descriptor.kept.get("checked"):
            return
        stored = np.flatnonzero(index.address != MISSING)
        if not len(stored):
            return
        where = np.unravel_index(stored[-1], index.address.shape)
        corner = [
            (int(at) + first) * chunk
            for at, first, chunk in zip(where, index.origin, storage.chunkshape or (), strict=False)
        ]
        ours = (int(index.address[where]), int(index.size[where]), int(index.filter_mask[where]))
        try:
            with self.file.safe_file(descriptor) as file, file.open(self.spec.path) as dataset:
                theirs = chunk_info(dataset, corner)
        except BlockingIOError:  # somebody writes to the file; the next read will check
            return
        if ours != theirs:
            raise UnsupportedIndex(f"its chunk index, read without HDF5, says {ours} of a chunk and HDF5 {theirs}")
        descriptor.kept["checked"] = True

    # -- through HDF5 ---------------------------------------------------------------------------------------

    def _read(self, key: _BasicKey) -> np.ndarray:
        """The selected elements as stored, through HDF5 and under its lock."""
        spec, rank = self.spec, len(self.spec.info.shape or ())
        asked = [_range(index, size) for index, size in zip(key[:rank], self.shape, strict=False)]
        ranges = [
            range(chosen.start, min(chosen.stop, stored), chosen.step) if chosen.start < stored else range(0)
            for chosen, stored in zip(asked, spec.info.shape or (), strict=True)
        ]
        journal.check(spec.file)
        with self.file.descriptor() as descriptor, self.file.safe_file(descriptor) as file:
            before = FileIdentity.of(descriptor.fd)
            try:
                with file.open(spec.path) as dataset:
                    if not before.same_version(self.file.identity):
                        now = describe_dataset(dataset, object_address(dataset))
                        check_only_grown(spec, now, self.file.identity, before)
                    stored = self._read_ranges(dataset, ranges)
            except HDF5Error as error:
                raise OSError(f"{self._label()}: cannot be read: {error}") from None
            check_unchanged_since(before, FileIdentity.of(descriptor.fd), spec)
        if ranges != asked:
            full = np.full((*map(len, asked), *stored.shape[rank:]), self._fill_value(), stored.dtype)
            full[tuple(slice(0, len(chosen)) for chosen in ranges)] = stored
            stored = full
        dropped = tuple(0 if not isinstance(index, slice) else slice(None) for index in key[:rank])
        selected: np.ndarray = stored[(*dropped, *key[rank:], ...)]  # the ellipsis keeps it an array
        return selected

    def _read_ranges(self, dataset: int, ranges: Sequence[range]) -> np.ndarray:
        """The outer product of the ranges, one for each dimension of the leaf, read by HDF5."""
        return read_hyperslab(
            dataset,
            self.spec.info,
            [chosen.start for chosen in ranges],
            [len(chosen) for chosen in ranges],
            [chosen.step for chosen in ranges],
        )


@dataclass
class _KeptIndex:
    """What is known of one leaf's chunks, as long as the descriptor is open and the file does not change."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    version: FileIdentity | None = None
    whole: ChunkIndex | None = None
    located: int = 0
    """How many chunks were located in parts."""
    checked: bool = False

    def forget(self, version: FileIdentity) -> None:
        self.version, self.whole, self.located, self.checked = version, None, 0, False


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


def with_plain_empty_slices(key: indexing.ExplicitIndexer, shape: tuple[int, ...]) -> indexing.ExplicitIndexer:
    """`key` with 0:0 for each slice that selects nothing: xarray's adapter fails on those with a negative step."""
    plain = (
        slice(0, 0) if isinstance(index, slice) and not range(size)[index] else index
        for index, size in zip(key.tuple, shape, strict=True)
    )
    return type(key)(tuple(plain))


def _range(index: int | np.integer[Any] | slice, size: int) -> range:
    """The elements that an index selects, in ascending order; xarray reverses where the step is negative."""
    if isinstance(index, slice):
        chosen = range(size)[index]
        return chosen if len(chosen) else range(0, 0, 1)
    position = int(index) + (size if index < 0 else 0)
    return range(position, position + 1)


def converted(stored: np.ndarray, spec: VariableSpec) -> np.ndarray:
    """Stored elements as the user sees them: native byte order, times as integers, text as str."""
    return as_seen(stored, spec.dtype, spec.conversion)


def as_seen(stored: np.ndarray, dtype: np.dtype, conversion: Conversion) -> np.ndarray:
    """The same for elements that become `dtype`."""
    if conversion in ("text bytes", "paths"):  # `table_arrays` and `views` know what becomes of them
        return stored
    if conversion in ("text", "fixed text"):
        texts = np.empty(stored.shape, object)
        texts.reshape(-1)[:] = [data.decode("utf-8", "surrogateescape") for data in stored.reshape(-1)]
        return texts
    native = np.asarray(stored).astype(dtype, copy=False)
    if conversion == "time64":  # seconds << 32 | microseconds (PyTables, src/typeconv.c)
        microseconds: np.ndarray = (native >> 32) * 1_000_000 + (native & 0xFFFFFFFF).astype("i4")
        return microseconds
    return native


def check_only_grown(spec: VariableSpec, now: DatasetInfo, opened: FileIdentity, current: FileIdentity) -> None:
    """Accept a file that was extended in place since it was opened; raise FileChangedError for any other change."""
    old = spec.info
    where = f"{spec.file}:{spec.path}"
    if current.size <= opened.size:
        raise FileChangedError(
            f"{where}: the file was changed in place since it was opened (then {opened.size} bytes, now "
            f"{current.size}). Open it again"
        )
    same = (old.datatype, old.layout, old.chunkshape, old.filters, old.address) == (
        now.datatype, now.layout, now.chunkshape, now.filters, now.address,
    )  # fmt: skip
    grown = now.shape is not None and all(a <= b for a, b in zip(old.shape or (), now.shape, strict=True))
    if not same or not grown:
        raise FileChangedError(
            f"{where}: the array was changed since it was opened (then {old.shape}, now {now.shape}). Open it again"
        )


def check_unchanged_since(before: FileIdentity, after: FileIdentity, spec: VariableSpec) -> None:
    """Raise FileChangedError if somebody wrote to the file while it was read."""
    if not before.same_version(after):
        raise FileChangedError(f"{spec.file}:{spec.path}: the file was changed while it was read. Read it again")
