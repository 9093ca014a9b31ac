"""What stored elements mean to a user: dtype, form and CF attributes, or why they are not shown.

Knows datatypes and attributes, neither nodes nor files.

Tested in `tests/model/test_odd_types.py` and `tests/arrays/test_ragged.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from ..hdf5.attributes import RawAttribute
from ..hdf5.dataset import DatasetInfo
from ..hdf5.datatype import Datatype
from . import attributes
from .columns import is_table
from .forms import Form
from .pytables_types import as_shown
from .specs import ElementSpec, ReadOptions


def why_not_array(info: DatasetInfo, raw: Mapping[str, RawAttribute]) -> str | None:
    """The reason a dataset is not shown as a variable; None if it is."""
    if info.shape is None:
        return "it has a null dataspace: neither shape nor values"
    if is_table(info) and (info.external or info.layout == "virtual"):
        return "its rows lie in other arrays or files, which is supported for arrays alone"
    if info.layout == "virtual" and info.datatype.kind not in _OF_VIRTUAL:
        return f"its type is not supported: a virtual dataset of kind {info.datatype.kind!r}"
    if attributes.text(raw.get("NODE_TYPE")) == "file":
        return "it holds a file (tables.nodes.filenode)"
    datatype = info.datatype
    if datatype.kind == "unsupported":
        return f"its type is not supported: {datatype.reason}"
    if datatype.kind == "vlen":
        if datatype.shape:
            return "its type is not supported: an array type of rows"
        return _why_not_rows(datatype.base)
    if datatype.kind == "compound" and not is_table(info):
        return _why_not_records(datatype)
    return None


_OF_VIRTUAL: Final = frozenset(
    ("integer", "float", "complex", "bool", "bitfield", "string", "text", "enum", "time", "opaque", "unsupported")
)


def becomes(source: Datatype, virtual: Datatype) -> bool:
    """Whether elements of one type can be shown as those of the other without a loss."""
    if source.shape != virtual.shape:
        return False
    if source.kind == virtual.kind and source.kind in ("text", "string"):
        return source.kind == "text" or (
            source.stored_size <= virtual.stored_size and source.space_padded == virtual.space_padded
        )
    if source.dtype is None or virtual.dtype is None:
        return False
    numbers = ("integer", "float", "complex")
    if source.kind in numbers and virtual.kind in numbers:
        return np.can_cast(source.dtype, virtual.dtype)
    same = source.dtype.newbyteorder("=") == virtual.dtype.newbyteorder("=")
    return same and source.kind == virtual.kind and source.members == virtual.members


def named(datatype: Datatype) -> str:
    return f"{datatype.dtype}" if datatype.dtype is not None else datatype.kind


def _why_not_records(datatype: Datatype) -> str | None:
    """The reason an array of records that is no table is not shown; None if it is."""
    if datatype.dtype is None:
        return f"its type is not supported: {datatype.reason or 'records that NumPy lacks'}"
    for path, member in datatype.columns():
        if member.kind in ("time", "reference"):
            return f"its type is not supported: records whose member {'.'.join(path)!r} is a {member.kind}"
    return None


def _why_not_rows(element: Datatype | None) -> str | None:
    """The reason rows of such elements are not shown; None if they are."""
    if element is None or element.kind == "unsupported":
        return f"its type is not supported: rows of {element.reason if element else 'nothing'}"
    if element.kind in ("vlen", "text", "reference"):
        return f"its type is not supported: rows of elements of kind {element.kind!r}"
    if element.dtype is None or not element.exact or not element.itemsize:
        return f"its type is not supported: rows of elements whose {element.kind} format NumPy lacks"
    return None


_Meaning = tuple[np.dtype, Form, dict[str, object], ElementSpec | None]


TEXT: Final = np.dtype(object, metadata={"element_type": str})  # as xarray marks it


_BYTES: Final = np.dtype(object, metadata={"element_type": bytes})


def meaning_of(datatype: Datatype, raw: Mapping[str, RawAttribute], options: ReadOptions) -> _Meaning:
    """dtype and form of the elements, attributes (CF conventions) that tell xarray what they mean, and what the
    elements of ragged rows are."""
    if datatype.kind == "vlen":
        return _rows_in_memory(datatype, raw, options)
    if datatype.kind == "text" or datatype.dtype is None:
        return (_BYTES, Form.TEXT_BYTES, {}, None) if options.string == "bytes" else (TEXT, Form.TEXT, {}, None)
    if datatype.kind == "string" and _is_text(datatype, raw, options):
        return TEXT, Form.FIXED_TEXT, {}, None
    native = datatype.dtype.newbyteorder("=")
    if datatype.kind == "reference":
        return TEXT, Form.PATHS, {}, None
    if datatype.kind == "opaque" and native.kind in "mM":
        return as_shown(native) or native, Form.SAME, {}, None
    if datatype.kind == "time":
        unit = "seconds" if native.itemsize == 4 else "microseconds"
        added = {"units": f"{unit} since 1970-01-01", "calendar": "proleptic_gregorian"}
        return np.dtype(native), Form.SAME if native.itemsize == 4 else Form.TIME64, dict(added), None
    if datatype.kind == "enum":
        coded = np.dtype(native, metadata={"enum": dict(datatype.members)})
        return coded, Form.SAME, _flags(datatype.members, native), None
    return native, Form.SAME, {}, None


def _is_text(datatype: Datatype, raw: Mapping[str, RawAttribute], options: ReadOptions) -> bool:
    """Whether fixed-length strings are shown as text."""
    if options.string != "as stored":
        return options.string == "text"
    return datatype.utf8 or attributes.text(raw.get(attributes.TEXT_MARKER)) == "utf-8"


def _rows_in_memory(datatype: Datatype, raw: Mapping[str, RawAttribute], options: ReadOptions) -> _Meaning:
    """The same for ragged arrays. PyTables names what is in the bytes of a row in PSEUDOATOM."""
    base = datatype.base
    assert base is not None  # `why_not_array`
    assert base.dtype is not None
    pseudo, width = attributes.text(raw.get("PSEUDOATOM")), base.dtype.itemsize
    if pseudo == "object" and width == 1:
        return np.dtype(object), Form.PICKLES if options.allow_pickle else Form.OBJECTS, {}, None
    if pseudo == "vlunicode" and width == 4:
        return TEXT, Form.UTF32_ROWS, {}, None
    if pseudo == "vlstring" and width == 1:
        return (TEXT, Form.TEXT_ROWS, {}, None) if options.string == "text" else (_BYTES, Form.BYTE_ROWS, {}, None)
    dtype, form, added, _ = meaning_of(replace(base, shape=()), raw, options)
    element = ElementSpec(dtype, base.shape, form, added)
    kept = added if base.kind == "enum" and options.ragged == "object" else {}
    if base.kind == "time":
        dtype = np.dtype("M8[s]" if base.dtype.itemsize == 4 else "M8[us]")
    of_row = np.dtype((dtype, base.shape)) if base.shape else dtype
    return np.dtype(object, metadata={"vlen": of_row}), Form.ELEMENTS, dict(kept), element


def _flags(members: Sequence[tuple[str, int]], dtype: np.dtype) -> dict[str, object]:
    """CF conventions section 3.5: names without blanks, values of the variable's own type."""
    values = np.array([value for _, value in members], dtype)
    return {"flag_values": values, "flag_meanings": " ".join(name.replace(" ", "_") for name, _ in members)}
