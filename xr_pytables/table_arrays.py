"""Lazy arrays over the columns of a table.

As the arrays of `arrays`, and read by the same rules: past HDF5 where `why_not_direct` has no objection, all columns of
a block of rows from one decoding of it; else by HDF5, which extracts the one column, under the lock.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from .arrays import PyTablesArray, selected_shape
from .chunks import memory, row_blocks
from .chunks.index import AxisSelection, ChunkStorage, Region, Selection, plan_axis
from .chunks.row_blocks import CacheKey, Wanted
from .files import Descriptor, FileIdentity, OpenedFile
from .nodes import VariableSpec
from .safe_file import read_column


def open_array(file: OpenedFile, spec: VariableSpec, *, threads: int | None = None) -> PyTablesArray:
    """The lazy array over what `spec` describes."""
    return (ColumnArray if spec.member else PyTablesArray)(file, spec, threads=threads)


def rows_of(spec: VariableSpec) -> ChunkStorage:
    """Where the rows of a column's table are, as elements of bytes without a meaning."""
    info, size = spec.info, spec.info.datatype.stored_size
    if size is None:
        raise TypeError(f"{spec.path}: rows with members of variable length have no bytes of their own")
    return ChunkStorage(
        shape=info.shape or (0,),
        chunkshape=info.chunkshape,
        dtype=np.dtype(f"V{size}"),
        pipeline=info.filters,
        header=info.address,
        base=spec.base_address,
        offset=info.offset,
        fill=info.fill_value or b"",
    )


class ColumnArray(PyTablesArray):
    """One column of a table (or a fixed item of each of its values) as a lazy array."""

    __slots__ = ()

    def __repr__(self) -> str:
        column = ".".join(self.spec.member) + (str(list(self.spec.item)) if self.spec.item else "")
        return f"ColumnArray({self.spec.file}:{self.spec.path}, {column!r}, shape={self.shape}, dtype={self.dtype})"

    def wanted(self, out: np.ndarray, within: Sequence[AxisSelection] = ()) -> Wanted:
        """The column as something to read into `out`; `within` selects along its own dimensions."""
        spec = self.spec
        return Wanted(spec.info.datatype.view_of(spec.member), spec.member, out, (*spec.item, *within))

    def _read_directly(self, key: Selection) -> np.ndarray:
        rows, within = key[0], key[1:]
        out = memory.empty(selected_shape(key, self.shape), self.stored_dtype())
        whole = out if isinstance(rows, slice | np.ndarray) else out[np.newaxis]
        self.read_rows(rows, [self.wanted(whole, within)])
        return out

    def _read_points(self, points: Sequence[np.ndarray]) -> np.ndarray:
        out = memory.empty(points[0].shape, self.stored_dtype())
        rows, *within = (along.reshape(-1).astype(np.int64) for along in points)
        within = [np.where(along < 0, along + size, along) for along, size in zip(within, self.shape[1:], strict=True)]
        fixed = (np.full(rows.shape, position) for position in self.spec.item)
        spec = self.spec
        view = spec.info.datatype.view_of(spec.member)
        self.read_rows(rows, [Wanted(view, spec.member, out.reshape(-1), points=(*fixed, *within))])
        return out

    def stored_dtype(self) -> np.dtype[Any]:
        """Of the values as stored, in native byte order."""
        dtype = self.spec.datatype.dtype
        assert dtype is not None  # else HDF5 reads
        return dtype.newbyteorder("=")

    def read_rows(self, rows: AxisSelection, wanted: Sequence[Wanted]) -> None:
        """Read columns of this table together, past HDF5; raises UnsupportedIndex where that cannot be done."""
        storage = rows_of(self.spec)

        def read(descriptor: Descriptor, version: FileIdentity) -> None:
            index = None
            if storage.chunkshape is not None:
                plan = plan_axis(rows, storage.shape[0], storage.chunkshape[0])
                region: Region = (plan.bounds,)
                index = self._index(descriptor, version, storage, region, len(plan.chunks))
            row_blocks.read_columns(
                descriptor.source,
                storage,
                index,
                rows,
                wanted,
                cached_as=cache_key(descriptor, self.spec.path, version),
                threads=self.threads,
                label=self._label(),
            )

        self._guarded(read)

    def _read_ranges(self, dataset: int, ranges: Sequence[range]) -> np.ndarray:
        (rows,) = ranges
        column = read_column(dataset, self.spec.info, self.spec.member, rows.start, len(rows), rows.step)
        of_item: tuple[Any, ...] = (slice(None), *self.spec.item)
        selected: np.ndarray = column[of_item]
        return selected


class _Owner:
    """Lives as long as a descriptor; the decoded rows that are kept for it go with it."""


def cache_key(descriptor: Descriptor, path: str, version: FileIdentity) -> CacheKey:
    """Under which decoded rows of a leaf are kept, for as long as the descriptor is open."""
    owner = descriptor.kept.get("rows")
    if owner is None:
        owner = descriptor.kept.setdefault("rows", _Owner())
        weakref.finalize(owner, row_blocks.forget, id(owner))
    return id(owner), path, version
