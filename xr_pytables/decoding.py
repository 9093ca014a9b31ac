"""From the variables of a store to a Dataset: xarray's decoders, held back where they would read or fail.

xarray's decoders look at the first element of every array of objects, and one attribute of a wrong type makes them fail
for the whole file. Here arrays of text and of rows, in which there is nothing to decode, are not looked at, and an
attribute that a decoder refuses is not applied, with a warning. And from Datasets to a tree. Imports no HDF5.

Also tested in `tests/model/test_odd_types.py`, `tests/test_docs.py` and `tests/test_trees.py`.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, Final

import numpy as np
from xarray import Coordinates, Dataset, DataTree, Variable
from xarray.backends.common import AbstractDataStore
from xarray.conventions import decode_cf_variables

from .errors import FormatError
from .sources.source import printable
from .sources.warning import warn

_VALUE_KEYS: Final = (
    "_FillValue", "missing_value", "scale_factor", "add_offset", "_Unsigned", "units", "calendar", "dtype", "_Encoding",
)  # fmt: skip
"""Attributes by which xarray's decoders change values."""
_NUMBER_KEYS: Final = ("scale_factor", "add_offset")
_FILL_KEYS: Final = ("_FillValue", "missing_value")
_TEXT_KEYS: Final = ("_Unsigned", "units", "calendar", "dtype")
_NAME_KEYS: Final = (
    "coordinates", "bounds", "grid_mapping", "cell_measures", "formula_terms", "ancillary_variables", "climatology",
    "geometry", "node_coordinates", "node_count", "part_node_count", "interior_ring",
)  # fmt: skip
"""Attributes in which they look for names of variables."""
_KEYS: Final = frozenset((*_VALUE_KEYS, *_NAME_KEYS))
_KEYS_BUT_UNITS: Final = _KEYS - {"units"}
_FILL: Final = frozenset(("_FillValue",))
_TIME_UNITS: Final = frozenset(("days", "hours", "minutes", "seconds", "milliseconds", "microseconds", "nanoseconds"))


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Pause the search for reference cycles, which thousands of new and small objects trigger again and again.

    Nothing is kept from being freed but cycles, for some milliseconds. Of several threads that do so at once, the one
    that found the collector on turns it on again.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def decoded(store: AbstractDataStore, where: str, decoders: Mapping[str, Any]) -> Dataset:
    """The store's Dataset, decoded as the arguments `decoders` of `xr.open_dataset` say. Messages begin with `where`.

    Raises nothing but for decoders that fit no variable at all. Attributes for which a decoder has to read what is
    damaged (the first and last of times) are not applied.
    """
    loaded, attributes = store.load()  # type: ignore[no-untyped-call]
    variables = dict(loaded)
    names = _names_looked_at(decoders)
    kept: dict[Any, dict[str, Any]] = {}
    said: list[str] = []
    keyed = [name for name, variable in variables.items() if not _KEYS.isdisjoint(variable.attrs)]
    for name in keyed:
        variable = variables[name]
        wrong = [key for key in names if not isinstance(variable.attrs.get(key, ""), str)]
        if wrong:
            kept[name], variables[name] = _without(variable, wrong)
            said.extend(f"attribute {key!r} of {name!r} is no text but {kept[name][key]!r}" for key in wrong)

    def leave_out(names: Iterable[Any], error: Exception | None) -> None:
        for name in names:
            refused = _refused(name, variables[name], decoders, error)
            if refused is None:
                continue
            keys, reason = refused
            held, variables[name] = _without(variables[name], keys)
            kept[name] = {**kept.get(name, {}), **held}
            told = ", ".join(f"{key}={held[key]!r}" for key in keys)
            said.append(f"{told} of {name!r}: {reason}")

    leave_out([name for name in keyed if _has_odd_attributes(variables[name])], None)
    try:
        found, attributes, coordinates = _decoded(variables, attributes, decoders)
    except Exception as error:
        leave_out(list(variables), error)
        found, attributes, coordinates = _decoded(variables, attributes, decoders)
    for name, values in kept.items():
        found[name].attrs.update(values)
    if said:
        warn(printable(f"{where}: attributes that were not applied: {'; '.join(said)}"))
    dataset = _dataset(found, coordinates, attributes)
    dataset.set_close(store.close)
    dataset.encoding = store.get_encoding()  # type: ignore[no-untyped-call]
    return dataset


def _dataset(variables: Mapping[Any, Variable], coordinates: set[Any], attributes: Any) -> Dataset:
    """The Dataset of these variables, without indexes yet."""
    inside = {name: variables[name] for name in variables if name in coordinates or variables[name].dims == (name,)}
    data = {name: variable for name, variable in variables.items() if name not in inside}
    construct = getattr(Dataset, "_construct_direct", None)
    if construct is None:
        return Dataset(data, coords=Coordinates(inside, indexes={}), attrs=attributes)
    # there is nothing to merge, nobody else has the variables: what takes as long as reading the file is left out
    dims = {dim for variable in variables.values() for dim in variable.dims}
    names = inside.keys() | dims.intersection(variables)
    dataset: Dataset = construct({**data, **inside}, names, attrs=dict(attributes) if attributes else None)
    return dataset


def _decoded(
    variables: Mapping[Any, Variable], attributes: Any, decoders: Mapping[str, Any]
) -> tuple[dict[Any, Variable], Any, set[Any]]:
    """All variables decoded, the names of coordinates among them. What has nothing to decode is passed by."""
    plain = _plain(variables, decoders)
    objects = {name for name, variable in variables.items() if _has_nothing_to_decode(variable)}
    shown = {
        name: _stand_in(variable) if name in objects else _scaled_by_float(name, _copied(variable), decoders)
        for name, variable in variables.items()
        if name not in plain
    }
    found, attributes, coordinates = decode_cf_variables(shown, attributes, **decoders)
    result = {}
    for name, variable in variables.items():
        if name in plain:
            result[name] = _with_plain_encoding(variable)
        elif name in found:
            result[name] = _with_names(variable, found[name]) if name in objects else found[name]
    return result, attributes, set(coordinates)


def _copied(variable: Variable) -> Variable:
    """The variable with attributes of its own: xarray takes fill values out of those that it gets, even if it fails."""
    return Variable(variable.dims, variable._data, variable.attrs, variable.encoding, fastpath=True)


def _scaled_by_float(name: Any, variable: Variable, decoders: Mapping[str, Any]) -> Variable:
    """The variable, its scale a float if it is an integer and values may be missing: xarray has no NaN for these."""
    attrs, masked = variable.attrs, decoders.get("mask_and_scale", True)
    is_integer = isinstance(attrs.get("scale_factor"), int | np.integer) and "add_offset" not in attrs
    if not is_integer or not any(key in attrs for key in _FILL_KEYS):
        return variable
    if not (masked.get(name, True) if isinstance(masked, Mapping) else masked):
        return variable
    attrs = {**attrs, "scale_factor": float(attrs["scale_factor"])}
    return Variable(variable.dims, variable._data, attrs, variable.encoding, fastpath=True)


def _with_names(variable: Variable, stand_in: Variable) -> Variable:
    """An array of objects as it is, but for the names of variables that the decoders found on its stand-in."""
    attrs = {key: variable.attrs[key] for key in variable.attrs if key in stand_in.attrs or key in _VALUE_KEYS}
    names = {key: value for key, value in stand_in.encoding.items() if key in _NAME_KEYS}
    return Variable(variable.dims, variable._data, attrs, {**variable.encoding, **names}, fastpath=True)


def _with_plain_encoding(variable: Variable) -> Variable:
    """A `_plain` variable as the decoders leave it: they change it in place as well."""
    if "_FillValue" in variable.attrs:
        variable.encoding["_FillValue"] = variable.attrs.pop("_FillValue")
    variable.encoding.setdefault("dtype", variable.dtype)
    return variable


def _plain(variables: Mapping[Any, Variable], decoders: Mapping[str, Any]) -> set[Any]:
    """Names of variables of numbers whose values no decoder changes, and which none need see for the others' sake.

    Such a variable has no attribute that a decoder knows, but units that are no times, and NaN to fill floats with. No
    other refers to it by name (as to the bounds of times, which get the units of the times), and it shares no dimension
    with single characters (which are put together along theirs if no numbers have it).
    """
    if decoders.get("use_cftime") is not None:  # xarray warns of it for each variable
        return set()
    dropped = decoders.get("drop_variables") or ()
    others = {dropped} if isinstance(dropped, str) else set(dropped)
    masked = decoders.get("mask_and_scale", True) is True
    of_letters, found = set[Any](), []
    for name, variable in variables.items():
        attrs, dtype = variable.attrs, variable.dtype
        if dtype.kind == "S":
            of_letters.update(variable.dims)
        keys = _KEYS_BUT_UNITS.intersection(attrs)
        is_filled = keys == _FILL and masked and dtype.kind == "f" and _is_nan(attrs["_FillValue"])
        is_number = dtype.kind in "biufc" and dtype.isnative
        if is_number and (not keys or is_filled) and _is_no_time(attrs.get("units", "")):
            found.append(name)
        for key in keys.intersection(_NAME_KEYS) if keys else ():
            others.update(_names_in(attrs[key]))
    others |= of_letters
    return {name for name in found if name not in others and of_letters.isdisjoint(variables[name].dims)}


def _is_nan(value: Any) -> bool:
    return isinstance(value, float | np.floating) and bool(value != value)


def _names_in(value: Any) -> set[str]:
    """All that a decoder may take for the name of a variable in the value of an attribute."""
    text = str(value)
    return {text, *text.split(), *text.replace(":", " ").split(), *(word.strip(":") for word in text.split())}


def _is_no_time(units: Any) -> bool:
    return isinstance(units, str) and "since" not in units and units not in _TIME_UNITS


def _names_looked_at(decoders: Mapping[str, Any]) -> tuple[str, ...]:
    """The attributes that the decoders will take for names of variables."""
    if decoders.get("decode_coords") == "all":
        return _NAME_KEYS
    coordinates = ("coordinates",) if decoders.get("decode_coords") else ()
    return (*coordinates, "bounds") if decoders.get("decode_times") else coordinates


def _has_nothing_to_decode(variable: Variable) -> bool:
    """Whether it is an array of objects whose values no decoder changes: rows always, text without a fill value."""
    metadata = variable.dtype.metadata or {}
    is_text = metadata.get("element_type") is not None
    return variable.dtype.kind == "O" and not (is_text and any(key in variable.attrs for key in _VALUE_KEYS))


def _stand_in(variable: Variable) -> Variable:
    """A variable without values in its place: with its dimensions and the names that it refers to."""
    attrs = {key: value for key, value in variable.attrs.items() if key not in _VALUE_KEYS}
    return Variable(variable.dims, np.broadcast_to(np.int8(0), variable.shape), attrs, {}, fastpath=True)


def _without(variable: Variable, keys: list[str]) -> tuple[dict[str, Any], Variable]:
    """The values of some attributes, and the variable without them."""
    rest = {key: value for key, value in variable.attrs.items() if key not in keys}
    held = {key: variable.attrs[key] for key in keys}
    return held, Variable(variable.dims, variable._data, rest, variable.encoding, fastpath=True)


def _has_odd_attributes(variable: Variable) -> bool:
    """Whether an attribute is not of the type that decoders expect. They may fail later then, when values are read."""
    attrs, is_text = variable.attrs, variable.dtype.kind in "SUO"
    if "_Encoding" in attrs:  # of any type: it may name an encoding that is not known
        return True
    for key in _NUMBER_KEYS:
        if key in attrs and (is_text or not isinstance(attrs[key], int | float | np.integer | np.floating)):
            return True
    for key in _FILL_KEYS:
        if key in attrs and (isinstance(attrs[key], str | bytes) != is_text or np.ndim(attrs[key])):
            return True
    return any(key in attrs and not isinstance(attrs[key], str) for key in _TEXT_KEYS)


def _one_element(variable: Variable) -> Variable:
    """A variable like `variable`, of one element, to see whether its values can be decoded."""
    values = np.zeros((1,) * variable.ndim, variable.dtype)
    if variable.dtype.kind in "SUO":
        values[...] = b"a" if variable.dtype.kind == "S" else "a"
    return Variable(variable.dims, values, variable.attrs, variable.encoding, fastpath=True)


def _refused(
    name: Any, variable: Variable, decoders: Mapping[str, Any], error: Exception | None
) -> tuple[list[str], Exception] | None:
    """Which attributes of a variable the decoders fail on, and how; None if on none. Raises what is no matter of them:
    `error` if they fail on any variable, and errors of reading but damage: xarray reads the first value of times, and
    one chunk must not cost a whole file."""
    try:
        _try(name, variable, decoders)
        return None
    except Exception as failure:
        if isinstance(failure, OSError) and not isinstance(failure, FormatError):
            raise
        reason = failure
    present = [key for key in (*_VALUE_KEYS, *_NAME_KEYS) if key in variable.attrs]
    for keys in (*([key] for key in present), present):
        try:
            _try(name, _without(variable, keys)[1], decoders)
            return keys, reason
        except Exception:
            continue
    raise error or reason


def _try(name: Any, variable: Variable, decoders: Mapping[str, Any]) -> None:
    """Raise what the decoders raise for a variable, or for values of its type."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of the values in its place
        found, _, _ = _decoded({name: _one_element(variable)}, {}, decoders)
        for one in found.values():
            one.load()
    _decoded({name: variable}, {}, decoders)


# -- trees ----------------------------------------------------------------------------------------------------


def as_tree(groups: Mapping[str, Dataset]) -> DataTree:
    """One tree of the groups of a file, by path. Raises ValueError, naming the file, for groups that do not align."""
    with _naming(groups["/"]):
        return _Tree.from_dict(groups)


class _Tree(DataTree):  # type: ignore[no-untyped-call]
    """A tree of which xarray makes a plain one, with the indexes of coordinates: with them, groups may not align."""

    __slots__ = ()

    def map_over_datasets(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        by_xarray = getattr(func, "__module__", None) == "xarray.backends.api"
        with _naming(self) if by_xarray else nullcontext():
            return super().map_over_datasets(func, *args, **kwargs)


@contextmanager
def _naming(root: Dataset | DataTree) -> Iterator[None]:
    """Say of which file the groups are that xarray cannot make one tree of, and the way out."""
    try:
        yield
    except ValueError as error:
        reason = "\n".join(map(printable, str(error).splitlines()))
        raise type(error)(
            f"{printable(root.encoding['source'])}: its groups do not make one tree, in which sizes of dimensions and "
            "indexes of a group are those of the groups below it, too. Open one of them with group=, or each on its "
            f"own with xr.open_groups. xarray says: {reason}"
        ) from error
