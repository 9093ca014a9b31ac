"""Writing ragged arrays: which variables are rows of different lengths, and from rows to flat values and back.

An object array of NumPy arrays becomes a VLArray. CF's contiguous ragged arrays (values, and the size of each row) are
plain arrays already, and become a VLArray on request. Knows xarray and Dask; knows no file.

Tested in `tests/writing/test_ragged_writing.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import dask
import dask.array
import numpy as np
from xarray import Dataset, Variable

from ..arrays.ragged import ROW_SIZE, SAMPLE_DIMENSION
from ..hdf5.datatype import Datatype
from ..library import libhdf5 as h5
from ..library.target_file import ArrayLayout
from ..model.attributes import EncodedAttribute
from ..model.forms import Form
from ..model.specs import ElementSpec, VariableSpec
from . import layouts
from .fitting import cast

_FORMS: Final = ("vlen", "flat")
_BLOCK: Final = 64 * 2**20  # bytes of values in one Dask block of rows
_VERSION: Final = b"1.4"
"""Of the VLArray class (tables.vlarray)."""
_DESCRIPTOR: Final = 16  # bytes of a row in a chunk


@dataclass(frozen=True)
class Rows:
    """What the rows of a variable consist of."""

    dtype: np.dtype
    shape: tuple[int, ...] = ()
    """Of one element."""
    pseudo: str = ""
    """What PyTables shows instead of an array: `vlstring` or `vlunicode`."""


def first_values(variable: Variable) -> np.ndarray | None:
    """The values of the first block of a Dask array of objects, if its dtype does not say what they are."""
    metadata = variable.dtype.metadata or {}
    if variable.dtype.kind != "O" or metadata or not isinstance(variable.data, dask.array.Array):
        return None
    if not variable.size:
        return np.empty(0, object)
    return np.asarray(variable.data.blocks[(0,) * variable.ndim].compute()).reshape(-1)


def rows_of(
    variable: Variable, encoding: Mapping[str, Any], label: str, first: np.ndarray | None = None
) -> Rows | None:
    """What the rows of a variable are, if it is one of rows; None for others.

    Looks at the dtype, else at the values in memory, else at the `first_values` of a Dask array. Raises TypeError for
    rows without a form in HDF5, ValueError for rows of different types.
    """
    form = encoding.get("ragged") if isinstance(encoding, Mapping) else None  # else refused later
    if form is not None and form not in _FORMS:
        raise ValueError(f"{label}: encoding ragged must be one of {_FORMS}, not {form!r}")
    metadata = variable.dtype.metadata or {}
    if variable.dtype.kind != "O":
        return None
    if isinstance(metadata.get("vlen"), np.dtype):
        element = metadata["vlen"]
        return _checked(Rows(element.base, element.shape), label)
    if metadata.get("element_type") in _PSEUDO and form == "vlen":
        return _PSEUDO[metadata["element_type"]]
    values: np.ndarray | None
    if variable._in_memory:
        values = np.asarray(variable.data).reshape(-1)
    elif variable.chunks is not None:
        values = first if first is not None else first_values(variable)
    else:
        values = None
    if values is None:
        return None
    rows = [value for value in values if value is not None]
    if rows and all(isinstance(row, bytes) for row in rows) and form == "vlen":
        return _PSEUDO[bytes]
    if rows and all(isinstance(row, str) for row in rows) and form == "vlen":
        return _PSEUDO[str]
    if not rows or not all(isinstance(row, np.ndarray) for row in rows):
        return None
    if any(not row.ndim for row in rows):
        return None
    shapes = {row.shape[1:] for row in rows}
    if len(shapes) > 1:
        raise ValueError(f"{label}: the elements of its rows have different shapes: {sorted(shapes)}")
    full = [row for row in rows if row.size] or rows
    try:
        dtype = np.result_type(*{row.dtype for row in full})
    except TypeError as error:
        raise TypeError(f"{label}: its rows have types that do not go together: {error}") from None
    return _checked(Rows(dtype, shapes.pop()), label)


_PSEUDO: Final[dict[Any, Rows]] = {
    bytes: Rows(np.dtype("u1"), pseudo="vlstring"),
    str: Rows(np.dtype("<u4"), pseudo="vlunicode"),
}


def _checked(rows: Rows, label: str) -> Rows:
    if rows.dtype.kind not in "biufcS":
        raise TypeError(
            f"{label}: rows of dtype {rows.dtype} have no form in HDF5; convert them to numbers or bytes before writing"
        )
    return Rows(rows.dtype if rows.dtype.itemsize else np.dtype("S1"), rows.shape)


def layout(
    variable: Variable, rows: Rows, encoding: Mapping[str, Any], *, where: str, unlimited: Collection[str]
) -> ArrayLayout:
    """How the rows are stored: never compressed, since HDF5 filters only where rows are, and not what is in them."""
    if "dtype" in encoding and encoding["dtype"] is not None and not rows.pseudo:
        asked = np.dtype(encoding["dtype"])
        if asked.kind != "O":
            rows = _checked(Rows(asked, rows.shape), where)
    grows = tuple(dim in unlimited for dim in variable.dims)
    return ArrayLayout(
        shape=variable.shape,
        dtype=None,
        maxshape=tuple(h5.UNLIMITED if grow else size for grow, size in zip(grows, variable.shape, strict=True))
        if any(grows)
        else None,
        chunkshape=layouts.chunkshape_of(variable, encoding, _DESCRIPTOR, grows, where),
        row_dtype=rows.dtype,
        row_shape=rows.shape,
    )


MARKS: Final = ("CLASS", "VERSION", "PSEUDOATOM")
"""Names of the attributes by which PyTables knows a VLArray."""


def marks(plan: ArrayLayout, rows: Rows) -> list[EncodedAttribute]:
    """The attributes by which PyTables knows a VLArray."""
    if len(plan.shape) != 1 or plan.chunkshape is None:
        return []
    found = {"CLASS": b"VLARRAY", "VERSION": _VERSION}
    if rows.pseudo:
        found["PSEUDOATOM"] = rows.pseudo.encode()
    return [EncodedAttribute(name, np.array(value), utf8=True) for name, value in found.items()]


def stored(data: Any, plan: ArrayLayout, rows: Rows, label: str) -> Any:
    """The rows (of NumPy or Dask) as arrays of the stored type."""
    assert plan.row_dtype is not None
    arguments = (plan.row_dtype, plan.row_shape, rows.pseudo, label)
    if isinstance(data, dask.array.Array):
        return data.map_blocks(_stored_rows, *arguments, dtype=object)
    return _stored_rows(np.asarray(data), *arguments)


def _stored_rows(values: np.ndarray, dtype: np.dtype, shape: tuple[int, ...], pseudo: str, label: str) -> np.ndarray:
    out = np.empty(values.shape, object)
    flat = out.reshape(-1)
    form = Form.BYTE_ROWS if pseudo == "vlstring" else Form.UTF32_ROWS
    for number, value in enumerate(values.reshape(-1)):
        flat[number] = form.stored_row(value, label) if pseudo else _as_row(value, dtype, shape, label)
    return out


def _as_row(value: object, dtype: np.dtype, shape: tuple[int, ...], label: str) -> np.ndarray:
    if value is None:
        return np.empty((0, *shape), dtype)
    row = np.asarray(value)
    if row.ndim != 1 + len(shape) or row.shape[1:] != shape:
        raise ValueError(f"{label}: a row has shape {row.shape}; expected (n, {', '.join(map(str, shape))})")
    if row.size and not np.can_cast(row.dtype, dtype, "same_kind"):
        raise TypeError(f"{label}: a row has dtype {row.dtype}, which {dtype} cannot hold")
    return np.ascontiguousarray(cast(row, dtype, label) if row.size else row, dtype)


def fits(plan: ArrayLayout, base: Datatype) -> bool:
    """Whether rows of that layout can be rows of an array in the file, whose elements are `base`."""
    if base.dtype is None or plan.row_dtype is None or base.kind not in _PLAIN_KINDS or not base.exact:
        return False
    return plan.row_dtype.newbyteorder("=") == base.dtype.newbyteorder("=") and plan.row_shape == base.shape


_PLAIN_KINDS: Final = ("integer", "float", "complex", "string", "bool")


def check_rows(rows: Rows | None, spec: VariableSpec, label: str) -> None:
    """Raise ValueError if the rows of the array in the file are something else: bytes, text, objects, other numbers."""
    told = {
        Form.ELEMENTS: "",
        Form.BYTE_ROWS: "vlstring",
        Form.TEXT_ROWS: "vlstring",
        Form.UTF32_ROWS: "vlunicode",
    }
    stored, base = told.get(spec.form), spec.info.datatype.base
    if stored is None or base is None or base.dtype is None or base.kind not in _PLAIN_KINDS:
        kind = "pickled objects" if base is None or stored is None else f"of kind {base.kind!r}"
        raise ValueError(f"{label}: the rows in the file are {kind}, which are never written")
    own = "no rows" if rows is None else _WORDS[rows.pseudo].format(rows.dtype)
    if rows is None or stored != rows.pseudo or not np.can_cast(rows.dtype, base.dtype, "same_kind"):
        raise ValueError(
            f"{label}: Mismatched dtypes: the array in the file has rows that are {_WORDS[stored].format(base.dtype)}, "
            f"the values are {own}. Convert them, or replace the array with mode='a' alone"
        )


_WORDS: Final = {"": "arrays of {}", "vlstring": "bytes", "vlunicode": "texts"}


def with_stored_rows(spec: VariableSpec) -> VariableSpec:
    """The array as if its rows were nothing but the elements that are stored: no text, times or pickles.

    Other arrays stay as they are.
    """
    base = spec.info.datatype.base
    if base is None or base.dtype is None:
        return spec
    element = ElementSpec(base.dtype.newbyteorder("="), base.shape)
    dtype = np.dtype(object, metadata={"vlen": element.dtype})
    return replace(spec, rows=element, ragged="object", form=Form.ELEMENTS, dtype=dtype)


# -- from one form to the other ----------------------------------------------------------------------------


def arranged(dataset: Dataset, encoding: Mapping[Any, Any], where: str) -> tuple[Dataset, Mapping[Any, Any]]:
    """The dataset with the ragged variables in the form that `encoding={name: {"ragged": ...}}` asks for."""
    asked = {
        name: wishes["ragged"]
        for name, wishes in encoding.items()
        if isinstance(wishes, Mapping) and wishes.get("ragged") is not None and name in dataset.variables
    }
    for name, form in asked.items():
        label = f"{where}: variable {name!r}"
        variable = dataset.variables[name]
        if form == "vlen" and variable.dtype.kind not in "OUT":
            dataset = _with_rows(dataset, name, label)
        elif form == "flat":
            rows = rows_of(variable, encoding[name], label)
            if rows is not None:
                dataset = _with_values(dataset, name, rows, label)
            elif variable.dtype.kind == "O":
                raise ValueError(f"{label}: ragged='flat' needs an array of rows, each a NumPy array")
            rest = {key: value for key, value in encoding[name].items() if key != "ragged"}
            encoding = {**encoding, name: rest}
    return dataset, encoding


def _with_rows(dataset: Dataset, name: Hashable, label: str) -> Dataset:
    """Values of all rows become an array of rows; the variable of row sizes goes."""
    values = dataset.variables[name]
    sample = values.dims[0] if values.dims else None
    counts = [other for other, variable in dataset.variables.items() if variable.attrs.get(SAMPLE_DIMENSION) == sample]
    if sample is None or len(counts) != 1:
        raise ValueError(
            f"{label}: ragged='vlen' needs one variable of row sizes with the attribute {SAMPLE_DIMENSION!r} naming "
            f"its first dimension {sample!r}; there are {counts or 'none'}"
        )
    sizes = dataset.variables[counts[0]]
    lengths = np.asarray(sizes.values)
    if sizes.ndim != 1 or lengths.dtype.kind not in "iu" or (lengths < 0).any() or lengths.sum() != len(values):
        raise ValueError(
            f"{label}: the row sizes in {counts[0]!r} must be integers of one dimension whose sum is {len(values)}"
        )
    data = _split_lazily(values.data, lengths) if values.chunks is not None else _split(values.values, lengths)
    rows = Variable(sizes.dims, data, values.attrs, values.encoding, fastpath=True)
    others = [other for other, variable in dataset.variables.items() if sample in variable.dims and other != name]
    dropped = set() if others else {counts[0]}
    return _replaced(dataset, {name: {name: rows}, **{other: {} for other in dropped}})


def _split(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    rows = np.empty(len(lengths), object)
    ends = np.cumsum(lengths).tolist()
    for number, (start, stop) in enumerate(zip([0, *ends], ends, strict=False)):
        rows[number] = values[start:stop]
    return rows


def _split_lazily(values: dask.array.Array, lengths: np.ndarray) -> dask.array.Array:
    """Blocks of rows whose values take about `_BLOCK` bytes."""
    ends = np.cumsum(lengths)
    width = max(values.dtype.itemsize * int(np.prod(values.shape[1:], dtype=np.int64)), 1)
    group = (ends - lengths) * width // _BLOCK
    bounds = [0, *(np.flatnonzero(np.diff(group)) + 1).tolist(), len(lengths)]
    split = dask.delayed(_split, pure=True)
    blocks = []
    for start, stop in itertools.pairwise(bounds):
        first = int(ends[start - 1]) if start else 0
        last = int(ends[stop - 1]) if stop else 0
        piece = split(values[first:last], lengths[start:stop])
        blocks.append(dask.array.from_delayed(piece, (stop - start,), meta=np.empty(0, object)))
    joined: dask.array.Array = dask.array.concatenate(blocks)
    return joined


def _with_values(dataset: Dataset, name: Hashable, rows: Rows, label: str) -> Dataset:
    """An array of rows becomes the values of all rows, and a variable of row sizes beside it."""
    variable = dataset.variables[name]
    if variable.ndim != 1:
        raise ValueError(f"{label}: ragged='flat' needs rows along one dimension, not {variable.dims}")
    if rows.pseudo:
        raise ValueError(f"{label}: ragged='flat' needs rows of numbers, not of text")
    counts, sample = f"{name}_{ROW_SIZE}", f"{name}_sample"
    if counts in dataset.variables or sample in dataset.dims:
        raise ValueError(f"{label}: ragged='flat' needs the names {counts!r} and {sample!r}, which are taken")
    arguments = (rows.dtype, rows.shape, label)
    lengths: np.ndarray
    if variable.chunks is None:
        parts = [_joined(variable.values, *arguments)]
        lengths, values = _lengths(variable.values), parts[0]
    else:
        lengths = variable.data.map_blocks(_lengths, dtype=np.int64).compute()
        ends = np.cumsum([0, *variable.chunks[0]])
        blocks = [
            dask.array.from_delayed(
                dask.delayed(_joined)(block, *arguments),
                (int(lengths[start:stop].sum()), *rows.shape),
                dtype=rows.dtype,
            )
            for block, start, stop in zip(variable.data.to_delayed(), ends, ends[1:], strict=False)
        ]
        values = dask.array.concatenate(blocks)
    inner = tuple(f"{name}_{axis}" for axis in range(1, 1 + len(rows.shape)))
    encoding = {key: value for key, value in variable.encoding.items() if key != "ragged"}
    flat = Variable((sample, *inner), values, variable.attrs, encoding)
    sizes = Variable(variable.dims, lengths, {SAMPLE_DIMENSION: sample})
    return _replaced(dataset, {name: {name: flat, counts: sizes}})


def _lengths(rows: np.ndarray) -> np.ndarray:
    return np.array([0 if row is None else len(row) for row in rows], np.int64)


def _joined(rows: np.ndarray, dtype: np.dtype, shape: tuple[int, ...], label: str) -> np.ndarray:
    parts = [_as_row(row, dtype, shape, label) for row in rows]
    return np.concatenate([np.empty((0, *shape), dtype), *parts])


def _replaced(dataset: Dataset, by: Mapping[Hashable, Mapping[Hashable, Variable]]) -> Dataset:
    """The dataset with some variables replaced by others (or none), in their places."""
    variables: dict[Hashable, Variable] = {}
    for name, variable in dataset.variables.items():
        variables.update(by.get(name, {name: variable}))
    kept: Sequence[Hashable] = [name for name in dataset.coords if name in variables]
    new = Dataset(variables, attrs=dataset.attrs).set_coords(kept)
    new.encoding = dict(dataset.encoding)
    sizes = new.sizes
    unlimited = new.encoding.get("unlimited_dims")
    if unlimited:
        new.encoding["unlimited_dims"] = {dim for dim in unlimited if dim in sizes}
    return new
