"""Lazy arrays over the columns of a table.

As the arrays of `arrays`, and all columns of a block of rows are read from one decoding of it.

Tested in `tests/arrays/test_tables.py`.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
from xarray.core import indexing

from ..chunks import memory, row_blocks
from ..chunks.index import AxisSelection, ChunkStorage, Region, Selection, plan_axis
from ..chunks.row_blocks import CacheKey, Wanted
from ..chunks.vlen import DESCRIPTOR
from ..disk.opened_files import OpenedFile
from ..model import leaves
from ..model.specs import VariableSpec
from ..sources.place import Opened, Version
from .leaf_arrays import PyTablesArray, selected_shape


def open_array(file: OpenedFile, spec: VariableSpec, *, threads: int | None = None) -> PyTablesArray:
    """The lazy array over what `spec` describes."""
    return (ColumnArray if spec.member else PyTablesArray)(file, spec, threads=threads)


class ColumnArray(PyTablesArray):
    """One column of a table (or a fixed item of each of its values) as a lazy array."""

    __slots__ = ()

    def __repr__(self) -> str:
        column = ".".join(self.spec.member) + (str(list(self.spec.item)) if self.spec.item else "")
        return f"ColumnArray({self.spec.label}, {column!r}, shape={self.shape}, dtype={self.dtype})"

    def wanted(self, out: np.ndarray, within: Sequence[AxisSelection] = ()) -> Wanted:
        """The column as something to read into `out`; `within` selects along its own dimensions."""
        spec = self.spec
        return Wanted(spec.info.datatype.view_of(spec.member), spec.member, out, (*spec.item, *within))

    def stored(self, key: indexing.ExplicitIndexer) -> np.ndarray:
        """The selected values as native ones, before `converted`; text of any length as `bytes`."""
        if self.spec.datatype.kind != "text":
            return super().stored(key)
        descriptors = self._selected(key).view(DESCRIPTOR)
        found = np.empty(0, object)

        def read(descriptor: Opened, version: Version) -> None:
            nonlocal found
            found = leaves.texts(
                descriptor.source, descriptors, self.spec.base_address, threads=self.threads, label=self.label()
            )

        self._guarded(read)
        return found

    def _read(self, key: Selection) -> np.ndarray:
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
        return self.spec.datatype.stored_dtype.newbyteorder("=")

    def _whole_storage(self) -> ChunkStorage:
        return leaves.rows_of(self.spec.info, self.spec.base_address)

    def read_rows(self, rows: AxisSelection, wanted: Sequence[Wanted]) -> None:
        """Read columns of this table together."""
        info, storage = self.spec.info, self._whole_storage()

        def read(descriptor: Opened, version: Version) -> None:
            if info.layout == "compact":
                numbers = np.atleast_1d(np.arange(storage.shape[0])[rows])
                for one in wanted:
                    one.place(leaves.read_compact(info, storage), numbers, slice(None))
                return
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
                label=self.label(),
            )

        self._guarded(read)


class _Owner:
    """Lives as long as a descriptor; the decoded rows that are kept for it go with it."""


def cache_key(descriptor: Opened, path: str, version: Version) -> CacheKey:
    """Under which decoded rows of a leaf are kept, for as long as the descriptor is open."""
    owner = descriptor.kept.get("rows")
    if owner is None:
        owner = descriptor.kept.setdefault("rows", _Owner())
        weakref.finalize(owner, row_blocks.forget, id(owner))
    return id(owner), path, version
