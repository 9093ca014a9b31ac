"""Stored elements as native ones, for types that NumPy cannot see in the bytes: numbers, and what is made of them.

Tested in `tests/hdf5/test_numbers.py` and `tests/model/test_odd_types.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .damage import Unsupported
from .datatype import Datatype
from .numbers import FloatBits, IntegerBits, floats, integers


def convert(stored: NDArray[Any], datatype: Datatype) -> NDArray[Any]:
    """Stored elements as `datatype.dtype`.

    `stored` has any shape and elements of `datatype.stored_size` bytes, the type's own dimensions among its own. What
    is `exact` already comes back as a view.
    """
    if datatype.dtype is None:
        raise TypeError(f"elements of kind {datatype.kind!r} have no dtype")
    if stored.dtype.itemsize != datatype.stored_size:
        raise ValueError(f"elements of {stored.dtype.itemsize} bytes, expected {datatype.stored_size}")
    if datatype.exact:
        return stored.view(datatype.dtype)
    data = np.ascontiguousarray(stored).reshape(-1).view(np.uint8).reshape(stored.size, datatype.stored_size)
    return _converted(data, datatype).reshape(stored.shape)


def _converted(data: NDArray[np.uint8], datatype: Datatype) -> NDArray[Any]:
    """Rows of stored bytes as a 1-D array of `datatype.dtype`."""
    bits, dtype = datatype.bits, datatype.dtype
    if datatype.fields:
        return _compound(data, datatype)
    if datatype.kind == "complex" and isinstance(bits, FloatBits):
        out = np.empty(len(data), dtype)
        out.real = floats(data[:, : bits.size], bits, out.real.dtype)
        out.imag = floats(data[:, bits.size :], bits, out.real.dtype)
        return out
    if isinstance(bits, FloatBits):
        return floats(data, bits, np.dtype(dtype))
    if isinstance(bits, IntegerBits):
        return integers(data, bits).astype(dtype)
    raise TypeError(f"elements of kind {datatype.kind!r} cannot be converted")


def _compound(data: NDArray[np.uint8], datatype: Datatype) -> NDArray[Any]:
    out = np.empty(len(data), datatype.dtype)
    for field in datatype.fields:
        inner = field.datatype
        part = np.ascontiguousarray(data[:, field.offset : field.offset + field.size])
        stored = part.reshape(-1).view(f"V{inner.stored_size}").reshape(len(data), *inner.shape)
        out[field.name] = convert(stored, inner)
    return out


def without_padding(values: NDArray[Any], datatype: Datatype) -> NDArray[Any]:
    """Native values without the spaces that fill strings up, if they are padded so, or what is behind the NUL that ends
    them; in the members of records, too.
    """
    if values.dtype.names:
        return _without_padding_in_members(values, datatype)
    if values.dtype.kind != "S" or datatype.padding == "null-padded":
        return values
    if datatype.space_padded:
        return np.asarray(np.char.rstrip(values, b" ")).astype(values.dtype)
    width = values.dtype.itemsize
    letters = np.ascontiguousarray(values).reshape(-1).view(np.uint8).reshape(-1, width)
    if width < 2 or not ((letters[:, :-1] == 0) & (letters[:, 1:] != 0)).any():
        return values
    ended = np.logical_or.accumulate(letters == 0, axis=1)
    return np.where(ended, np.uint8(0), letters).view(values.dtype).reshape(values.shape)


def _without_padding_in_members(records: NDArray[Any], datatype: Datatype) -> NDArray[Any]:
    changed = {}
    for field in datatype.fields:
        member = records[field.name]
        cut = without_padding(member, field.datatype)
        if cut is not member:
            changed[field.name] = cut
    if changed:
        records = records.copy()
        for name, cut in changed.items():
            records[name] = cut
    return records


_REVISED = np.dtype([("type", "u1"), ("flags", "u1"), ("size", "u1"), ("address", "<u8"), ("rest", "V7")])
"""A revised reference to an object of the same file (VIII.B): a header, and a token, which is the address."""


def referenced_addresses(stored: NDArray[Any], datatype: Datatype) -> NDArray[np.uint64]:
    """The addresses of the headers that stored object references lead to; 0 for references to nothing.

    Raises Unsupported for references to something else, or to another file.
    """
    if datatype.stored_size == 8:
        return stored.view("<u8")
    if datatype.stored_size != _REVISED.itemsize:
        raise Unsupported("region references are not supported")
    revised = stored.view(_REVISED)
    used = revised["type"] != 0
    if (used & ((revised["type"] != 2) | (revised["flags"] != 0) | (revised["size"] != 8))).any():
        raise Unsupported("references to objects of other files are not supported")
    return np.where(used, revised["address"], np.uint64(0))
