"""Lazy arrays over the columns of pandas objects: stored elements, read as `arrays` reads them, made into values.

A column of a block is one position of the leaf's second dimension; a level of an index is codes into another leaf; a
column of objects is a pickled array, of which the restricted decoder makes all values at once.

Tested in `tests/model/test_hdfstore.py`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from xarray.core import indexing

from ..chunks import memory, row_blocks
from ..chunks.index import ChunkIndex, plan_axis
from ..chunks.row_blocks import Wanted
from ..disk.opened_files import OpenedFile
from ..model import frames, hdfstore
from ..model.frames import UnknownLayoutError
from ..model.leaves import native
from ..model.specs import VariableSpec
from ..sources.place import Opened, Version
from .lazy_array import LazyArray
from .leaf_arrays import PyTablesArray, selected_shape, storage_of
from .ragged import VariableLengthArray
from .table_arrays import cache_key, open_array

MAX_KEPT_BYTES: Final = 64 * 2**20
"""Of one pickled block that is kept decoded, so that its columns, read one after the other, share it."""
MAX_KEPT_CATEGORIES: Final = 1 << 20
"""How many categories or values of an index level are kept."""

_Key = int | np.integer[Any] | slice | np.ndarray


class FrameArray(LazyArray):
    """One column or index level of a pandas object; of one dimension."""

    __slots__ = ("dtype", "file", "shape", "spec", "stored", "threads")

    def __init__(self, file: OpenedFile, spec: VariableSpec, *, threads: int | None = None) -> None:
        if spec.decoding is None:
            raise TypeError(f"{spec.path}: no column of a pandas object")
        self.file = file
        self.spec = spec
        self.threads = threads
        self.shape = spec.shape
        self.dtype = spec.dtype
        self.stored = _open_stored(file, spec, threads) if _is_stored(spec) else None

    def __repr__(self) -> str:
        return f"FrameArray({self.spec.label}, {self.spec.name!r}, {self.shape}, {self.dtype})"

    def label(self) -> str:
        return f"{self.spec.label}: column {self.spec.name!r}"

    def _getitem(self, key: indexing.ExplicitIndexer) -> np.ndarray:
        values: np.ndarray = indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, self._read
        )
        return values

    def _read(self, key: tuple[_Key]) -> np.ndarray:
        """The selected values (outer indexing)."""
        spec = self.spec
        assert spec.decoding is not None
        if not self.shape[0]:
            return np.empty(self.shape, self.dtype)[key]
        if spec.decoding.kind == "missing":
            return np.asarray(np.full(self.shape, np.nan, self.dtype)[key])
        try:
            if self.stored is None:
                return np.asarray(self._objects()[(*key, ...)])  # the ellipsis: one tuple is no array
            values = frames.decode(self._elements(key[0]), spec.decoding, spec.element_dtype)
            return values if spec.categories is None else self._taken(values, spec.categories)
        except (ValueError, TypeError, LookupError, OverflowError) as error:  # what NumPy says of odd objects, too
            raise ValueError(f"{spec.label}: column {spec.name!r} cannot be read: {error}") from error

    def _elements(self, rows: _Key) -> np.ndarray:
        """As stored."""
        assert self.stored is not None
        if isinstance(self.stored, BlockArray):
            return self.stored.column(rows, self.spec.item[0])
        return self.stored[indexing.OuterIndexer((rows,))]

    # -- values that other values number ----------------------------------------------------------------------

    def _taken(self, codes: np.ndarray, categories: VariableSpec) -> np.ndarray:
        """The categories at `codes`: all of them are read once if there are not too many, else those needed."""
        whole = FrameArray(self.file, categories, threads=self.threads)
        if categories.shape[0] <= MAX_KEPT_CATEGORIES:
            values = self._kept(f"categories {categories.path}", lambda: (whole._read((slice(None),)), True))
            return frames.taken(values, codes, self.dtype)
        needed, positions = np.unique(codes, return_inverse=True)
        present = needed >= 0
        values = whole._read((needed[present],))
        renumbered = np.where(present, np.cumsum(present) - 1, -1)
        return frames.taken(values, renumbered[positions].reshape(codes.shape), self.dtype)

    # -- objects ----------------------------------------------------------------------------------------------

    def _objects(self) -> np.ndarray:
        """All values of the column."""
        block = self._kept(f"objects {self.spec.path}", self._decoded_block)
        if block.ndim == 2 and self.spec.item and self.spec.item[0] < block.shape[1]:
            block = block[:, self.spec.item[0]]
        if block.shape != self.shape:
            raise UnknownLayoutError(f"it has {self.shape[0]} rows, and its objects the shape {block.shape}")
        return block

    def _decoded_block(self) -> tuple[np.ndarray, bool]:
        """All columns of a block of objects (rows x columns), and whether it is small enough to keep."""
        decoding = self.spec.decoding
        assert decoding is not None
        data = self._row()
        stored = hdfstore.objects(data, allow_pickle=decoding.unpickle, items=self.shape[0])
        return frames.decode(stored, decoding, np.dtype(object)), len(data) <= MAX_KEPT_BYTES

    def _row(self) -> bytes:
        """The pickle."""
        _, data = VariableLengthArray(self.file, self.spec, threads=self.threads).fetch((slice(0, 1),))
        row: bytes = data.tobytes()
        return row

    def _kept(self, name: str, make: Callable[[], tuple[np.ndarray, bool]]) -> np.ndarray:
        """What `make` gives, made once for all columns that ask for it, as long as the file is open and unchanged."""
        with self.file.descriptor() as descriptor:
            kept = descriptor.kept.setdefault(name, _Kept())
            assert isinstance(kept, _Kept)
            version = descriptor.version()
            with kept.lock:
                if kept.values is not None and kept.version == version:
                    return kept.values
                values, small = make()
                kept.version, kept.values = (version, values) if small else (None, None)
                return values


@dataclass
class _Kept:
    """Decoded values that several columns share."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    version: Version | None = None
    values: np.ndarray | None = None


class BlockArray(PyTablesArray):
    """A leaf of rows x columns, of which one column is wanted at a time, and often one after the other."""

    __slots__ = ()

    def column(self, rows: _Key, item: int) -> np.ndarray:
        """One column of the selected rows (outer indexing), as stored."""
        has_whole_rows = self.spec.chunks is None or self.spec.chunks[1] == self.shape[1]
        if has_whole_rows and self.spec.info.layout != "compact":
            return self._of_whole_rows(rows, item)
        return self[indexing.OuterIndexer((rows, item))]

    def _of_whole_rows(self, rows: _Key, item: int) -> np.ndarray:
        """Whole rows are decoded once, and kept for the other columns as those of tables are."""
        storage = storage_of(self.spec)
        several: slice | np.ndarray = rows if isinstance(rows, slice | np.ndarray) else np.array([rows], np.int64)
        out = memory.empty(selected_shape((several,), self.shape[:1]), storage.dtype.newbyteorder("="))
        size, columns = storage.dtype.itemsize * self.shape[1], (self.shape[1],)
        view = np.dtype({"names": ["row"], "formats": [(storage.dtype, columns)], "offsets": [0], "itemsize": size})
        of_rows = replace(
            storage,
            shape=self.shape[:1],
            chunkshape=None if storage.chunkshape is None else storage.chunkshape[:1],
            dtype=np.dtype(f"V{size}"),
            fill=storage.fill * self.shape[1],
            rank=1,
        )

        def read(descriptor: Opened, version: Version) -> None:
            index = None
            if of_rows.chunkshape is not None:
                plan = plan_axis(several, self.shape[0], of_rows.chunkshape[0])
                region = (plan.bounds, (0, self.shape[1]))
                index = _of_rows(self._index(descriptor, version, storage, region, len(plan.chunks)))
            row_blocks.read_columns(
                descriptor.source,
                of_rows,
                index,
                several,
                [Wanted(view, ("row",), out, (item,))],
                cached_as=cache_key(descriptor, self.spec.path, version),
                threads=self.threads,
                label=self.label(),
            )

        self._guarded(read)
        values = native(out, self.spec.datatype)
        return values if several is rows else values[0, ...]


def _of_rows(index: ChunkIndex) -> ChunkIndex:
    """The index of chunks that are as wide as the leaf, as one of rows."""
    return ChunkIndex(index.origin[:1], index.address[:, 0], index.size[:, 0], index.filter_mask[:, 0])


def _open_stored(file: OpenedFile, spec: VariableSpec, threads: int | None) -> PyTablesArray:
    leaf = _leaf(spec)
    kind = BlockArray if not leaf.member and len(leaf.shape) == 2 else open_array
    return kind(file, leaf, threads=threads)


def _is_stored(spec: VariableSpec) -> bool:
    """Whether the column has elements of its own in a leaf, and not a pickle of all of them, or none."""
    return bool(spec.shape[0]) and spec.decoding is not None and spec.decoding.kind not in ("objects", "missing")


def _leaf(spec: VariableSpec) -> VariableSpec:
    """The stored elements of the column, as an array of the file."""
    datatype = spec.datatype
    if datatype.dtype is None:
        raise TypeError(f"{spec.path}: elements of kind {datatype.kind!r} are no column")
    plain = replace(spec, dtype=datatype.dtype.newbyteorder("="), decoding=None, categories=None)
    if spec.member:
        return plain
    info = spec.info
    shape = (*(info.shape or ()), *info.datatype.shape)
    chunks = None if info.chunkshape is None else (*info.chunkshape, *info.datatype.shape)
    dims = tuple(f"dim_{number}" for number in range(len(shape)))
    return replace(plain, shape=shape, chunks=chunks, dims=dims, item=())
