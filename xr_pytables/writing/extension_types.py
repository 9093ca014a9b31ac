"""Columns of pandas' own types (categories, nullable numbers, text ...) as arrays that NumPy, and so HDF5, has.

What has no such form is refused, with the way out. Knows variables of xarray, and nothing of files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pandas as pd
from pandas.api.extensions import ExtensionArray
from xarray import Dataset, IndexVariable, Variable
from xarray.backends.common import ensure_dtype_not_object

_SCALED: Final = frozenset({"scale_factor", "add_offset"})
_WAYS_OUT: Final = {
    "period": "Convert it with .to_timestamp(), and keep the frequency as an attribute",
    "interval": "Write its .left and .right as two variables",
    "datetime64": "Convert it to UTC with .tz_convert('UTC').tz_localize(None), and keep the time zone as an attribute",
    "timestamp": "Convert it to UTC with .tz_convert('UTC').tz_localize(None), and keep the time zone as an attribute",
}


def without_extension_types(
    dataset: Dataset, encoding: Mapping[Any, Any], stored: Mapping[str, Mapping[str, Any]], *, where: str
) -> Dataset:
    """`dataset` with plain arrays in place of pandas' own.

    Missing integers and booleans become a fill value: that of `encoding`, or of the attributes of an array in the file
    (`stored`, by name); else one that does not occur, noted as `_FillValue`. Where none is possible, as with a
    `scale_factor`, they become NaN. Raises TypeError, naming the variable, for what NumPy has no form for.
    """
    plain = {}
    for name, variable in dataset.variables.items():
        values = _extension_array(variable)
        if values is not None:
            asked = encoding.get(name)
            wishes = asked if isinstance(asked, Mapping) else variable.encoding
            plain[name] = _plain(variable, values, wishes, stored.get(str(name)), f"{where}: variable {name!r}")
    if not plain:
        return dataset
    coordinates = {name: variable for name, variable in plain.items() if name in dataset.coords}
    others = {name: variable for name, variable in plain.items() if name not in dataset.coords}
    indexed = [name for name in coordinates if name in dataset.xindexes]
    return dataset.drop_indexes(indexed).assign(others).assign_coords(coordinates)


def _extension_array(variable: Variable) -> ExtensionArray | None:
    if isinstance(variable.dtype, np.dtype):
        return None
    values = variable.to_index().array if isinstance(variable, IndexVariable) else variable.data
    return values if isinstance(values, ExtensionArray) else pd.array(values, dtype=variable.dtype)


def _plain(
    variable: Variable, values: ExtensionArray, wishes: Mapping[str, Any], stored: Mapping[str, Any] | None, label: str
) -> Variable:
    values, attrs = _without_codes(values), dict(variable.attrs)
    dtype, missing = values.dtype, np.asarray(values.isna())
    if dtype.type in (str, bytes) or dtype == "object":
        data = np.asarray(values, object)
        data[missing] = None
    elif dtype.kind not in "biufcmM" or _has_time_zone(dtype):
        raise no_form(str(dtype), label)
    elif dtype.kind in "biu":
        data, fill = _filled(values, missing, wishes, stored, label)
        if fill is not None:
            attrs["_FillValue"] = fill
    elif missing.any() and dtype.kind == "f":
        data = values.to_numpy(dtype=_numpy_dtype(dtype), na_value=np.nan)
    else:
        data = np.asarray(values, _numpy_dtype(dtype))
    return Variable(variable.dims, data, attrs, variable.encoding)


def _without_codes(values: ExtensionArray) -> ExtensionArray:
    """Categories as the values that they stand for."""
    if not isinstance(values, pd.Categorical):
        return values
    categories = values.categories.array
    if isinstance(categories, pd.arrays.NumpyExtensionArray) and categories.dtype.kind in "biu":
        categories = pd.array(categories.to_numpy())  # of a kind that can have missing values
    return categories.take(values.codes, allow_fill=True)


def _has_time_zone(dtype: Any) -> bool:
    return bool(getattr(getattr(dtype, "pyarrow_dtype", dtype), "tz", None))


def _numpy_dtype(dtype: Any) -> np.dtype:
    """The one of the values, without what marks those that are missing."""
    if isinstance(dtype, pd.SparseDtype):
        dtype = dtype.subtype
    plain: np.dtype = np.dtype(getattr(dtype, "numpy_dtype", dtype))
    return plain


def _filled(
    values: ExtensionArray,
    missing: np.ndarray,
    wishes: Mapping[str, Any],
    stored: Mapping[str, Any] | None,
    label: str,
) -> tuple[np.ndarray, np.generic | None]:
    """Integers or booleans with a value in place of the missing ones, and that value if nobody else notes it.

    Raises ValueError for a fill value that is one of those that are not missing, or that the dtype cannot hold.
    """
    given, own = {**(stored or {}), **wishes}, _numpy_dtype(values.dtype)
    plain = np.dtype(np.int8) if own.kind == "b" else own
    target = np.dtype(given.get("dtype") or plain)
    present = values[~missing].astype(plain)
    fill = given.get("_FillValue")
    if fill is not None and _SCALED.isdisjoint(given) and np.any(np.asarray(present) == fill):
        raise ValueError(f"{label}: {fill} is one of its values, and with _FillValue={fill} it would read as missing")
    if not missing.any():
        return np.asarray(values, own), None
    chosen = _unused(np.asarray(present), target) if fill is None and stored is None else None
    if not _SCALED.isdisjoint(given) or target.kind not in "iu" or (fill is None and chosen is None):
        return values.to_numpy(dtype=np.float64, na_value=np.nan), None
    try:
        data = np.full(len(values), fill if chosen is None else chosen, plain)
    except (OverflowError, ValueError, TypeError):
        raise ValueError(f"{label}: _FillValue={fill!r} is no value of {plain}") from None
    data[~missing] = present
    return data, chosen


def _unused(values: np.ndarray, dtype: np.dtype) -> np.generic | None:
    """An integer far from zero that does not occur, nor as float64, in which readers look for it; None if all do."""
    if dtype.kind not in "iu":
        return None
    limits, taken = np.iinfo(dtype), set(np.unique(values.astype("f8")).tolist())
    numbers = range(limits.min, limits.max + 1)
    for number in numbers if dtype.kind == "i" else reversed(numbers):
        if float(number) not in taken:
            found: np.generic = dtype.type(number)
            return found
    return None


def no_form(kind: str, label: str) -> TypeError:
    """What to say of values that HDF5 cannot hold."""
    way_out = next((way for name, way in _WAYS_OUT.items() if kind.lower().startswith(name)), None)
    return TypeError(f"{label}: {kind} has no form in HDF5. {way_out or 'Convert it with astype() before writing'}")


def plain_objects(variable: Variable, *, is_text: bool, label: str) -> Variable:
    """A variable of Python objects for xarray's encoders, which know NaN and None, but not `pandas.NA`.

    Objects that are numbers or truth values become an array of such, so that they are encoded as one. Where nothing
    tells what the objects are, because there are none or all are missing, `is_text` does. Raises TypeError for pandas'
    own kinds of objects, lists, numbers that no dtype holds together, and times with a time zone,
    whose offset would be lost.
    """
    if variable.dtype.kind != "O" or (variable.size and (variable.dtype.metadata or not variable._in_memory)):
        return variable
    values = np.asarray(variable.values, object) if variable.size else np.empty(variable.shape, object)
    missing = np.asarray(pd.isna(values))
    if is_text and missing.all():
        return variable.copy(data=np.full(variable.shape, "", "U1"))
    first = next((value for value, gone in zip(values.flat, missing.flat, strict=True) if not gone), None)
    if isinstance(first, pd.Period | pd.Interval) or getattr(first, "tzinfo", None) is not None:
        raise no_form(type(first).__name__, label)
    if isinstance(first, list | tuple) or (isinstance(first, np.ndarray) and first.ndim):
        raise TypeError(
            f"{label}: values of type {type(first).__name__} have no form in HDF5 here. Rows of different lengths are "
            "NumPy arrays, in a variable of their own and not in a table"
        )
    if any(value is pd.NA for value in values[missing]):
        values = values.copy()
        values[missing] = None
        variable = variable.copy(data=values)
    return typed(variable, label) if is_number(first) else variable


def is_number(value: object) -> bool:
    """Whether an object is a number, or true or false."""
    return isinstance(value, bool | int | float | complex | np.number | np.bool_) and not pd.isna(value)


def typed(variable: Variable, label: str) -> Variable:
    """Objects as the numbers, text or bytes that they are. Raises TypeError or ValueError if they are neither."""
    try:
        known: Variable = ensure_dtype_not_object(variable)
    except (TypeError, ValueError, IndexError, OverflowError) as error:
        kind = ValueError if isinstance(error, ValueError) else TypeError
        reason = str(error).replace(" on variable None", "")
        raise kind(f"{label}: its objects have no form in HDF5: {reason}. Convert it with astype()") from None
    element = (known.dtype.metadata or {}).get("element_type")
    if element in (str, bytes) and known._in_memory:
        fill = variable.attrs.get("_FillValue")  # which text does not take, as others say
        for value in np.asarray(known.data).flat:
            if not isinstance(value, element) and value != fill:
                raise TypeError(f"{label}: {value!r} is no {element.__name__}, as the first of its values is")
    return known
