"""One variable as one array: its values as they are stored, its layout and attributes.

Tested in `tests/writing/test_encoding.py` and `tests/writing/test_writing.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, Final

import numpy as np
from xarray import Variable

from ..model import attributes
from ..model.forms import Form
from ..model.specs import VariableSpec
from ..sources.warning import warn
from . import layouts, ragged_layout
from .agreement import CF_KEYS, check_range
from .cf_encoding import each
from .extension_types import is_number, plain_objects, typed
from .here import Here, are_named
from .placement import check_calendar, in_order_of
from .plans import VariablePlan
from .text_layout import as_characters, is_in_characters, is_to_be_text, known_as_text, with_text
from .words import compressor_of_source


def of_known_kind(variable: Variable, present: VariableSpec | None) -> Variable:
    """A variable of objects of which none says what it is, or that has no elements: as the array in the file has it."""
    if present is None or variable.dtype.kind != "O" or variable.chunks is not None:
        return variable
    values = np.asarray(variable.data)
    if any(value is not None for value in values.reshape(-1)):
        return variable
    if present.form.is_text:
        return variable.copy(data=np.full(values.shape, "", "U1"))
    base = present.info.datatype.base
    if base is None or base.dtype is None:
        return variable
    rows = np.empty(values.shape, np.dtype(object, metadata={"vlen": np.dtype((base.dtype, base.shape))}))
    for place in np.ndindex(rows.shape):
        rows[place] = np.empty((0, *base.shape), base.dtype)
    return variable.copy(data=rows)


def known_rows(
    variable: Variable, encoding: Mapping[str, Any], here: Here, name: str, first: np.ndarray | None
) -> ragged_layout.Rows | None:
    """What the rows of a variable are, if it is one of rows. Raises as `ragged_layout.rows_of` and `check_rows`."""
    label, present = f"{here}: variable {name!r}", here.target_of(name)
    if present is None:
        return ragged_layout.rows_of(variable, encoding, label, first)
    reason, has_rows = _why_never_written(present), present.info.datatype.base is not None
    if reason is not None:
        raise ValueError(
            f"{label}: {reason} in the file, which is never written. Leave it out with drop_vars, "
            "or replace it with mode='a' alone"
        )
    rows = ragged_layout.rows_of(variable, {"ragged": "vlen"} if has_rows else {}, label, first)
    if has_rows:
        ragged_layout.check_rows(rows, present, label)
    return rows


_NEVER_WRITTEN: Final = ("compound", "opaque", "reference", "unsupported")


def _why_never_written(spec: VariableSpec) -> str | None:
    """Why an array in the file takes no values at all; None for one that may take some."""
    datatype = spec.info.datatype
    if datatype.kind in _NEVER_WRITTEN:
        return f"the array is of kind {datatype.kind!r}"
    if spec.form is Form.UTF16:
        return "the array is text of MATLAB"
    if datatype.shape:
        return f"each element of the array is an array of shape {datatype.shape} (a multidimensional atom)"
    if datatype.dtype is not None and not datatype.exact:
        return "the array is of numbers in a form that NumPy lacks"
    return None


def with_encoding(
    variable: Variable, asked: Mapping[str, Any] | None, present: VariableSpec | None, here: Here
) -> Variable:
    """The variable with the encoding that counts: what `encoding=` says; for `r+`, what the file has."""
    if asked is not None and here.keeps_arrays and present is not None:
        raise ValueError(
            f"{here}: variable {present.name!r} already exists, but encoding was provided. append_dim, region and "
            "mode='r+' write values in the encoding that the array has"
        )
    if asked is not None:
        variable.encoding = {**asked, **{key: value for key, value in variable.encoding.items() if key == "source"}}
    if here.keeps_arrays and present is not None and is_in_characters(variable, present):
        variable = as_characters(variable, present, f"{here}: variable {present.name!r}")
    if present is not None and (here.placement is not None or (here.keeps_arrays and present.reverse)):
        label = f"{here}: variable {present.name!r}"
        variable = in_order_of(variable, present, are_named(present, here), label)
    if here.keeps_arrays and present is not None:
        check_calendar(variable, present, f"{here}: variable {present.name!r}")
        check_range(variable, present, here)
        variable.encoding = _encoding_on_disk(variable, present)
    return variable


def as_objects_known(name: Hashable, variable: Variable, here: Here, first: np.ndarray | None = None) -> Variable:
    """A variable of objects of which xarray's encoders can tell what they are.

    `first` are the values of the first block of a Dask array. If they are numbers, all are loaded to know their type.
    """
    if first is not None and any(map(is_number, first)):
        variable = variable.copy(data=np.asarray(variable.data, object))
    return plain_objects(variable, is_text=is_to_be_text(variable.encoding), label=f"{here}: variable {name!r}")


def _encoding_on_disk(variable: Variable, spec: VariableSpec) -> dict[str, Any]:
    """What turns values into the form that the array in the file has already."""
    keys: tuple[str, ...] = (*CF_KEYS, *(("units", "calendar") if variable.dtype.kind in "mMO" else ()))
    found = {key: spec.attributes[key] for key in keys if key in spec.attributes}
    stored = spec.info.datatype.dtype
    if "f" in (variable.dtype.kind, None if stored is None else stored.kind):
        found.setdefault("_FillValue", None)  # else xarray would want NaN
    if spec.form.is_text:
        return {**found, "string": "vlen" if spec.form is Form.TEXT else "fixed"}
    if spec.info.datatype.base is not None:
        return {**found, "ragged": "vlen", "dtype": spec.info.datatype.base.dtype}
    if stored is None or (stored.kind == "S" and stored.itemsize == 1):  # which asks for arrays of characters
        return found
    return {**found, "dtype": stored}


def plan_variable(
    name: str,
    variable: Variable,
    original: Variable,
    base: Mapping[str, Any],
    here: Here,
    unlimited: frozenset[str],
    *,
    strict: bool,
    width: int | None = None,
    rows: ragged_layout.Rows | None = None,
    first: np.ndarray | None = None,
) -> VariablePlan:
    label, asked, present = f"{here}: variable {name!r}", original.encoding, here.target_of(name)
    if strict:
        wishes = {**base, **layouts.checked_encoding(asked, where=label, remaining=variable.encoding)}
    else:
        advice = layouts.advised_encoding(asked, original, unlimited & set(map(str, original.dims)))
        told = compressor_of_source(asked)[1]
        if told and "source" in asked and not base and present is None:
            warn(f"{here.file}: data {told}. encoding= chooses another compressor")
        if base:
            advice = {key: value for key, value in advice.items() if key not in layouts.COMPRESSION_KEYS}
        wishes = {**advice, **base}
    wishes["dtype"] = asked.get("dtype")
    if rows is not None:
        return _plan_rows(name, variable, rows, wishes, label, unlimited)
    variable = _with_dtype(known_as_text(variable, first, label, is_text=is_to_be_text(asked)), label)
    variable.encoding = {key: asked[key] for key in ("dtype", "_Encoding", "char_dim_name") if key in asked}
    variable, storage = with_text(variable, wishes, label, width)
    if storage == "characters" and len(chunks := wishes.get("chunksizes") or ()) == variable.ndim - 1:
        wishes["chunksizes"] = (*chunks, variable.shape[-1])  # a text is never cut
    variable, extra = _quantized(variable, wishes, label)
    if present is not None and present.info.datatype.dtype == bool:  # xarray's form is for files without bool
        variable = variable.copy(data=variable.data.astype(bool))
        variable.attrs.pop("dtype", None)
    if present is not None and present.form is Form.TIME64:
        variable = variable.copy(data=each(variable.data, present.form.stored, label, dtype=np.int64))
    members = enum_members(original, variable)
    if variable.dtype.kind == "f" and variable.dtype.itemsize in (2, 12, 16) and present is None:
        warn(
            f"{label}: dtype {variable.dtype} is written, but netCDF-C (and so the netcdf4 engine) crashes on it; "
            "encoding={'dtype': 'float32'} or 'float64' avoids that"
        )
    try:
        layout = layouts.plan_layout(
            variable, wishes, where=label, unlimited=unlimited, members=members, text=storage == "vlen"
        )
    except OverflowError as error:
        raise ValueError(f"{label}: {error}") from None
    noted = {key: value for key, value in variable.attrs.items() if key != "_FillValue" or not _says_no_fill(value)}
    encoded = attributes.encode({**noted, **extra}, where=label, leave_out=teller_of(asked))
    if storage in ("fixed", "characters"):
        encoded.append(attributes.text_marker("utf-8" if storage == "fixed" else "characters"))
    return VariablePlan(
        name=name,
        dims=tuple(str(dim) for dim in variable.dims),
        layout=layout,
        attributes=tuple(encoded),
        data=variable.data,
    )


def teller_of(encoding: Mapping[str, Any]) -> Callable[[str], None] | None:
    """Who hears of an attribute without a form in HDF5: a warning if it was read from a file, else it is refused."""
    return warn if "source" in encoding else None


def _plan_rows(
    name: str,
    variable: Variable,
    rows: ragged_layout.Rows,
    wishes: Mapping[str, Any],
    label: str,
    unlimited: frozenset[str],
) -> VariablePlan:
    """A variable of rows of different lengths."""
    dims = tuple(str(dim) for dim in variable.dims)
    if name in dims:
        raise ValueError(f"{label}: rows of different lengths cannot be the coordinate of their dimension. Rename it")
    layout = ragged_layout.layout(variable, rows, wishes, where=label, unlimited=unlimited)
    return VariablePlan(
        name=name,
        dims=dims,
        layout=layout,
        attributes=(
            *attributes.encode(variable.attrs, where=label, leave_out=teller_of(variable.encoding)),
            *ragged_layout.marks(layout, rows),
        ),
        data=ragged_layout.stored(variable.data, layout, rows, label),
    )


def _with_dtype(variable: Variable, label: str) -> Variable:
    """A variable of objects as numbers, text or bytes. Raises TypeError or ValueError if they are neither."""
    variable = typed(variable, label)
    if variable.dtype.kind == "O" and variable.dtype.metadata is None:
        raise TypeError(f"{label}: dtype object has no form in HDF5; convert it with astype() before writing")
    if variable.dtype.names is not None and variable.ndim == 1:
        raise TypeError(f"{label}: a row of records is a table. Write its fields as variables, with layout='table'")
    return variable


def _says_no_fill(value: object) -> bool:
    return value is None or isinstance(value, bool)  # 0 is a fill value like any other


def _quantized(variable: Variable, wishes: Mapping[str, Any], label: str) -> tuple[Variable, dict[str, object]]:
    """Floats rounded to `least_significant_digit` decimal places, as netCDF4 and PyTables do."""
    digit = wishes.get("least_significant_digit")
    if digit is None:
        return variable, {}
    if not isinstance(digit, int | np.integer) or isinstance(digit, bool) or abs(int(digit)) > 300:
        raise ValueError(f"{label}: least_significant_digit must be an integer (at most 300), not {digit!r}")
    if variable.dtype.kind != "f":
        return variable, {}
    bits = np.ceil(np.log2(10.0 ** int(digit)))
    scale = 2.0**bits
    rounded = _rounded(variable.data, scale)
    return variable.copy(data=rounded.astype(variable.dtype)), {"least_significant_digit": np.int64(digit)}


def _rounded(values: Any, scale: float) -> Any:
    """`values` (of NumPy or Dask) to the next multiple of 1 / scale. What is too large for that has no such digits."""
    with np.errstate(over="ignore"):
        rounded = np.around(values * scale) / scale
    return np.where(np.isfinite(rounded), rounded, values)


def enum_members(original: Variable, variable: Variable) -> tuple[tuple[str, int], ...]:
    """The enumeration that the dtype of the data or of the encoding carries, as xarray's netCDF engines keep it."""
    if variable.dtype.kind not in "iu":
        return ()
    for dtype in (original.encoding.get("dtype"), original.dtype):
        metadata = dtype.metadata if isinstance(dtype, np.dtype) else None
        if metadata and "enum" in metadata:
            return tuple((str(name), int(value)) for name, value in metadata["enum"].items())
    return ()
