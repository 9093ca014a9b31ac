"""Lazy arrays over values of variable length: rows of VLArrays, variable-length text.

A row is an array, a text, bytes or an object; or all rows are one flat array with the size of each row beside it (CF
conventions section 9.3.3, contiguous ragged arrays). Descriptors are read as chunks are, values from the heaps by
`chunks.vlen`: both without HDF5, whose search in a damaged heap may never end.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from xarray import Variable
from xarray.backends import BackendArray
from xarray.core import indexing

from . import safe_pickle
from .arrays import PyTablesArray, as_seen, selected_shape, storage_of, why_not_decoded, with_plain_empty_slices
from .attributes import OpaqueBytes, unpickled
from .chunks import codecs, vlen
from .chunks.index import (
    ChunkError,
    ChunkStorage,
    Selection,
    UnsupportedIndex,
    bounding_region,
    plan_selection,
)
from .files import Descriptor, FileIdentity, OpenedFile
from .hdf5.chunk_indexes import read_compact
from .libhdf5 import stored_chunk
from .nodes import ElementSpec, VariableSpec
from .table_arrays import open_array
from .views import ReferenceArray

ROW_SIZE: Final = "row_size"
"""What stands behind the name of a flat variable in the name of the variable that has the sizes of its rows."""
SAMPLE_DIMENSION: Final = "sample_dimension"
"""CF's attribute of a variable of row sizes: the dimension along which the rows lie one behind the other."""


class VariableLengthArray(PyTablesArray):
    """One leaf whose elements have no fixed size, as an object array."""

    __slots__ = ()

    def __getitem__(self, key: indexing.ExplicitIndexer) -> np.ndarray:
        plain = with_plain_empty_slices(key, self.shape)
        return self._adapted(plain, indexing.IndexingSupport.BASIC, self._shown)

    def _shown(self, key: Selection) -> np.ndarray:
        descriptors, data = self.fetch(key)
        ends = np.cumsum(vlen.lengths(descriptors.reshape(-1)))
        rows = np.fromiter(_rows(data, ends, self.spec), object, descriptors.size)
        return rows.reshape(descriptors.shape)

    def fetch(self, key: Selection) -> tuple[np.ndarray, np.ndarray]:
        """The descriptors of the selected elements, and the bytes of their values one behind the other."""
        return self._read_rows(key, values=True)

    def sizes(self, key: Selection) -> np.ndarray:
        """How many elements each of the selected rows has. Reads no row."""
        return vlen.lengths(self._read_rows(key, values=False)[0])

    def ends(self) -> np.ndarray:
        """Where each row ends in the values of all rows, in elements. Kept as long as the file is open."""
        with self.file.descriptor() as descriptor:
            kept = descriptor.kept.get(f"ends {self.spec.path}")
            if kept is None:
                kept = np.cumsum(self.sizes((slice(None),)))
                descriptor.kept[f"ends {self.spec.path}"] = kept
        assert isinstance(kept, np.ndarray)
        return kept

    def _read_rows(self, key: Selection, *, values: bool) -> tuple[np.ndarray, np.ndarray]:
        storage = storage_of(self.spec)
        descriptors = np.empty(selected_shape(key, self.shape), storage.dtype)
        data = np.empty(0, np.uint8)
        base = self.spec.info.datatype.base
        itemsize = base.itemsize if base is not None else 1  # text: its length is in bytes

        def read(descriptor: Descriptor, version: FileIdentity) -> None:
            nonlocal data
            self._fetch_descriptors(descriptor, version, storage, key, descriptors)
            self._fill_up(descriptors, key)
            if values:
                data = vlen.read_values(
                    descriptor.source,
                    descriptors.reshape(-1),
                    itemsize,
                    base=storage.base,
                    threads=self.threads,
                    label=self._label(),
                )

        self._guarded(read)
        return descriptors, data

    def _fetch_descriptors(
        self, descriptor: Descriptor, version: FileIdentity, storage: ChunkStorage, key: Selection, out: np.ndarray
    ) -> None:
        reason = why_not_decoded(self.spec.info)
        if reason:
            raise OSError(f"{self._label()}: cannot be read: {reason}")
        if self.spec.info.layout == "compact":
            out[...] = read_compact(descriptor.source, storage)[key]
            return
        if self.why_not_direct is None:
            try:
                self._fetch(descriptor, version, storage, key, out)
                return
            except UnsupportedIndex as error:
                self.why_not_direct = str(error)
        out[...] = self._located_by_hdf5(descriptor, storage, key)

    def _located_by_hdf5(self, descriptor: Descriptor, storage: ChunkStorage, key: Selection) -> np.ndarray:
        """The selected descriptors, the bytes of each touched chunk fetched by HDF5."""
        assert storage.chunkshape is not None  # other layouts are read directly
        region = bounding_region(storage, plan_selection(storage, key))
        first = [start // chunk for (start, _), chunk in zip(region, storage.chunkshape, strict=True)]
        grid = [-(-stop // chunk) - at for (_, stop), at, chunk in zip(region, first, storage.chunkshape, strict=True)]
        block = np.zeros([n * chunk for n, chunk in zip(grid, storage.chunkshape, strict=True)], storage.dtype)
        with self.file.safe_file(descriptor) as file, file.open(self.spec.path) as dataset:
            for where in np.ndindex(*grid):
                corner = [(at + i) * c for at, i, c in zip(first, where, storage.chunkshape, strict=True)]
                found = stored_chunk(dataset, corner)
                if found is not None:
                    place = tuple(slice(i * c, (i + 1) * c) for i, c in zip(where, storage.chunkshape, strict=True))
                    block[place] = self._decoded(storage, corner, *found)
        moved: list[Any] = []
        for index, at, chunk, size in zip(key, first, storage.chunkshape, self.shape, strict=True):
            if isinstance(index, slice):
                chosen = range(size)[index]
                moved.append(slice(chosen.start - at * chunk, chosen.stop - at * chunk, chosen.step))
            else:
                moved.append(index - at * chunk)
        selected: np.ndarray = block[tuple(moved)]
        return selected

    def _decoded(self, storage: ChunkStorage, corner: Sequence[int], raw: np.ndarray, mask: int) -> np.ndarray:
        assert storage.chunkshape is not None
        beyond = any(at + c > n for at, c, n in zip(corner, storage.chunkshape, self.shape, strict=True))
        if self.spec.info.whole_chunks_filtered_only and beyond:
            mask = -1
        data = codecs.decode_chunk(raw, mask, storage.pipeline, storage.chunk_nbytes)
        return data.view(storage.dtype).reshape(storage.chunkshape)


def _rows(data: np.ndarray, ends: np.ndarray, spec: VariableSpec) -> list[Any]:
    """What a user sees of each row; `ends` are in elements."""
    if spec.rows is not None:
        values = _in_rows(elements(data, spec), spec.rows)
        places = ends.tolist()
        return [values[start:stop] for start, stop in zip([0, *places], places, strict=False)]
    base = spec.info.datatype.base
    width = base.itemsize if base is not None else 1
    stops = (ends * width).tolist()
    whole = data.tobytes()
    if spec.conversion in ("text", "text rows") and whole.isascii() and b"\0" not in whole:
        text = whole.decode("ascii")
        return [text[start:stop] for start, stop in zip([0, *stops], stops, strict=False)]
    pieces = [whole[start:stop] for start, stop in zip([0, *stops], stops, strict=False)]
    if spec.conversion in ("object rows", "unpickled rows"):
        return _objects(pieces, spec)
    return [_SHOWN[spec.conversion](piece, spec) for piece in pieces]


def elements(data: np.ndarray, spec: VariableSpec) -> np.ndarray:
    """The bytes of rows as their elements, rows not told apart."""
    element = spec.rows
    assert element is not None
    stored = data.view(_base(spec)).reshape(-1, *element.shape)
    return as_seen(stored, element.dtype, element.conversion)


def _base(spec: VariableSpec) -> np.dtype:
    """Of one number in a row, as stored."""
    base = spec.info.datatype.base
    assert base is not None
    assert base.dtype is not None
    return base.dtype


def _in_rows(values: np.ndarray, element: ElementSpec) -> np.ndarray:
    """Elements of rows that nobody decodes further: times as such."""
    if "units" not in element.attributes:
        return values
    return values.astype("M8[us]" if element.conversion == "time64" else "M8[s]")


def _up_to_nul(data: bytes, spec: VariableSpec) -> bytes:
    """HDF5 ends a text at its first NUL."""
    return data.split(b"\0", 1)[0]


def _utf32(data: bytes, spec: VariableSpec) -> str:
    return data.decode("utf-32-be" if _base(spec).str[0] == ">" else "utf-32-le", "replace")


_SHOWN: Final[dict[str, Callable[[bytes, VariableSpec], object]]] = {
    "text": lambda data, spec: _up_to_nul(data, spec).decode("utf-8", "surrogateescape"),
    "text bytes": _up_to_nul,
    "text rows": lambda data, spec: data.decode("utf-8", "surrogateescape"),
    "byte rows": lambda data, spec: data,
    "utf-32 rows": _utf32,
}


def _objects(pickles: Sequence[bytes], spec: VariableSpec) -> list[object]:
    """What rows of PyTables' ObjectAtom hold. One warning for those that the restricted decoder refuses."""
    found = [_object(data, spec.conversion) for data in pickles]
    opaque = [value for value in found if isinstance(value, OpaqueBytes)]
    if opaque:
        warnings.warn(
            f"{spec.file}:{spec.path}: {len(opaque)} of {len(found)} rows are shown undecoded: {opaque[0].reason}",
            stacklevel=2,
        )
    return found


def _object(data: bytes, conversion: str) -> object:
    if not data:
        return None  # as PyTables has it
    try:
        return safe_pickle.loads(data)
    except safe_pickle.NotAPickleError as error:
        return OpaqueBytes(data, str(error))
    except safe_pickle.UnsafePickleError as error:
        if conversion == "unpickled rows":
            return unpickled(data)
        return OpaqueBytes(data, f"{error}; allow_pickle=True would run it, if you trust the file")


# -- flat --------------------------------------------------------------------------------------------------


class FlatValues(BackendArray):
    """The elements of all rows of a ragged array, one row behind the other."""

    __slots__ = ("dtype", "rows", "shape")

    def __init__(self, rows: VariableLengthArray, element: ElementSpec, total: int) -> None:
        self.rows = rows
        self.shape = (total, *element.shape)
        self.dtype = element.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> np.ndarray:
        plain = with_plain_empty_slices(key, self.shape)
        found: np.ndarray = indexing.explicit_indexing_adapter(
            plain, self.shape, indexing.IndexingSupport.BASIC, self._read
        )
        return found

    def _read(self, key: Selection) -> np.ndarray:
        first, *rest = key
        asked = range(self.shape[0])[first] if isinstance(first, slice) else range(int(first), int(first) + 1)
        if not len(asked):
            return np.empty((0, *self.shape[1:]), self.dtype)[(first, *rest)]
        ends = self.rows.ends()
        begin, end = (int(at) for at in np.searchsorted(ends, [asked[0], asked[-1]], side="right"))
        _, data = self.rows.fetch((slice(begin, end + 1),))
        before = int(ends[begin - 1]) if begin else 0
        values = elements(data, self.rows.spec)[asked[0] - before : asked[-1] + 1 - before : asked.step]
        return values[(slice(None) if isinstance(first, slice) else 0, *rest, ...)]


class RowSizes(BackendArray):
    """The number of elements of each row of a ragged array. Reads no row."""

    __slots__ = ("dtype", "rows", "shape")

    def __init__(self, rows: VariableLengthArray) -> None:
        self.rows = rows
        self.shape = rows.shape
        self.dtype = np.dtype(np.int64)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> np.ndarray:
        plain = with_plain_empty_slices(key, self.shape)
        found: np.ndarray = indexing.explicit_indexing_adapter(
            plain, self.shape, indexing.IndexingSupport.BASIC, self.rows.sizes
        )
        return found


def is_flat(spec: VariableSpec) -> bool:
    """Whether the array becomes values and row sizes."""
    return spec.ragged == "flat" and spec.rows is not None and len(spec.shape) == 1


def flat_variables(
    file: OpenedFile, spec: VariableSpec, encoding: dict[str, Any], *, threads: int | None
) -> tuple[Variable, Variable]:
    """The values of all rows and the row sizes. Reads all descriptors, to know how many values there are."""
    element = spec.rows
    assert element is not None
    rows = VariableLengthArray(file, spec, threads=threads)
    ends = rows.ends()
    total = int(ends[-1]) if len(ends) else 0
    size = total * _base(spec).itemsize * math.prod(element.shape)
    if size > file.identity.size:
        raise ChunkError(f"{spec.file}:{spec.path}: rows of {size} bytes cannot be in a file of {file.identity.size}")
    values = FlatValues(rows, element, total)
    sample = f"{spec.name}_sample"
    own = {key: value for key, value in encoding.items() if key == "source"}
    return (
        Variable(
            (sample, *(f"{spec.name}_{axis}" for axis in range(1, values.ndim))),
            indexing.LazilyIndexedArray(values),
            {**spec.attributes, **element.attributes},
            {**own, "ragged": "flat", "original_shape": values.shape},
            fastpath=True,
        ),
        Variable(spec.dims, indexing.LazilyIndexedArray(RowSizes(rows)), {SAMPLE_DIMENSION: sample}, own),
    )


def lazy_array(file: OpenedFile, spec: VariableSpec, *, threads: int | None = None) -> PyTablesArray:
    """The lazy array that fits the type of the leaf."""
    if spec.member:
        return open_array(file, spec, threads=threads)
    if spec.info.datatype.kind in ("text", "vlen"):
        return VariableLengthArray(file, spec, threads=threads)
    if spec.conversion == "paths":
        return ReferenceArray(file, spec, threads=threads)
    return PyTablesArray(file, spec, threads=threads)
