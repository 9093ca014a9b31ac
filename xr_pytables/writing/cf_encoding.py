"""From variables as users have them to what is stored: xarray's encoders, and a check that nothing is lost in them.

xarray packs, rounds and casts without looking at what comes out. Here numbers are looked at before, block by block
(`fitting`), and times are decoded again after. Values in memory are checked at once, those of Dask where they are
computed. Knows no file.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Final

import dask.array
import numpy as np
import pandas as pd
from dask.highlevelgraph import HighLevelGraph
from xarray import Dataset, Variable, conventions
from xarray.coders import CFDatetimeCoder, CFTimedeltaCoder

from ..model.specs import VariableSpec
from ..time_units import NANOSECONDS, OF_WORD, are_whole, seconds_apart, size_of
from .fitting import Packing, as_announced, as_read, checked, packable, packed
from .lazy_blocks import Side, part, sides_of

Stored = Callable[[str], VariableSpec | None]
"""The array in the file that takes the values of a variable; None if it is written anew."""


def encoded(
    variables: Mapping[Hashable, Variable], attrs: Mapping[Any, Any], *, where: str, stored: Stored
) -> tuple[dict[Hashable, Variable], dict[Any, Any]]:
    """Variables and attributes of a group in CF's form, as `xarray.conventions.cf_encoder` makes it.

    Raises ValueError for values in memory that have no form; blocks of Dask raise it when they are computed. Messages
    begin with `where` and the name.
    """
    own = {}
    for name, variable in _with_units_of_bounds(variables).items():
        label = f"{where}: variable {name!r}"
        own[name] = _checked(_as_announced(variable, label), stored(str(name)), label)
    coded, attributes = _by_xarray(own, attrs, where)
    # boundaries of cells have the units of their coordinate, which xarray leaves out again (CF 7.1)
    units = {variable.attrs["bounds"]: variable.attrs for variable in coded.values() if "bounds" in variable.attrs}
    found = {}
    for name, variable in coded.items():
        told = {
            **{key: units[name][key] for key in ("units", "calendar") if key in units.get(name, {})},
            **variable.attrs,
        }
        found[name] = _as_decoded(own[name], variable, told, f"{where}: variable {name!r}", stored(str(name)))
    return found, dict(attributes)


def _by_xarray(
    variables: Mapping[Hashable, Variable], attrs: Mapping[Any, Any], where: str
) -> tuple[dict[Hashable, Variable], dict[Any, Any]]:
    """What xarray's encoders make of variables and attributes. What they raise names the variable."""
    try:
        return conventions.cf_encoder(dict(variables), dict(attrs))  # type: ignore[no-any-return]
    except NotImplementedError as error:  # a MultiIndex, which it names
        raise NotImplementedError(f"{where}: {error}") from None
    except (TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
        names = [found[1] for note in getattr(error, "__notes__", ()) if (found := _ENCODED.search(note))]
        names = names or [str(name) for name, variable in variables.items() if variable.dtype.kind == "O"]
        label = f"{where}: variable {' or '.join(map(repr, names))}" if names else where
        kind = TypeError if isinstance(error, TypeError) else ValueError  # NumPy's own take other arguments
        told = _told(error)  # of a check of ours, where an encoder has a look at values of Dask, with its label
        raise kind(told if told.startswith(f"{where}: ") else f"{label}: {told}") from None


def _told(error: Exception) -> str:
    """What an error of xarray's encoders says."""
    return f"{error} are no units of time" if isinstance(error, KeyError) else str(error)


_ENCODED: Final = re.compile(r"while encoding variable '(.+?)' with value")


def _with_units_of_bounds(variables: Mapping[Hashable, Variable]) -> dict[Hashable, Variable]:
    """Boundaries of cells get the units and calendar of their coordinate (CF 7.1), as xarray gives them later."""
    found = dict(variables)
    for variable in variables.values():
        bounds = variable.attrs.get("bounds")
        if bounds in found and "since" in str(variable.encoding.get("units")):
            inherited = {key: variable.encoding[key] for key in ("units", "calendar") if key in variable.encoding}
            found[bounds] = found[bounds].copy(deep=False)
            found[bounds].encoding = {**inherited, **found[bounds].encoding}
    return found


def each(data: Any, function: Callable[..., Any], *arguments: Any, dtype: Any = None) -> Any:
    """`function(values, *arguments)` at once, or for each block of Dask; values of `dtype` if it is another one."""
    if not isinstance(data, dask.array.Array):
        return function(np.asarray(data), *arguments)
    meta = data._meta if dtype is None else np.empty((0,) * data.ndim, dtype)
    return data.map_blocks(function, *arguments, dtype=meta.dtype, meta=meta)


def _as_announced(variable: Variable, label: str) -> Variable:
    """The variable; each block of Dask raises unless it has the shape, and numbers the dtype, that the array says.

    Dask takes any block, and cuts and casts it without a word where it puts some together. Masked elements raise, too:
    in arrays that say that they have some, xarray has made them NaN.
    """
    data = variable.data
    if not isinstance(data, dask.array.Array):
        return variable
    arguments = (sides_of(data.chunks), data.dtype, label)
    blocks = data.map_blocks(_announced_block, *arguments, dtype=data.dtype, meta=data._meta)
    return variable.copy(deep=False, data=blocks)


def before_check(data: dask.array.Array) -> dask.array.Array:
    """The blocks of a variable that only `_as_announced` looks at, for who does that himself; or `data`."""
    if not data.name.startswith(f"{_announced_block.__name__}-"):
        return data
    graph = data.dask
    (name,) = graph.dependencies[data.name]
    # without the look itself: Dask would not put a task into that of its block of which it believes that two need it
    below = HighLevelGraph(
        {each: layer for each, layer in graph.layers.items() if each != data.name},
        {each: needed for each, needed in graph.dependencies.items() if each != data.name},
    )
    return dask.array.Array(below, name, data.chunks, meta=data._meta)


def _announced_block(
    block: Any,
    sides: tuple[Side, ...],
    dtype: np.dtype,
    label: str,
    block_id: tuple[int, ...] = (),
) -> Any:
    return as_announced(block, part(sides, block_id), dtype, label)


def _checked(variable: Variable, spec: VariableSpec | None, label: str) -> Variable:
    if variable.dtype.kind in "mM":
        return _countable(_checked_times(variable, spec, label))
    if variable.dtype.kind in "OUT":
        return _checked_texts(variable, label)
    if variable.dtype.kind not in "biufcS":
        return variable
    form = form_of(variable, spec, label)
    if form is not None and form.dtype.kind not in "iu" and "_Unsigned" in variable.encoding:
        variable = variable.copy(deep=False)  # it says something of integers only; for it, xarray rounds floats to such
        variable.encoding = {key: value for key, value in variable.encoding.items() if key != "_Unsigned"}
    if form is None:
        return variable
    stored = _dtype_of(variable.encoding.get("dtype"), variable.dtype)
    if form.dtype != stored and form.fill is None:
        return _signed_otherwise(variable, form, stored, label)
    if form.takes_all(variable.dtype):
        return variable
    if form.is_packed and not (variable.dtype.kind in "biuf" and form.dtype.kind in "iuf"):
        raise ValueError(
            f"{label}: scale_factor and add_offset are for real numbers; these are {variable.dtype}, stored as "
            f"{form.dtype}. {form.way_out}"
        )
    becomes_integer = form.dtype.kind in "iu" and (form.is_packed or variable.dtype.kind == "f")
    has_own_way = bool(form.members) or "_Unsigned" in variable.encoding  # of which xarray knows more
    if becomes_integer and not has_own_way:
        return _packed(variable, form, label)
    data = each(variable.data, packable if becomes_integer and not form.members else checked, form, label)
    if becomes_integer and form.is_packed and variable.dtype.kind in "biu":
        data = data.astype("f8")  # else xarray scales integers in place
    return variable if data is variable.data else variable.copy(deep=False, data=data)


def _checked_texts(variable: Variable, label: str) -> Variable:
    """Text of Dask that is to be numbers raises where it is none: xarray casts it later, and names no variable."""
    dtype = _dtype_of(variable.encoding.get("dtype"), variable.dtype)
    if dtype is None or dtype.kind not in "iufc" or not isinstance(variable.data, dask.array.Array):
        return variable
    return variable.copy(deep=False, data=each(variable.data, _texts_of_numbers, dtype, label))


def _texts_of_numbers(values: np.ndarray, dtype: np.dtype, label: str) -> np.ndarray:
    is_text = [isinstance(value, str | bytes) for value in values.reshape(-1)]
    try:
        values.reshape(-1)[is_text].astype(dtype)
    except ValueError as error:
        raise ValueError(f"{label}: {error}") from None
    return values


def _signed_otherwise(variable: Variable, form: Packing, stored: np.dtype | None, label: str) -> Variable:
    """Integers marked with `_Unsigned`, without a fill value: xarray would store them and leave out the mark."""
    mark = variable.encoding["_Unsigned"]
    if form.is_packed or variable.dtype.kind == "f":
        coded = _packed(variable, form, label)
    else:
        encoding = {key: value for key, value in variable.encoding.items() if key != "dtype"}
        data = each(variable.data, checked, form, label).astype(form.dtype)
        coded = Variable(variable.dims, data, variable.attrs, encoding, fastpath=True)
    del coded.encoding["_Unsigned"]
    coded.attrs["_Unsigned"] = mark
    return coded.copy(deep=False, data=coded.data.astype(stored))


def _packed(variable: Variable, form: Packing, label: str) -> Variable:
    """Numbers as the integers that are stored, with the attributes that say so, as xarray's encoders have them."""
    attrs, encoding = dict(variable.attrs), dict(variable.encoding)
    encoding.pop("dtype", None)
    data = each(variable.data, packed, form, label, dtype=form.dtype)
    for key in ("_FillValue", "missing_value", "scale_factor", "add_offset"):
        value = encoding.pop(key, None)
        if value is None:
            continue
        if key in attrs:
            raise ValueError(f"{label}: {key!r} is both in its attributes and in its encoding. Remove one of them")
        if key in ("scale_factor", "add_offset"):
            attrs[key] = value
        elif form.fill is not None:  # else it is NaN, which no integer can be
            attrs[key] = form.dtype.type(form.fill)
    return Variable(variable.dims, data, attrs, encoding, fastpath=True)


def form_of(variable: Variable, spec: VariableSpec | None, label: str) -> Packing | None:
    """How numbers of a variable will be stored, by its encoding and the array that takes them; None if not as numbers.

    Raises ValueError for a fill value that has no form itself.
    """
    encoding = variable.encoding
    dtype = _dtype_of(encoding.get("dtype"), variable.dtype)
    if dtype is None:
        return None
    _check_fill_is_finite({**variable.attrs, **encoding}, dtype, label)
    read = as_read(dtype, encoding.get("_Unsigned"))
    return Packing(
        read,
        _number(encoding, "scale_factor", label),
        _number(encoding, "add_offset", label),
        _fill_of(encoding, dtype, read, label),
        exact=spec is not None,
        truth=dtype.kind == "b" or (spec is not None and spec.attributes.get("dtype") == "bool"),
        members=_members(dtype, spec),
        way_out=_way_out(variable, spec),
    )


def _dtype_of(asked: Any, own: np.dtype) -> np.dtype | None:
    """The stored dtype; None for text, and for what xarray or NumPy will refuse."""
    if asked is None:
        return own
    try:
        dtype = np.dtype(asked)
    except TypeError:
        return None
    is_characters = dtype == np.dtype("S1") or asked is str
    return dtype if dtype.kind in "biufcS" and dtype.itemsize and not is_characters else None


def _number(encoding: Mapping[str, Any], key: str, label: str) -> float | None:
    if encoding.get(key) is None:
        return None
    number = np.asarray(encoding[key]).reshape(-1)[0]
    if number.dtype.kind not in "biuf":
        raise TypeError(f"{label}: {key} must be a number, not {encoding[key]!r}")
    if not np.isfinite(number) or (key == "scale_factor" and not number):
        raise ValueError(f"{label}: {key} must be finite, and no scale_factor is 0; it is {number}")
    return float(number)


def _fill_of(encoding: Mapping[str, Any], dtype: np.dtype, read: np.dtype, label: str) -> float | None:
    """What is stored for missing values; None for nothing. Integers stay such: no float holds all of 64 bits."""
    given = next((encoding[key] for key in ("_FillValue", "missing_value") if encoding.get(key) is not None), None)
    if given is None or dtype.kind not in "iuf":
        return None
    fill = np.asarray(given).reshape(-1)[0]
    if not np.issubdtype(fill.dtype, np.number) or fill != fill:
        return None
    if dtype.kind == "f":
        return float(fill)
    limits = np.iinfo(dtype)
    if "_Unsigned" in encoding:  # xarray takes it in either sign
        return int(np.array(int(fill) % 2 ** (8 * dtype.itemsize), f"u{dtype.itemsize}").view(read))
    if fill != int(fill) or not limits.min <= int(fill) <= limits.max:
        raise ValueError(f"{label}: _FillValue {fill} does not fit {dtype}, which holds {limits.min} to {limits.max}")
    return int(fill)


def _check_fill_is_finite(attributes: Mapping[str, Any], dtype: np.dtype, label: str) -> None:
    """Raise ValueError for a fill value that a float of less bytes would make infinite."""
    for key in ("_FillValue", "missing_value") if dtype.kind == "f" else ():
        fills = np.asarray(attributes.get(key, 0.0)).reshape(-1)
        if fills.dtype.kind not in "iuf":
            continue
        with np.errstate(over="ignore"):
            lost = fills[np.isfinite(fills) & ~np.isfinite(fills.astype(dtype))]
        if lost.size:
            raise ValueError(f"{label}: {key} {lost[0]} does not fit {dtype}, which holds up to {np.finfo(dtype).max}")


def _members(dtype: np.dtype, spec: VariableSpec | None) -> tuple[int, ...]:
    if spec is not None:
        return tuple(value for _, value in spec.datatype.members)
    members: Mapping[str, Any] = dict(dtype.metadata or {}).get("enum", {})
    return tuple(int(value) for value in members.values())


def _way_out(variable: Variable, spec: VariableSpec | None) -> str:
    if spec is not None:
        return "Replace the array with mode='a' alone and an encoding that holds it, or convert the values"
    if variable.encoding.get("source"):
        return "The encoding was read from another file: drop_encoding() removes it, encoding= gives another one"
    return "Choose another encoding for it"


# -- times -------------------------------------------------------------------------------------------------

_ROUNDED: Final = datetime.timedelta(milliseconds=1)
"""Times that are stored as floating point may come back that far from where they were."""


def _checked_times(variable: Variable, spec: VariableSpec | None, label: str) -> Variable:
    """The times, in a resolution that xarray encodes right. Raises ValueError for those between two steps of the units.

    Only where nobody may choose other units: in arrays that are in the file, and in Dask's blocks.
    """
    units, dtype = variable.encoding.get("units"), variable.encoding.get("dtype")
    if isinstance(units, str) and (" since " in units) != (variable.dtype.kind == "M"):
        raise ValueError(f"{label}: {variable.dtype} has no form in units={units!r}. {_way_out(variable, spec)}")
    step, since = _parsed(units)
    if step is None:
        if isinstance(units, str) and isinstance(variable.data, dask.array.Array):  # else xarray says so itself
            raise ValueError(f"{label}: units={units!r} are none of times: write e.g. 'seconds since 1970-01-01'")
        return variable
    chosen = spec is not None or isinstance(variable.data, dask.array.Array)
    if chosen and dtype is not None and np.dtype(dtype).kind in "iu" and since is not None:
        data = each(
            variable.data, _on_steps, step, since, f"{label}: ", str(units), None if spec is None else spec.name
        )
        variable = variable.copy(deep=False, data=data)
    if not isinstance(variable.data, dask.array.Array):
        variable = variable.copy(deep=False, data=np.asarray(variable.data))
    if variable.dtype.kind == "O":  # xarray takes them for datetime64 by the first and the last until it has read all
        return variable
    if NANOSECONDS[step] < size_of(variable.dtype):  # xarray divides by zero: NaT
        finer = np.dtype(f"{variable.dtype.kind}8[{step}]")
        told = (f"{label}: ", str(units), _way_out(variable, spec))
        return variable.copy(deep=False, data=each(variable.data, _in_finer, finer, *told, dtype=finer))
    return variable


def _in_finer(times: np.ndarray, dtype: np.dtype, label: str, units: str, way_out: str) -> np.ndarray:
    """Times in a finer resolution. Raises ValueError for those that it does not reach."""
    reach, counts = (2**63 - 1) // (size_of(times.dtype) // size_of(dtype)), times.astype("i8")
    lost = times[((counts > reach) | (counts < -reach)) & ~np.isnat(times)]
    if lost.size:
        raise ValueError(f"{label}{lost[0]} does not fit: it is beyond what 64 bits of {units!r} reach. {way_out}")
    return times.astype(dtype)


def _countable(variable: Variable) -> Variable:
    """The times, in a form that xarray takes if some are so far apart that 64 bits of nanoseconds cannot say how far.

    It counts from each one to the next. In microseconds it can; those that nobody chose coarser units for become the
    numbers that are stored.
    """
    encoding = variable.encoding
    if variable.dtype != "M8[ns]" or isinstance(variable.data, dask.array.Array) or "units" in variable.attrs:
        return variable
    times = np.asarray(variable.data)
    known = times[~np.isnat(times)]
    ends = (int(known.min().astype("i8")), int(known.max().astype("i8"))) if known.size else (0, 0)
    if ends[1] - ends[0] < 2**63:
        return variable
    units = encoding.get("units", "nanoseconds since 1970-01-01")
    step, since = _parsed(units)
    if step != "ns" and are_whole(known, "us").all():
        return variable.copy(deep=False, data=times.astype("M8[us]"))
    calendar, dtype = encoding.get("calendar", "proleptic_gregorian"), _dtype_of(encoding.get("dtype"), np.dtype("i8"))
    is_plain = (
        calendar in _GREGORIAN and dtype == np.dtype("i8") and not {"_FillValue", "missing_value"} & set(encoding)
    )
    if step != "ns" or since is None or not is_plain or ends[0] - since <= -(2**63) or ends[1] - since >= 2**63:
        return variable
    numbers = np.where(np.isnat(times), np.iinfo("i8").min, times.astype("i8") - since)
    kept = {key: value for key, value in encoding.items() if key not in ("units", "calendar", "dtype")}
    return Variable(variable.dims, numbers, {**variable.attrs, "units": units, "calendar": calendar}, kept)


def with_seconds(dataset: Dataset, dim: str) -> Dataset:
    """The dataset with times and durations along `dim` that nobody chose units for in seconds, where those do.

    xarray chooses the longest step that the first ones allow, and those that are appended later need not be so even.
    """
    coarse = [
        name
        for name, variable in dataset.variables.items()
        if dim in variable.dims and variable.dtype.kind in "mM" and variable._in_memory and _may_be_seconds(variable)
    ]
    if not coarse:
        return dataset
    changed = dataset.copy(deep=False)
    for name in coarse:
        changed[name].encoding["units"] = _seconds(dataset[name].values)
    return changed


def _may_be_seconds(variable: Variable) -> bool:
    if {"units", "dtype"} & set(variable.encoding) or "units" in variable.attrs:
        return False
    times = np.asarray(variable.data)
    return bool(are_whole(times[~np.isnat(times)], "s").all())


def _seconds(times: np.ndarray) -> str:
    """CF's units: seconds, of times from the first one that is known, or from 1970 if none is."""
    if times.dtype.kind == "m":
        return "seconds"
    known = times[~np.isnat(times)]
    first = np.datetime_as_string(known.min() if known.size else np.datetime64(0, "s"), unit="s")
    return f"seconds since {first.replace('T', ' ')}"


def _parsed(units: object) -> tuple[str | None, int | None]:
    """NumPy's code for the steps of CF units, and the nanoseconds from 1970 to what they count from (0 for durations).

    None for what is not understood.
    """
    if not isinstance(units, str):
        return None, None
    step, since, reference = (part.strip() for part in units.partition(" since "))
    code = OF_WORD.get(step.lower().removesuffix("s"))
    if not since:
        return code, 0
    try:
        when = pd.Timestamp(reference)
    except ValueError:  # no date of pandas' calendar
        return code, None
    moment = (when if when.tz is None else when.tz_convert(None)).to_datetime64()
    return code, int(moment.astype("i8")) * size_of(moment.dtype)


def _way_to_finer(name: Hashable | None, times: np.ndarray) -> str:
    """What to do with times between two steps. `name` is that of the array in the file; None if there is none."""
    if name is None:
        return "Choose finer units in encoding"
    since = " since 1970-01-01" if times.dtype.kind == "M" else ""
    finer = next(word for word in _FINER if are_whole(times, OF_WORD[word]).all())
    return (
        f"Round the times, or write all of {name!r} in finer units first: read it, and write it with mode='a' alone "
        f"and encoding={{{name!r}: {{'units': '{finer}s{since}', 'dtype': 'int64'}}}}"
    )


_FINER: Final = ("second", "millisecond", "microsecond", "nanosecond")


def _on_steps(times: np.ndarray, step: str, since: int, label: str, units: str, name: Hashable | None) -> np.ndarray:
    """Times as they are. Raises ValueError for one that is no whole number of steps away from `since`.

    In integers: differences of 300 years do not fit 64 bits of nanoseconds.
    """
    own, size = size_of(times.dtype), NANOSECONDS[step]
    count = max(size // own, 1)
    is_between = times.astype("i8") % count != since // own % count
    between = times[~np.isnat(times) & (is_between | (since % min(own, size) != 0))]
    if between.size:
        raise ValueError(
            f"{label}{between[0]} is no whole number of {units!r}, as the array is stored. "
            f"{_way_to_finer(name, between)}"
        )
    return times


def _as_decoded(
    original: Variable, coded: Variable, attrs: Mapping[str, Any], label: str, spec: VariableSpec | None
) -> Variable:
    """The coded variable; of times, with its values compared with the original ones once they are decoded again."""
    is_time = original.dtype.kind in "mM" or (original.dtype.kind == "O" and "calendar" in attrs)
    if not is_time or coded.dtype.kind not in "iuf" or "units" not in attrs:
        return coded
    kept = {key: attrs[key] for key in _DECODING if key in attrs}
    arguments = (coded.dtype, kept, label, _way_out(original, spec))
    if not isinstance(coded.data, dask.array.Array):
        _same_times(np.asarray(original.data), np.asarray(coded.data), *arguments)
        return coded
    data = original.data.map_blocks(_encoded_times, *arguments, dtype=coded.dtype, meta=coded.data._meta)
    return coded.copy(deep=False, data=data)


_DECODING: Final = ("units", "calendar", "_FillValue", "missing_value", "scale_factor", "add_offset", "dtype")


def _encoded_times(
    times: np.ndarray, dtype: np.dtype, attrs: Mapping[str, Any], label: str, way_out: str
) -> np.ndarray:
    """A block of times as the numbers that are stored. What xarray's encoders raise names the variable."""
    if times.dtype.kind == "O" and pd.isna(times).any():
        raise ValueError(f"{label}: missing values among dates of cftime have no form. Convert them to datetime64")
    encoding = {**{key: value for key, value in attrs.items() if key != "dtype"}, "dtype": dtype}
    block = _countable(Variable(_dims_of(times), times, encoding=encoding))
    # not as a whole: of that xarray would choose other units where these do not do
    block = block.copy(deep=False, data=dask.array.from_array(block.data, chunks=-1, name=False))
    try:
        numbers = conventions.encode_cf_variable(block).data.compute(scheduler="synchronous")
    except (TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
        raise ValueError(f"{label}: {_told(error).rstrip('.')}. {way_out}") from None
    return _same_times(times, numbers, dtype, attrs, label, way_out)


def _dims_of(values: np.ndarray) -> tuple[str, ...]:
    return tuple(f"dim_{axis}" for axis in range(values.ndim))


def _same_times(
    times: np.ndarray, numbers: np.ndarray, dtype: np.dtype, attrs: Mapping[str, Any], label: str, way_out: str
) -> np.ndarray:
    """The numbers as they are stored. Raises ValueError if they are not the times once they are decoded."""
    with np.errstate(invalid="ignore", over="ignore"):
        numbers = numbers.astype(dtype, copy=False)  # xarray leaves that to others for blocks of Dask
    if not times.size:
        return numbers
    unit: Any = "ns" if times.dtype.kind == "O" else np.datetime_data(times.dtype)[0]
    counted = " and ".join(f"the {key} {attrs[key]!r}" for key in ("units", "calendar") if key in attrs)
    try:
        decoded = conventions.decode_cf_variable(
            "times",
            Variable(_dims_of(times), numbers, dict(attrs)),
            decode_times=CFDatetimeCoder(use_cftime=True if times.dtype.kind == "O" else None, time_unit=unit),
            decode_timedelta=CFTimedeltaCoder(time_unit=unit),
        ).values
    except (ValueError, OverflowError):  # numbers that were cut are no times at all
        raise ValueError(f"{label}: {dtype} with {counted} cannot hold all of the times. {way_out}") from None
    other = np.flatnonzero(~_equal_times(times.reshape(-1), decoded.reshape(-1), rounded=numbers.dtype.kind == "f"))
    if other.size:
        time, found = times.reshape(-1)[other[0]], decoded.reshape(-1)[other[0]]
        raise ValueError(
            f"{label}: {_named(time)} would read as {_named(found)}: {dtype} with {counted} cannot hold it. {way_out}"
        )
    return numbers


def _named(time: Any) -> str:
    """A date, with its calendar if it has one."""
    return f"{time} ({time.calendar})" if hasattr(time, "calendar") else str(time)


_GREGORIAN: Final = {"standard", "gregorian", "proleptic_gregorian"}
_REFORM: Final = 1582
"""After that year these calendars are one."""


def _equal_times(one: np.ndarray, other: np.ndarray, *, rounded: bool) -> np.ndarray:
    missing = pd.isna(one)
    same: np.ndarray = missing & pd.isna(other)
    if one.dtype.kind != other.dtype.kind:
        return same
    with np.errstate(over="ignore"):
        if one.dtype.kind == "O":
            for place in np.flatnonzero(~missing & ~pd.isna(other)):
                own, found = one[place], other[place]
                calendars = {own.calendar, found.calendar}
                if len(calendars) > 1 and calendars <= _GREGORIAN and min(own.year, found.year) > _REFORM:
                    import cftime  # type: ignore[import-untyped]  # late: who has no dates of it need not have it

                    found = cftime.datetime(*found.timetuple()[:6], found.microsecond, calendar=own.calendar)
                if own.calendar == found.calendar:  # others do not compare
                    same[place] = abs(own - found) <= _ROUNDED if rounded else own == found
            return same
        same |= one == other
        if rounded:
            same |= seconds_apart(one, other) <= _ROUNDED.total_seconds()
    return same
