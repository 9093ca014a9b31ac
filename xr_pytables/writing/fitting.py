"""Numbers into the form in which an array stores them, if it can hold them: for each block before it is encoded.

NumPy casts without a word: 400 K in 16 bits of hundredths become -255 K. A `Packing` says how values are stored; the
smallest and the largest of a block tell whether it can hold all. Used by the plan for values in memory, and by Dask's
tasks, wherever they run. Knows neither files nor xarray.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_Array = NDArray[Any]


@dataclass(frozen=True)
class Packing:
    """How numbers are stored."""

    dtype: np.dtype[Any]
    """Of the stored elements; for those marked with CF's `_Unsigned`, as the reader takes them."""
    scale_factor: float | None = None
    """Stored is `(value - add_offset) / scale_factor`; None and None: the value."""
    add_offset: float | None = None
    fill: float | None = None
    """Stored for missing values (NaN); None if they have no form."""
    exact: bool = False
    """Whether integers must come back as they were. (Others may lose digits, as floats do.)"""
    truth: bool = False
    """The elements mean true or false."""
    members: tuple[int, ...] = ()
    """Of an enumeration; () for what is none."""
    way_out: str = ""
    """What the user can do, as a sentence."""

    @property
    def is_packed(self) -> bool:
        """Whether values are scaled or moved."""
        return self.scale_factor is not None or self.add_offset is not None

    def takes_all(self, dtype: np.dtype[Any]) -> bool:
        """Whether no value of a dtype can fail to have a form."""
        hides = self.dtype.itemsize == 8 and self.fill is not None and self.dtype.kind in "iu"  # see `_near_fill`
        plain = not (self.is_packed or self.truth or self.members or hides)
        exact = not self.exact or dtype.kind not in "iu" or self.dtype.kind in "iu"
        return plain and exact and np.can_cast(dtype, self.dtype, "safe")

    def __str__(self) -> str:
        words = {"scale_factor": self.scale_factor, "add_offset": self.add_offset}
        told = " and ".join(f"{name}={value}" for name, value in words.items() if value is not None)
        return f"{self.dtype.newbyteorder('=')}{f' with {told}' if told else ''}"


def checked(values: _Array, form: Packing, label: str) -> _Array:
    """`values` as they are. Raises ValueError, beginning with `label`, if the form cannot hold one of them."""
    reason = why_not(values, form)
    if reason is not None:
        raise ValueError(f"{label}: {reason}. {form.way_out}".rstrip())
    return values


def packed(values: _Array, form: Packing, label: str) -> _Array:
    """Numbers as the integers that are stored: moved, scaled, rounded, and the fill value for NaN.

    In pieces that stay in the processor's cache, which is far faster than one step after the other for all. Raises
    ValueError, beginning with `label`, if the form cannot hold one of them.
    """
    out = np.empty(values.shape, form.dtype)
    for piece, into in zip(_pieces(values), _pieces(out), strict=True):
        reason = _pack(piece, form, into)
        if reason is not None:
            raise ValueError(f"{label}: {reason}. {form.way_out}".rstrip())
    return out


def packable(values: _Array, form: Packing, label: str) -> _Array:
    """`values` as they are, if `packed` has no objection to them."""
    packed(values, form, label)
    return values


def _pieces(values: _Array) -> Iterator[_Array]:
    """The array as some views of it, one for each so many rows."""
    rows = values if values.ndim else values.reshape(1)
    step = max(1, _IN_CACHE // max(rows[:1].size, 1))
    for start in range(0, len(rows) if rows.size else 0, step):
        yield rows[start : start + step]


_IN_CACHE: Final = 2**15
"""Elements."""


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def _pack(values: _Array, form: Packing, out: _Array) -> str | None:
    numbers = values.astype(np.result_type(values.dtype, "f8"))
    if form.add_offset is not None:
        numbers -= form.add_offset
    if form.scale_factor is not None:
        numbers /= form.scale_factor
    np.rint(numbers, out=numbers)
    low, high = numbers.min(), numbers.max()  # far faster than fmin and fmax, and NaN if there is one
    has_missing = bool(np.isnan(low))
    if has_missing:
        low, high = np.fmin.reduce(numbers, axis=None), np.fmax.reduce(numbers, axis=None)
    limits = np.iinfo(form.dtype)
    if not (np.isnan(low) or (_is_within(low, limits) and _is_within(high, limits))):
        outside = low if not _is_within(low, limits) else high
        return f"{values[numbers == outside][0]} does not fit: {form} holds {_range(form)}"
    if form.exact and not form.is_packed and (values != numbers)[~np.isnan(values)].any():
        broken = values[(values != numbers) & ~np.isnan(values)][0]
        return f"{broken} is no integer, and {form} holds nothing else"
    if form.fill is not None and low <= form.fill <= high:
        taken = numbers == form.fill
        if not form.is_packed:  # the fill value itself means what is missing
            taken &= values != form.fill
        reason = _taken_for_missing(values, taken, form)
        if reason is not None:
            return reason
    if not has_missing:
        out[...] = numbers
        return None
    if form.fill is None:
        return f"NaN has no form in {form} without a _FillValue"
    missing = np.isnan(numbers)
    numbers[missing] = 0
    out[...] = numbers
    out[missing] = form.fill
    return None


def _is_within(number: Any, limits: Any) -> bool:
    return bool(np.isfinite(number)) and limits.min <= int(number) <= limits.max


def _range(form: Packing) -> str:
    limits = np.iinfo(form.dtype)
    if not form.is_packed:
        return f"{limits.min} to {limits.max}"
    scale = 1.0 if form.scale_factor is None else form.scale_factor
    offset = 0.0 if form.add_offset is None else form.add_offset
    low, high = sorted((limits.min * scale + offset, limits.max * scale + offset))
    return f"{low:.6g} to {high:.6g}"


def as_announced(block: Any, part: tuple[slice, ...], dtype: np.dtype[Any], label: str) -> _Array:
    """A block of Dask in the dtype that was announced. Raises ValueError if it is no such part, and as `cast` does."""
    shape = tuple(side.stop - side.start for side in part)
    if np.shape(block) != shape:
        raise ValueError(f"{label}: a block of shape {np.shape(block)} came where {shape} was announced")
    if np.ma.is_masked(block):
        raise ValueError(
            f"{label}: a block with masked elements came where plain ones were announced. Fill them with NaN: "
            "data.map_blocks(np.ma.filled, np.nan)"
        )
    return cast(np.asarray(block), dtype, label)


def cast(values: _Array, dtype: np.dtype[Any], label: str) -> _Array:
    """`values` as `dtype`, in either byte order; objects and records stay as they are.

    For blocks of Dask, parts and rows, which need not be what was announced. Raises ValueError if the dtype cannot hold
    one of the values, TypeError for values of another kind.
    """
    if dtype.kind not in f"{_KINDS}mM" or (dtype.kind in "mM" and values.dtype.kind == dtype.kind):
        return values
    if values.dtype.kind not in _KINDS or dtype.kind in "mM":
        raise TypeError(f"{label}: a block of dtype {values.dtype} came where {dtype} was announced")
    if values.dtype.newbyteorder("=") == dtype.newbyteorder("="):
        return values
    way_out = "That dtype was announced; announce one that holds all values"
    form = Packing(dtype, exact=True, truth=dtype.kind == "b", way_out=way_out)
    if values.dtype.kind == "f" and dtype.kind in "iu":
        return packed(values, form, label)
    return checked(values, form, label).astype(dtype)


_KINDS: Final = "biufcS"


def why_not(values: _Array, form: Packing) -> str | None:
    """The reason why numbers have no form, naming one of them; None if all have one."""
    if not values.size or form.takes_all(values.dtype):
        return None
    if "S" in (values.dtype.kind, form.dtype.kind):
        return _why_not_bytes(values, form)
    if values.dtype.kind == "c":
        return _why_not_complex(values, form)
    if form.truth:
        others = values[(values != 0) & (values != 1)]
        return f"{others[0]} is neither true nor false, which is what the array means" if others.size else None
    if form.members:
        if form.fill is not None and values.dtype.kind == "f":
            values = values[~np.isnan(values)]
        others = values[~np.isin(values, np.array(form.members))]
        return f"{others[0]} is no member of the enumeration {sorted(form.members)}" if others.size else None
    low, high = _extremes(values)
    if low != low:
        return None
    if form.dtype.kind in "iu":
        limits = np.iinfo(form.dtype)
        outside = [value for value in (low, high) if not _is_within(value, limits)]
        return f"{outside[0]} does not fit: {form} holds {_range(form)}" if outside else _near_fill(values, form)
    return _why_not_float(values, low, high, form)


def _extremes(values: _Array) -> tuple[Any, Any]:
    """The smallest and the largest value but for NaN; NaN if there is no other."""
    if values.dtype.kind == "b":
        return int(values.min()), int(values.max())
    ends = [(np.fmin.reduce(piece, axis=None), np.fmax.reduce(piece, axis=None)) for piece in _pieces(values)]
    return np.fmin.reduce([low for low, _ in ends]), np.fmax.reduce([high for _, high in ends])


def _near_fill(values: _Array, form: Packing) -> str | None:
    """Integers that read as missing: readers compare them with the fill value as floats, which have 53 bits."""
    if form.fill is None or form.dtype.itemsize < 8:
        return None
    taken = values[(values.astype("f8") == float(form.fill)) & (values != form.fill)]
    return f"{taken[0]} would read as missing: as float64 it is the _FillValue {form.fill}" if taken.size else None


def _why_not_float(values: _Array, low: Any, high: Any, form: Packing) -> str | None:
    """Finite values that become infinite or the fill value; integers that would lose digits."""
    if form.exact and not form.is_packed and values.dtype.kind in "iu":
        digits = np.finfo(form.dtype).nmant + 1
        if int(low) >= -(2**digits) and int(high) <= 2**digits:
            return None
        with np.errstate(over="ignore"):
            kept = [(value, form.dtype.type(value)) for value in values.reshape(-1).tolist()]
        lost = [value for value, stored in kept if not np.isfinite(stored) or value != int(stored)]
        return f"{lost[0]} loses digits in {form}" if lost else None
    with np.errstate(over="ignore", invalid="ignore"):
        ends = [_stored(end, form) for end in (low, high)]
        if not all(np.isfinite(end) for end in (low, high, *ends)):
            lost = values[np.isfinite(values) & ~np.isfinite(_stored(values, form))].tolist()
            if lost:
                return f"{lost[0]} does not fit: {form} ends at {np.finfo(form.dtype).max:.6g}"
        if form.fill is None or not min(ends) <= form.fill <= max(ends):
            return None
        taken = _stored(values, form) == form.dtype.type(form.fill)
    if not form.is_packed:  # the fill value itself means what is missing
        taken &= values != form.fill
    return _taken_for_missing(values, taken, form)


def _taken_for_missing(values: _Array, taken: _Array, form: Packing) -> str | None:
    if not taken.any():
        return None
    return f"{values[taken][0]} would be stored as {form.fill}, which is the _FillValue and reads as missing"


def _stored(values: Any, form: Packing) -> Any:
    numbers = np.asarray(values)
    if form.is_packed:
        offset = 0.0 if form.add_offset is None else form.add_offset
        numbers = (numbers - offset) / (1.0 if form.scale_factor is None else form.scale_factor)
    return numbers.astype(form.dtype)


def _why_not_complex(values: _Array, form: Packing) -> str | None:
    if form.dtype.kind != "c":
        return f"complex values have no form in {form}"
    part = Packing(np.dtype(f"f{form.dtype.itemsize // 2}"))
    return why_not(values.real, part) or why_not(values.imag, part)


def _why_not_bytes(values: _Array, form: Packing) -> str | None:
    if values.dtype.kind != "S" or form.dtype.kind != "S":
        return f"values of dtype {values.dtype} have no form in {form}"
    longest = max(values.reshape(-1).tolist(), key=len)
    return f"{longest!r} does not fit {form}" if len(longest) > form.dtype.itemsize else None


_UNSIGNED: Final = {"true": "u", "false": "i"}


def as_read(dtype: np.dtype[Any], unsigned: object) -> np.dtype[Any]:
    """The dtype that a reader makes of stored integers marked with `_Unsigned` (netCDF best practices)."""
    kind = _UNSIGNED.get(str(unsigned).lower()) if dtype.kind in "iu" else None
    return dtype if kind is None else np.dtype(f"{kind}{dtype.itemsize}")
