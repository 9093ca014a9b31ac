"""datetime64 and timedelta64 by the integers that they are: NumPy's own comparisons and differences overflow, for times
of different units and those that are far apart. (From NumPy 2.5 on that is an OverflowError.)

Tested in `tests/test_time_units.py`.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

NANOSECONDS: Final = {
    "D": 86400 * 10**9, "h": 3600 * 10**9, "m": 60 * 10**9, "s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1,
}  # fmt: skip
"""Of each of NumPy's units that xarray may meet."""
OF_WORD: Final = {
    "day": "D", "hour": "h", "minute": "m", "second": "s", "millisecond": "ms", "microsecond": "us", "nanosecond": "ns",
}  # fmt: skip
"""NumPy's units for the words of CF."""


def size_of(dtype: np.dtype[Any]) -> int:
    """Nanoseconds of the unit of a dtype."""
    return NANOSECONDS[np.datetime_data(dtype)[0]]


def are_whole(times: NDArray[Any], unit: str) -> NDArray[np.bool_]:
    """Which times are whole numbers of a unit. NaT may be either."""
    return np.asarray(times.astype("i8") % max(NANOSECONDS[unit] // size_of(times.dtype), 1) == 0)


def are_equal(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.bool_]:
    """Where times of seconds or finer units are the same. NaT is equal to nothing."""
    (seconds, rest), (others, other_rest) = _split(one), _split(other)
    return np.asarray((seconds == others) & (rest == other_rest) & ~np.isnat(one) & ~np.isnat(other))


def seconds_apart(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float64]:
    """How far times of seconds or finer units are apart; NaN for NaT."""
    (seconds, rest), (others, other_rest) = _split(one), _split(other)
    apart = np.abs(seconds.astype("f8") - others.astype("f8") + (rest - other_rest) / 1e9)
    return np.where(np.isnat(one) | np.isnat(other), np.nan, apart)


def _split(times: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Whole seconds, and nanoseconds behind them."""
    size = size_of(times.dtype)
    seconds, rest = np.divmod(times.astype("i8"), NANOSECONDS["s"] // size)
    return seconds, rest * size
