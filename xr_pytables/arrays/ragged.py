"""Lazy arrays over values of variable length: rows of VLArrays, variable-length text.

A row is an array, a text, bytes or an object; or all rows are one flat array with the size of each row beside it (CF
conventions section 9.3.3, contiguous ragged arrays). Descriptors are read as chunks are, values from the heaps by
`vlen`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from xarray import Variable
from xarray.core import indexing

from ..chunks import vlen
from ..chunks.index import Selection
from ..chunks.vlen import DESCRIPTOR
from ..disk.opened_files import OpenedFile
from ..errors import ChunkError
from ..model.attributes import OpaqueBytes, unpickled
from ..model.forms import Form
from ..model.specs import ElementSpec, VariableSpec
from ..sources.place import Opened, Version
from ..sources.warning import warn
from .lazy_array import LazyArray
from .leaf_arrays import PyTablesArray, selected_shape, storage_of
from .table_arrays import open_array
from .views import ReferenceArray

ROW_SIZE: Final = "row_size"
"""What stands behind the name of a flat variable in the name of the variable that has the sizes of its rows."""
SAMPLE_DIMENSION: Final = "sample_dimension"
"""CF's attribute of a variable of row sizes: the dimension along which the rows lie one behind the other."""


class VariableLengthArray(PyTablesArray):
    """One leaf whose elements have no fixed size, as an object array."""

    __slots__ = ()

    def _getitem(self, key: indexing.ExplicitIndexer) -> np.ndarray:
        return self._adapted(key, indexing.IndexingSupport.BASIC, self._shown)

    def _shown(self, key: Selection) -> np.ndarray:
        fill = self._fill_value()  # one object of the heap, however many elements have it: it is read once
        descriptors, data = self._read_rows(key, lambda found: _each_once(found, fill))
        flat = descriptors.reshape(-1)
        ends = np.cumsum(vlen.lengths(_each_once(flat, fill)))
        values = np.fromiter(_rows(data, ends, self.spec), object, len(ends))
        if len(values) == len(flat):
            return values.reshape(descriptors.shape)
        rows, repeats = np.empty(flat.shape, object), _repeats(flat, fill)
        rows[~repeats] = values
        value = rows[np.argmax(flat == fill)]
        for place in np.flatnonzero(repeats).tolist():
            rows[place] = value.copy() if isinstance(value, np.ndarray) else value
        return rows.reshape(descriptors.shape)

    def fetch(self, key: Selection) -> tuple[np.ndarray, np.ndarray]:
        """The descriptors of the selected elements, and the bytes of their values one behind the other."""
        return self._read_rows(key, lambda descriptors: descriptors)

    def sizes(self, key: Selection) -> np.ndarray:
        """How many elements each of the selected rows has. Reads no row."""
        return vlen.lengths(self._read_rows(key)[0])

    def ends(self) -> np.ndarray:
        """Where each row ends in the values of all rows, in elements. Kept as long as the file is open."""
        with self.file.descriptor() as descriptor:
            kept = descriptor.kept.get(f"ends {self.spec.path}")
            if kept is None:
                kept = np.cumsum(self.sizes((slice(None),)))
                descriptor.kept[f"ends {self.spec.path}"] = kept
        assert isinstance(kept, np.ndarray)
        return kept

    def _fill_value(self) -> Any:
        """The descriptor of what elements have that nobody wrote; of nothing where the file says nothing."""
        stored = self.spec.info.fill_value or b""
        if len(stored) != DESCRIPTOR.itemsize:
            stored = bytes(DESCRIPTOR.itemsize)
        return np.frombuffer(stored, DESCRIPTOR)[0]

    def _read_rows(
        self, key: Selection, wanted: Callable[[np.ndarray], np.ndarray] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The selected descriptors, and the bytes of the values of those that `wanted` picks (1-D)."""
        storage = replace(storage_of(self.spec), fill=self._fill_value().tobytes())
        descriptors = np.empty(selected_shape(key, self.shape), storage.dtype)
        data = np.empty(0, np.uint8)
        base = self.spec.info.datatype.base
        itemsize = base.itemsize if base is not None else 1  # text: its length is in bytes

        def read(descriptor: Opened, version: Version) -> None:
            nonlocal data
            self._fetch(descriptor, version, storage, key, descriptors)
            self._fill_up(descriptors, key)
            if wanted is not None:
                data = vlen.read_values(
                    descriptor.source,
                    wanted(descriptors.reshape(-1)),
                    itemsize,
                    base=storage.base,
                    threads=self.threads,
                    label=self.label(),
                )

        self._guarded(read)
        return descriptors, data


def _repeats(descriptors: np.ndarray, fill: Any) -> np.ndarray:
    """Which of the descriptors (1-D) are the fill value, but for the first."""
    repeats: np.ndarray = descriptors == fill
    repeats[np.argmax(repeats)] = False
    return repeats


def _each_once(descriptors: np.ndarray, fill: Any) -> np.ndarray:
    """The descriptors (1-D) without those that repeat the fill value."""
    return descriptors[~_repeats(descriptors, fill)] if fill["length"] and len(descriptors) else descriptors


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
    if spec.form in (Form.TEXT, Form.TEXT_ROWS) and whole.isascii() and b"\0" not in whole:
        text = whole.decode("ascii")
        return [text[start:stop] for start, stop in zip([0, *stops], stops, strict=False)]
    pieces = [whole[start:stop] for start, stop in zip([0, *stops], stops, strict=False)]
    if spec.form.holds_objects:
        return _objects(pieces, spec)
    byteorder = _base(spec).str[0] if spec.form is Form.UTF32_ROWS else "<"
    return [spec.form.shown_row(piece, byteorder) for piece in pieces]


def elements(data: np.ndarray, spec: VariableSpec) -> np.ndarray:
    """The bytes of rows as their elements, rows not told apart."""
    element = spec.rows
    assert element is not None
    stored = data.view(_base(spec)).reshape(-1, *element.shape)
    return element.form.shown(stored, element.dtype)


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
    return values.astype("M8[us]" if element.form is Form.TIME64 else "M8[s]")


def _objects(pickles: Sequence[bytes], spec: VariableSpec) -> list[object]:
    """What rows of PyTables' ObjectAtom hold. One warning for those that the restricted decoder refuses."""
    found = [_object(data, spec.form) for data in pickles]
    opaque = [value for value in found if isinstance(value, OpaqueBytes)]
    if opaque:
        warn(f"{spec.label}: {len(opaque)} of {len(found)} rows are shown undecoded: {opaque[0].reason}")
    return found


def _object(data: bytes, form: Form) -> object:
    if not data:
        return None  # as PyTables has it
    from ..model import safe_pickle  # late, as few arrays hold objects

    try:
        return safe_pickle.loads(data)
    except safe_pickle.NotAPickleError as error:
        return OpaqueBytes(data, str(error))
    except safe_pickle.UnsafePickleError as error:
        if form is Form.PICKLES:
            return unpickled(data)
        return OpaqueBytes(data, f"{error}; allow_pickle=True would run it, if you trust the file")


# -- flat --------------------------------------------------------------------------------------------------


class FlatValues(LazyArray):
    """The elements of all rows of a ragged array, one row behind the other."""

    __slots__ = ("dtype", "rows", "shape")

    def __init__(self, rows: VariableLengthArray, element: ElementSpec, total: int) -> None:
        self.rows = rows
        self.shape = (total, *element.shape)
        self.dtype = element.dtype

    def label(self) -> str:
        return f"{self.rows.label()}: the values of all rows"

    def _getitem(self, key: indexing.ExplicitIndexer) -> np.ndarray:
        found: np.ndarray = indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.BASIC, self._read
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


class RowSizes(LazyArray):
    """The number of elements of each row of a ragged array. Reads no row."""

    __slots__ = ("dtype", "rows", "shape")

    def __init__(self, rows: VariableLengthArray) -> None:
        self.rows = rows
        self.shape = rows.shape
        self.dtype = np.dtype(np.int64)

    def label(self) -> str:
        return f"{self.rows.label()}: the sizes of rows"

    def _getitem(self, key: indexing.ExplicitIndexer) -> np.ndarray:
        found: np.ndarray = indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.BASIC, self.rows.sizes
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
        raise ChunkError(f"{spec.label}: rows of {size} bytes cannot be in a file of {file.identity.size}")
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
    if spec.form is Form.PATHS:
        return ReferenceArray(file, spec, threads=threads)
    return PyTablesArray(file, spec, threads=threads)
