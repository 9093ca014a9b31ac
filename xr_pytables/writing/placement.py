"""Where the values of a write go in arrays that the file has already: `append_dim` and `region`.

Checks the two arguments as `Dataset.to_zarr` does, finds regions by coordinates, and says where each variable begins
and how large its array will be. Reads coordinates of the file, writes nothing.

Tested in `tests/writing/test_appending.py`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from xarray import CFTimeIndex, Dataset, Variable, conventions
from xarray.coders import CFDatetimeCoder, CFTimedeltaCoder
from xarray.coding.times import infer_calendar_name
from xarray.core.common import _contains_cftime_datetimes

from ..model.specs import VariableSpec
from ..sources.warning import warn

Mode = Literal["w", "w-", "x", "a", "r+"]
Region = Mapping[str, slice]
StoredVariable = Callable[[str], Variable | None]
"""The variable of that name in the file, lazy and not decoded; None if there is none."""
_COMPARED: Final = 1 << 17
"""Elements of a coordinate at its end that new values are compared with."""


@dataclass(frozen=True)
class Placement:
    """Which part of the arrays of one group the values are for."""

    append_dim: str | None = None
    """Arrays grow along it; the values go behind what is there."""
    region: Region = field(default_factory=dict)
    """Of other dimensions: which part, as slices with step 1."""

    def place(
        self, dims: Sequence[str], sizes: Sequence[int], spec: VariableSpec, where: str
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Where values with these dimensions begin in the array, and its shape afterwards, in elements.

        The dimensions are in the order of the array's. Raises ValueError if the sizes do not fit, and for an array that
        would have to grow along several of its dimensions, because they are one.
        """
        along = [name for dim, name in zip(dims, spec.dims, strict=True) if dim == self.append_dim]
        if len(along) > 1 or set(along) & set(spec.repeated_dims):
            raise ValueError(
                f"{where}: the array has the dimension {self.append_dim!r} more than once, so that it cannot grow "
                "along it: what is beside the appended values is not known. Write all that has the dimension in the "
                "full size, with mode='w'"
            )
        start, shape, expected, given = [], [], {}, {}
        for dim, size, name, stored in zip(dims, sizes, spec.dims, spec.shape, strict=True):
            if dim == self.append_dim:
                start.append(stored)
                shape.append(stored + size)
                continue
            first, stop, _ = self.region.get(dim, slice(None)).indices(stored)
            expected[name], given[name] = max(stop - first, 0), size
            start.append(first)
            shape.append(stored)
        if expected != given:
            beyond = [
                f"the region {name}={part.start}:{part.stop} goes beyond its {stored} elements along {name!r}"
                for name, part, stored in zip(dims, map(self.region.get, dims), spec.shape, strict=True)
                if part is not None and max(part.start or 0, part.stop or 0) > stored
            ]
            raise ValueError(
                f"{where} already exists with different dimension sizes: {expected} != {given}"
                f"{': ' if beyond else ''}{', '.join(beyond)}. Only append_dim (here "
                f"{self.append_dim!r}) changes the size of a dimension; region writes to a part of it"
            )
        return tuple(start), tuple(shape)


def chosen_mode(mode: Mode | None, append_dim: Hashable | None, region: object | None) -> Mode:
    """The mode, where the user leaves it to the other arguments. Raises ValueError if they do not go together."""
    if mode is None:
        return "a" if append_dim is not None else "r+" if region is not None else "w"
    if append_dim is not None and mode != "a":
        raise ValueError(f"cannot set append_dim unless mode='a' or mode=None, not {mode!r}")
    if region is not None and mode not in ("a", "r+"):
        raise ValueError(f"cannot set region unless mode='a', mode='r+' or mode=None, not {mode!r}")
    return mode


def checked_region(
    dataset: Dataset, region: object, *, append_dim: str | None, where: str, stored: StoredVariable
) -> tuple[Dataset, Region]:
    """The region as slices, those that say "auto" found by coordinates; and the dataset without its indexes.

    The rules and their messages are those of `Dataset.to_zarr`. Raises TypeError, ValueError, and KeyError for a value
    of a coordinate that the file does not have.
    """
    if region == "auto":
        region = dict.fromkeys(dataset.dims, "auto")
    if not isinstance(region, Mapping):
        raise TypeError(f"{where}: region must be a dict of slices, or 'auto', got {type(region).__name__}")
    found: dict[str, slice] = {}
    for dim, part in region.items():
        if dim not in dataset.dims:
            raise ValueError(
                f"{where}: all keys in region are not in Dataset dimensions, got {list(region)} and "
                f"{list(dataset.dims)}"
            )
        if isinstance(part, str) and part == "auto":
            part = _region_of(dataset, str(dim), where, stored)
        if not isinstance(part, slice):
            raise TypeError(f"{where}: all values in region must be slice objects (or 'auto'), got region={region}")
        if part.step not in (1, None):
            raise ValueError(f"{where}: step on all slices in region must be 1 or None, got region={region}")
        try:
            found[str(dim)] = slice(*(None if end is None else operator.index(end) for end in (part.start, part.stop)))
        except TypeError:
            raise TypeError(
                f"{where}: slices in region must have integers, which count elements, got region={region}. "
                f"{{{str(dim)!r}: 'auto'}} finds values of a coordinate"
            ) from None
    if append_dim is not None and append_dim in found:
        raise ValueError(
            f"{where}: cannot list the same dimension in both append_dim and region, got {append_dim!r} in both"
        )
    within = {*found, append_dim}
    outside = [name for name, variable in dataset.variables.items() if not within & set(map(str, variable.dims))]
    if found and outside:
        raise ValueError(
            f"{where}: when setting region, all variables in the dataset to write must have at least one dimension in "
            f"common with the region's dimensions {list(found)}, but that is not the case for some variables here. To "
            f"drop these variables from this dataset, write: .drop_vars({outside!r})"
        )
    kept = [name for name in dataset.indexes if append_dim not in dataset.variables[name].dims]
    return dataset.drop_vars(kept), found  # a region never changes what the dimensions mean


def _region_of(dataset: Dataset, dim: str, where: str, stored: StoredVariable) -> slice:
    """Where the file has the values of the dataset's coordinate `dim`."""
    if dim not in dataset.variables:
        return slice(0, dataset.sizes[dim])
    variable = stored(dim)
    if variable is None or variable.dims != (dim,):
        raise KeyError(
            f"{where}: region='auto' needs the coordinate {dim!r} in the file, and there is none. Give a slice"
        )
    index = decoded(variable, dataset)
    if not index.is_unique:
        raise ValueError(
            f"{where}: coordinate {dim!r} of the file has some value more than once, so that region='auto' cannot tell "
            "where to write. Give a slice"
        )
    wanted = _index(dataset[dim].values)
    if not wanted.is_unique:
        raise ValueError(
            f"{where}: coordinate {dim!r} of the new values has {wanted[wanted.duplicated()][0]!r} more than once, so "
            "that region='auto' cannot tell where to write. Give a slice, or drop duplicates: "
            f".drop_duplicates({dim!r})"
        )
    places = index.get_indexer(wanted)
    if (places == -1).any():
        missing = dataset[dim].values[places == -1]
        raise KeyError(
            f"{where}: not all values of coordinate {dim!r} in the new array were found in the file ({missing[:3]} "
            "...). A region changes no coordinates; append_dim adds to one"
        )
    if (np.diff(places) != 1).any():
        raise ValueError(
            f"{where}: the auto-detected region of coordinate {dim!r} had non-contiguous indices. A region must be a "
            f"contiguous part of what the file has, in its order: .sortby({dim!r}) may help, or one write for each part"
        )
    return slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, 0)


def decoded(variable: Variable, like: Dataset) -> pd.Index:
    """The values of a coordinate in the file, with times, durations and numbers as the dataset has them."""
    (dim,) = variable.dims
    index = like.indexes.get(dim)
    dtype: Any = like.variables[dim].dtype if dim in like.variables else None
    kind = dtype.kind if isinstance(dtype, np.dtype) else ""
    unit: Any = np.datetime_data(dtype)[0] if kind in ("m", "M") else "ns"
    values = conventions.decode_cf_variable(
        dim,
        variable,
        concat_characters=False,  # of one dimension, and so single bytes
        decode_times=CFDatetimeCoder(use_cftime=True if isinstance(index, CFTimeIndex) else None, time_unit=unit),
        decode_timedelta=CFTimedeltaCoder(time_unit=unit) if kind == "m" else False,  # units="hours" may be a number's
    ).values
    return _index(np.asarray(values))


def _index(values: np.ndarray) -> pd.Index:
    """An index of any values: pandas has none of numbers in the other byte order, nor of float16."""
    if values.dtype.kind not in "iufc":
        return pd.Index(values)
    native = values.astype(values.dtype.newbyteorder("="), copy=False)
    return pd.Index(native.astype("f4") if native.dtype == "f2" else native)


def check_same_coordinate(dataset: Dataset, dim: str, where: str, stored: StoredVariable) -> None:
    """Raise ValueError if the file says something else of a dimension than the dataset that is appended."""
    variable = stored(dim)
    if variable is None or variable.dims != (dim,) or dim not in dataset.indexes:
        return
    old, new = decoded(variable, dataset), dataset.indexes[dim]
    if len(old) == len(new) and not old.equals(new) and not _close(old, new):
        raise ValueError(
            f"{where}: coordinate {dim!r} has other values than in the file, so that appended values would belong to "
            "other places than those before them. Reindex the dataset like the file, or drop the coordinate from it"
        )


def _close(old: pd.Index, new: pd.Index) -> bool:
    """Whether numbers are equal but for what packing them rounded away."""
    if old.dtype.kind not in "iuf" or new.dtype.kind not in "iuf":
        return False
    return bool(np.allclose(old.to_numpy("f8"), new.to_numpy("f8"), rtol=1e-6, atol=0, equal_nan=True))


def warn_if_not_continued(dataset: Dataset, dim: str, where: str, stored: StoredVariable) -> None:
    """Warn if the coordinate in the file rises or falls, and the appended values do not go on with that."""
    variable = stored(dim)
    if variable is None or variable.dims != (dim,) or dim not in dataset.indexes:
        return
    new = dataset.indexes[dim]
    last = decoded(variable[max(0, variable.size - 2) :], dataset)
    both = _joined(last, new)
    goes_on = both is not None and (both.is_monotonic_increasing or both.is_monotonic_decreasing) and both.is_unique
    if len(last) == 2 and goes_on:
        return  # whatever those before do, so that a long coordinate need not be read for each append
    old = decoded(variable[max(0, variable.size - _COMPARED) :], dataset)
    if not len(old) or not len(new):
        return
    for word, monotonic in (("rise", "is_monotonic_increasing"), ("fall", "is_monotonic_decreasing")):
        if not getattr(old, monotonic):
            continue
        both = _joined(old[-1:], new)
        if both is not None and getattr(both, monotonic) and both.is_unique:
            return
        if len(old) > 1 and old[0] != old[-1]:
            warn(
                f"{where}: the values of {dim!r} {word} in the file, up to {old[-1]!s}; those that are appended, from "
                f"{new[0]!s} to {new[-1]!s}, do not continue that"
            )
            return
    if len(old) == 1 or old[0] == old[-1]:
        both = _joined(old[-1:], new)
        if both is None or not both.is_unique:
            warn(
                f"{where}: the values of {dim!r} that are appended, from {new[0]!s} to {new[-1]!s}, repeat some, or "
                f"the last one in the file, {old[-1]!s}"
            )


def _joined(old: pd.Index, new: pd.Index) -> pd.Index | None:
    try:
        return old.append(new)
    except TypeError:
        return None


def checked_append_dim(append_dim: Hashable) -> str:
    """The dimension as text. Raises TypeError for names that no dimension in a file can have."""
    if not isinstance(append_dim, str):
        raise TypeError(f"append_dim must be the name of one dimension, not {append_dim!r}")
    return append_dim


def in_order_of(variable: Variable, spec: VariableSpec, named: tuple[bool, ...], where: str) -> Variable:
    """The variable with its dimensions in the order in which the array has them in the file.

    Where the file does not name a dimension (`named`), any name will do; its place in the array, as users see that,
    tells which it is. Raises ValueError if names differ.
    """
    given, dims = tuple(map(str, variable.dims)), spec.dims
    if set(given) == set(dims):
        return variable.transpose(*dims)
    if len(dims) == variable.ndim:
        own = given[::-1] if spec.reverse else given
        wanted = tuple(dim if known else name for dim, known, name in zip(dims, named, own, strict=True))
        if set(wanted) == set(given):
            return variable.transpose(*wanted)
    raise ValueError(
        f"{where} already exists with different dimension names {dims} != {given}. Rename the dimensions of the "
        "variable, or replace the array with mode='a' alone"
    )


_REAL_CALENDARS: Final = frozenset({"standard", "gregorian", "proleptic_gregorian"})


def check_calendar(variable: Variable, spec: VariableSpec, where: str) -> None:
    """Raise ValueError if times of one calendar would be stored under another."""
    stored = spec.attributes.get("calendar")
    if not isinstance(stored, str) or not variable.size:
        return
    is_time = variable.dtype.kind == "M" or (variable.dtype.kind == "O" and _contains_cftime_datetimes(variable))
    if not is_time:
        return
    own = "proleptic_gregorian" if variable.dtype.kind == "M" else infer_calendar_name(variable.data)
    if own != stored.lower() and not {own, stored.lower()} <= _REAL_CALENDARS:
        raise ValueError(
            f"{where} is stored with times of the calendar {stored!r}, those to write have {own!r}. Convert them with "
            "convert_calendar()"
        )


def same_units(stored: object, coded: object) -> bool:
    """Whether two CF units of times mean the same; xarray spells them in its own way."""
    return _spelled(stored) == _spelled(coded)


def _spelled(units: object) -> object:
    if not isinstance(units, str):
        return units
    unit, since, reference = (part.strip() for part in units.partition(" since "))
    unit = unit.lower().rstrip("s")
    try:
        when: object = pd.Timestamp(reference) if since else ""
    except ValueError:  # no date of pandas' calendar
        when = reference
    return unit, when
