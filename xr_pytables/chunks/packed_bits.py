"""Undoing HDF5's own packing filters in NumPy: N-bit, which leaves out bits that a type does not use, and scale-offset.

Both store the bits of a number from the highest to the lowest, one number after the other. Knows client data and bytes,
nothing of files; `codecs` calls it. Data that are cut off, or client data that contradict them, raise ValueError.

Tested in `tests/chunks/test_other_filters.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

_AT_ONCE: Final = 1 << 14  # numbers that are unpacked together, in the processor's cache
_PIECE: Final = 32  # bits: with the 7 before them in the first byte they fit into a word of 64
_MAX_DEPTH: Final = 32


def _windows(data: Bytes) -> NDArray[np.uint64]:
    """The 8 bytes from each byte of the data on, as big-endian words."""
    padded = np.zeros(data.size + 8, np.uint8)
    padded[: data.size] = data
    windows: NDArray[np.uint64] = np.ndarray((data.size + 1,), ">u8", padded, strides=(1,))
    return windows


def _bits(windows: NDArray[np.uint64], starts: NDArray[np.int64], count: int) -> NDArray[np.uint64]:
    """`count` bits, `_PIECE` at most, from each of the positions in bits."""
    words: NDArray[np.uint64] = windows[starts >> 3].astype(np.uint64)
    words <<= (starts & 7).astype(np.uint64)
    words >>= np.uint64(64 - count)
    return words


# ---------------------------------------------------------------------------------------------------------------------
# N-bit

_ATOMIC, _ARRAY, _COMPOUND, _NO_OPERATION = 1, 2, 3, 4


@dataclass(frozen=True)
class _Piece:
    """Some neighbouring bits of a number."""

    start: int
    """In the packed element, in bits."""
    count: int
    shift: int
    """How far up in the lowest of its bytes."""
    places: tuple[int, ...]
    """Of its bytes in the unpacked element, from the lowest to the highest."""


def unpack_nbit(data: Bytes, values: Sequence[int], out: Bytes) -> Bytes:
    """Undo the N-bit filter. `values` are its client data: lengths, and the type that was packed (H5Z_NBIT)."""
    if len(values) < 5:
        raise ValueError(f"the N-bit filter has only {len(values)} client data")
    if values[1]:  # nothing was to be gained
        return data
    count, kind = values[2], values[3]
    place, size = 3, values[4]
    if kind == _ARRAY:  # many elements of its base
        place = 5
        size = values[6] if len(values) > 6 else 0
        if not size or values[4] % size:
            raise ValueError(f"the N-bit filter has arrays of {values[4]} bytes of elements of {size}")
        count *= values[4] // size
    pieces, length, end = _pieces(values, place, 0, 0, 0)
    del end
    if count * size != out.size or count * length > 8 * data.size:
        raise ValueError(f"{count} elements of {length} bits and {size} bytes are not {data.size} and {out.size} bytes")
    windows, elements = _windows(data), out.reshape(count, size)
    elements[...] = 0
    for begin in range(0, count, _AT_ONCE):
        part = elements[begin : begin + _AT_ONCE]
        starts = np.arange(begin, begin + len(part)) * length
        for piece in pieces:
            word = _bits(windows, starts + piece.start, piece.count) << np.uint64(piece.shift)
            octets = word.astype("<u8").view(np.uint8).reshape(-1, 8)
            for i, at in enumerate(piece.places):
                part[:, at] = octets[:, i]
    return out


def _pieces(values: Sequence[int], place: int, offset: int, start: int, depth: int) -> tuple[list[_Piece], int, int]:
    """The pieces of the type that is described from `place` on, of an element at byte `offset` and packed bit `start`.

    Also its length in bits, and the place behind its description.
    """
    if depth > _MAX_DEPTH:
        raise ValueError("the types of the N-bit filter are nested too deeply")
    try:
        kind, size = values[place], values[place + 1]
        if kind == _ATOMIC:
            order, precision, low = values[place + 2 : place + 5]
            return list(_number(size, order, precision, low, offset, start)), precision, place + 5
        if kind == _NO_OPERATION:
            pieces = [_Piece(start + 8 * i, 8, 0, (offset + i,)) for i in range(size)]
            return pieces, 8 * size, place + 2
        if kind == _ARRAY:
            return _array(values, place, offset, start, depth)
        if kind == _COMPOUND:
            return _compound(values, place, offset, start, depth)
    except IndexError:
        raise ValueError("the client data of the N-bit filter are cut off") from None
    raise ValueError(f"the N-bit filter has a type of class {kind}")


def _number(size: int, order: int, precision: int, low: int, offset: int, start: int) -> Iterator[_Piece]:
    """The bits of a number, `precision` of them from bit `low`, cut where bytes begin."""
    if order > 1:
        raise ValueError(f"the N-bit filter has numbers of byte order {order}")
    if not 0 < precision <= precision + low <= 8 * size:
        raise ValueError(f"the N-bit filter has {precision} bits from bit {low} on of {size} bytes")
    bit, end = low, low + precision
    while bit < end:
        stop = min((bit // 8 + _PIECE // 8) * 8, end)
        octets = range(bit // 8, -(-stop // 8))
        places = tuple(offset + (size - 1 - octet if order else octet) for octet in octets)
        yield _Piece(start + end - stop, stop - bit, bit % 8, places)
        bit = stop


def _array(values: Sequence[int], place: int, offset: int, start: int, depth: int) -> tuple[list[_Piece], int, int]:
    size, base = values[place + 1], values[place + 3]
    if not base or size % base:
        raise ValueError(f"the N-bit filter has arrays of {size} bytes of elements of {base}")
    pieces, length, end = list[_Piece](), 0, place + 2
    for i in range(size // base):
        found, bits, end = _pieces(values, place + 2, offset + i * base, start + length, depth + 1)
        pieces += found
        length += bits
    return pieces, length, end


def _compound(values: Sequence[int], place: int, offset: int, start: int, depth: int) -> tuple[list[_Piece], int, int]:
    size, members = values[place + 1 : place + 3]
    pieces, length, end = list[_Piece](), 0, place + 3
    for _ in range(members):
        at = values[end]
        if at + values[end + 2] > size:
            raise ValueError(f"the N-bit filter has a member at {at} of a compound of {size} bytes")
        found, bits, end = _pieces(values, end + 1, offset + at, start + length, depth + 1)
        pieces += found
        length += bits
    return pieces, length, end


# ---------------------------------------------------------------------------------------------------------------------
# scale-offset

_FLOAT_DSCALE, _FLOAT_ESCALE, _INTEGER = 0, 1, 2
_HEADER: Final = 21  # bytes: number of bits, size of the smallest value, and that value with room to spare


@dataclass(frozen=True)
class _ScaleOffset:
    """The client data of the filter (H5Z_SCALEOFFSET)."""

    scale: int
    """Of floats the digits behind the point that are kept, of integers the bits; 0: as many as they need."""
    count: int
    dtype: np.dtype[Any]
    """Of the elements in the file, byte order included."""
    fill: bytes | None
    """The fill value, little-endian; None if it is not defined."""

    @classmethod
    def of(cls, values: Sequence[int]) -> _ScaleOffset:
        if len(values) < 8:
            raise ValueError(f"the scale-offset filter has only {len(values)} client data")
        kind, scale, count, is_float, size, signed, order, filled = values[:8]
        if kind not in (_FLOAT_DSCALE, _INTEGER) or bool(is_float) != (kind == _FLOAT_DSCALE):
            raise ValueError(f"a scale-offset filter of kind {kind}")
        if size not in ((4, 8) if is_float else (1, 2, 4, 8)):
            raise ValueError(f"a scale-offset filter for numbers of {size} bytes")
        if max(is_float, signed, order, filled) > 1:
            raise ValueError(f"client data of the scale-offset filter that are no flags: {values[3:8]}")
        letter = "f" if is_float else "i" if signed else "u"
        stored = struct.pack(f"<{len(values) - 8}I", *values[8:])[:size]
        if filled and len(stored) < size:
            raise ValueError("the fill value of the scale-offset filter is cut off")
        dtype = np.dtype(f"{'>' if order else '<'}{letter}{size}")
        return cls(scale - (scale >> 31 << 32), count, dtype, stored if filled else None)


def unpack_scaleoffset(data: Bytes, values: Sequence[int], out: Bytes) -> Bytes:
    """Undo the scale-offset filter: integers, and floats of which a number of decimal digits was kept."""
    packing = _ScaleOffset.of(values)
    size = packing.dtype.itemsize
    if packing.count * size != out.size:
        raise ValueError(f"{packing.count} numbers of {size} bytes are not {out.size} bytes")
    if packing.dtype.kind != "f" and packing.scale == 8 * size:  # all bits were asked for: the filter does nothing
        return data
    if data.size < _HEADER:
        raise ValueError(f"{data.size} bytes, too few for the header of the scale-offset filter")
    bits, width = struct.unpack_from("<IB", data.data)
    if bits > 8 * size or packing.count * bits > 8 * (data.size - _HEADER):
        raise ValueError(f"{packing.count} numbers of {bits} bits in {data.size} bytes")
    target = out.view(packing.dtype)
    if bits == 8 * size:  # nothing was to be gained: as they were, but little-endian
        target[...] = data[_HEADER:][: out.size].view(packing.dtype.newbyteorder("<"))
        return out
    minimum = data[5 : 5 + min(width, 8)].tobytes().ljust(8, b"\0")
    windows = _windows(data[_HEADER:])
    for begin in range(0, packing.count, _AT_ONCE):
        part = target[begin : begin + _AT_ONCE]
        starts = np.arange(begin, begin + len(part)) * bits
        packed = _wide_bits(windows, starts, bits)
        part[...] = _offset(packed, minimum, packing)
        if packing.fill is not None and bits:
            part[packed == np.uint64((1 << bits) - 1)] = np.frombuffer(packing.fill, packing.dtype.newbyteorder("<"))[0]
    return out


def _wide_bits(windows: NDArray[np.uint64], starts: NDArray[np.int64], count: int) -> NDArray[np.uint64]:
    """As `_bits`, up to 64 bits."""
    if not count:
        return np.zeros(len(starts), np.uint64)
    if count <= _PIECE:
        return _bits(windows, starts, count)
    high = _bits(windows, starts, count - _PIECE) << np.uint64(_PIECE)
    return high | _bits(windows, starts + (count - _PIECE), _PIECE)


def _offset(packed: NDArray[np.uint64], minimum: bytes, packing: _ScaleOffset) -> NDArray[Any]:
    """The numbers that were packed as their difference from the smallest one."""
    kind = packing.dtype.newbyteorder("=")
    if kind.kind != "f":
        numbers: NDArray[Any] = (packed + np.frombuffer(minimum, "<u8")).astype(kind)  # modulo the size, as C has it
        return numbers
    smallest = np.frombuffer(minimum, kind.newbyteorder("<"), 1)[0].astype(kind)
    with np.errstate(over="ignore", invalid="ignore"):
        scaled: NDArray[Any] = packed.astype(kind) / np.power(kind.type(10), kind.type(packing.scale)) + smallest
        return scaled
