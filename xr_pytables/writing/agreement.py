"""Whether a variable goes together with the array in the file that takes its values.

Tested in `tests/writing/test_appending.py`.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from xarray import Variable

from ..library.target_file import ArrayLayout
from ..model.specs import VariableSpec
from . import ragged_layout
from .group_dimensions import Dimensions
from .here import Here
from .placement import same_units
from .plans import VariablePlan

CF_KEYS: Final = ("_FillValue", "missing_value", "scale_factor", "add_offset", "_Unsigned")


def fits_in_place(layout: ArrayLayout, spec: VariableSpec) -> bool:
    """Whether an array in the file can take values of that layout as it is."""
    datatype = spec.info.datatype
    if spec.shape != layout.shape or datatype.shape:
        return False
    if layout.dtype is None or datatype.dtype is None:
        if layout.row_dtype is not None and datatype.base is not None:
            return ragged_layout.fits(layout, datatype.base)
        return layout.dtype is None and layout.row_dtype is None and datatype.kind == "text"
    if not datatype.exact:
        return False
    if layout.dtype.kind == "S":
        return datatype.dtype.kind == "S" and layout.dtype.itemsize <= datatype.dtype.itemsize
    return datatype.dtype.newbyteorder("=") == layout.dtype.newbyteorder("=")


def check_attributes(plan: VariablePlan, original: Variable, spec: VariableSpec, here: Here) -> None:
    """Raise ValueError if the values would mean something else under the attributes of the array in the file."""
    coded = {item.name: item.value for item in plan.attributes}
    is_time = original.dtype.kind in "mMO"
    units = spec.attributes.get("units")
    if " since " in str(units) and "units" not in coded and not is_time:
        raise ValueError(
            f"{here}: array {plan.name!r} holds times ({units!r}), the variable is of {original.dtype} without units. "
            "Convert it to times, or give it the attributes that it is to be read with"
        )
    kind = str(spec.attributes.get("dtype"))
    if kind.startswith("timedelta64") and original.dtype.kind != "m":
        raise ValueError(
            f"{here}: array {plan.name!r} holds durations ({kind}), the variable is of {original.dtype}. Convert it "
            f"with astype('{kind}'), or replace the array with mode='a' alone"
        )
    for key in (*CF_KEYS, "units", "calendar"):
        old, new = spec.attributes.get(key), coded.get(key)
        if new is None or (key == "calendar" and is_time and old is None):
            continue
        plain = _plain(new)
        same = same_units(old, plain) if key == "units" and is_time else _same_value(old, new)
        if not same:
            raise ValueError(
                f"{here}: array {plan.name!r} is stored with {key}={old!r}, the variable would need {key}={plain!r}; "
                "what is stored is kept. Convert the variable, or replace the array with mode='a' alone"
            )


def is_equal(old: object, new: object) -> bool:
    """Whether an attribute in the file has the value already."""
    try:
        one, other = np.asarray(old), np.asarray(new)
        return one.dtype.kind == other.dtype.kind and bool(np.array_equal(one, other))
    except ValueError:
        return False


def check_only_values(
    plan: VariablePlan, original: Variable, spec: VariableSpec | None, dimensions: Dimensions, here: Here
) -> None:
    """For `r+`: the array is there and nothing but its values would change."""
    if spec is None:
        raise ValueError(
            f"{here}: there is no array {plan.name!r}, and mode='r+' only changes existing ones. mode='a' adds it"
        )
    if not fits_in_place(plan.layout, spec):
        raise ValueError(
            f"{here}: array {plan.name!r} has shape {spec.shape} and dtype {spec.info.datatype.dtype}, the variable "
            f"{plan.layout.shape} and {plan.layout.dtype}; mode='r+' needs the same. mode='a' replaces the array"
        )
    named = [dimensions.find(here.path, dim) is not None for dim in spec.dims]
    if any(is_named and old != new for is_named, old, new in zip(named, spec.dims, plan.dims, strict=False)):
        raise ValueError(
            f"{here}: array {plan.name!r} has the dimensions {spec.dims}, the variable {plan.dims}; mode='r+' needs "
            "the same. Transpose or rename them, or replace the array with mode='a'"
        )
    check_attributes(plan, original, spec, here)


def check_range(variable: Variable, spec: VariableSpec, here: Here) -> None:
    """For `r+`: xarray would round and wrap numbers to the dtype in the file, which the user did not choose."""
    stored = spec.info.datatype.dtype
    if spec.form.is_text and spec.dtype.kind == "O" and variable.dtype.kind == "S":  # bytes in a table are so, too
        raise ValueError(
            f"{here}: variable {spec.name!r}: Mismatched dtypes: the array holds text, the values are bytes. Decode "
            "them with .str.decode('utf-8'), or replace the array with mode='a' alone"
        )
    is_other = {"b": variable.dtype.kind not in "bO"} | dict.fromkeys("iufc", variable.dtype.kind in "SUT")
    if stored is not None and is_other.get(stored.kind, False):
        raise ValueError(
            f"{here}: variable {spec.name!r}: Mismatched dtypes: the array is of {stored}, the values of "
            f"{variable.dtype}. Convert them with astype(), or replace the array with mode='a' alone"
        )
    if not any(key in spec.attributes for key in CF_KEYS) and stored is not None and not _holds(stored, variable):
        raise ValueError(
            f"{here}: array {spec.name!r} of {stored} cannot hold the values of the variable, of {variable.dtype}. "
            "Convert it with astype(), or replace the array with mode='a'"
        )


def _holds(stored: np.dtype, variable: Variable) -> bool:
    """Whether an array of a dtype can hold numbers of that kind as they are; whether it holds each is seen later."""
    return not (stored.kind in "iu" and variable.dtype.kind == "f")


def _same_value(old: object, new: np.ndarray) -> bool:
    text = _plain(new)
    return bool(np.array_equal(np.asarray(old), np.asarray(text)) or (text != text and old != old))


def _plain(value: np.ndarray) -> Any:
    """The value of an encoded attribute as Python has it."""
    plain = value.item() if value.ndim == 0 else value.tolist()
    return plain.decode() if isinstance(plain, bytes) else plain
