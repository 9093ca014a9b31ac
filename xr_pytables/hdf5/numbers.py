"""Numbers whose stored bytes NumPy has no dtype for, made native as HDF5 makes them.

Integers of odd sizes, precisions and offsets; floats of any layout: VAX, bfloat16, 8-bit, 80-bit in any byte order.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

ByteOrder = Literal["little", "big", "vax"]


class IntegerBits(NamedTuple):
    """Where the bits of an integer are in its stored bytes; the lowest of the bytes, put in order, is bit 0."""

    size: int
    """Stored bytes."""
    order: ByteOrder
    offset: int
    precision: int
    """Number of bits."""
    signed: bool


class FloatBits(NamedTuple):
    """Where sign, exponent and mantissa are in the stored bytes of a float, counted as in `IntegerBits`."""

    size: int
    order: ByteOrder
    sign: int
    exponent: int
    exponent_bits: int
    mantissa: int
    mantissa_bits: int
    bias: int
    implied: bool
    """Whether the mantissa's highest bit is not stored; else it is, as in the 80-bit floats of x87."""


def _in_order(data: NDArray[np.uint8], order: ByteOrder) -> NDArray[np.uint8]:
    """Rows of bytes with the lowest first."""
    if order == "little":
        return data
    if order == "big":
        return data[:, ::-1]
    return data.reshape(len(data), -1, 2)[:, ::-1].reshape(data.shape)  # VAX: words backwards, their bytes forwards


def _extract(data: NDArray[np.uint8], first: int, count: int) -> NDArray[np.uint64]:
    """`count` bits (64 at most) from bit `first` of each row."""
    found = np.zeros(len(data), np.uint64)
    for byte in range(first // 8, (first + count + 7) // 8):
        part, shift = data[:, byte].astype(np.uint64), 8 * byte - first
        found |= part << np.uint64(shift) if shift >= 0 else part >> np.uint64(-shift)
    return found if count == 64 else found & np.uint64((1 << count) - 1)


def integers(data: NDArray[np.uint8], bits: IntegerBits) -> NDArray[Any]:
    """Rows of `bits.size` stored bytes as 64-bit integers."""
    found = _extract(_in_order(data, bits.order), bits.offset, bits.precision)
    if not bits.signed:
        return found
    unused = np.int64(64 - bits.precision)
    return found.view(np.int64) << unused >> unused


def floats(data: NDArray[np.uint8], bits: FloatBits, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Rows of `bits.size` stored bytes as floats.

    (-1)^sign * mantissa * 2^(exponent - bias); an exponent of ones is infinity, or no number.
    """
    data = _in_order(data, bits.order)
    exponent = _extract(data, bits.exponent, bits.exponent_bits).astype(np.int64)
    low_bits = max(bits.mantissa_bits - 64, 0)
    high = _extract(data, bits.mantissa + low_bits, bits.mantissa_bits - low_bits)
    low = _extract(data, bits.mantissa, low_bits)
    wide = np.promote_types("f8", dtype)
    tiny = exponent == 0
    power = np.where(tiny, 1, exponent) - bits.bias
    point = bits.mantissa_bits - (0 if bits.implied else 1)  # bits of the mantissa behind the point
    mantissa = np.ldexp(high.astype(wide), low_bits - point) + np.ldexp(low.astype(wide), -point)
    if bits.implied:
        mantissa += ~tiny
    with np.errstate(over="ignore", under="ignore"):
        value = np.ldexp(mantissa, np.clip(power, -(2**30), 2**30).astype(np.int32))
        special = exponent == (1 << bits.exponent_bits) - 1
        fraction = high if bits.implied else high & np.uint64((1 << max(bits.mantissa_bits - low_bits - 1, 0)) - 1)
        value[special] = np.where((fraction | low)[special] == 0, np.inf, np.nan)
        negative = _extract(data, bits.sign, 1).astype(bool)
        signed: NDArray[Any] = np.where(negative, -value, value)
        return signed.astype(dtype)
