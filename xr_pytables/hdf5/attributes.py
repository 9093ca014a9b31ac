"""Attributes: the message (IV.A.2.m), where dense ones are (IV.A.2.v), and the values as stored.

Tested in `tests/hdf5/test_structures.py` and `tests/hdf5/test_oracles.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np

from .conversion import convert, referenced_addresses
from .damage import Damaged, Unsupported, check_version, decoded, taken
from .datatype import Datatype
from .metadata import UNDEFINED

MAX_ATTRIBUTE_BYTES: Final = 1 << 28


class Reference(NamedTuple):
    """An object reference: the address of an object header."""

    address: int


class Unreadable(NamedTuple):
    """An attribute that no reader here can decode, and why."""

    reason: str
    damaged: bool = False
    """Whether its bytes are wrong, or of a version of the format that is not known."""


Value = np.ndarray | list[list[Reference]] | Unreadable
"""Elements as stored: an array (0-d for one element), references, or the reason why they are not readable.

Fixed-length strings come as `S` arrays, variable-length ones as object arrays of `bytes`, variable-length rows as
object arrays of arrays; for references there is a list for each element.
"""


class RawAttribute(NamedTuple):
    """An attribute as stored."""

    value: Value | None
    """None for a null dataspace. An array may be read-only."""
    datatype: Datatype


class AttributeHead(NamedTuple):
    """What stands in an attribute message before the value."""

    name: str
    datatype: bytes
    datatype_shared: bool
    dataspace: bytes
    dataspace_shared: bool


_HEAD: Final = struct.Struct("<BBHHH").unpack_from


def data_start(body: bytes) -> int:
    """Where the value begins in an attribute message. There may be more bytes behind it."""
    version, _, name_size, type_size, space_size = _HEAD(body)
    start: int
    if version == 1:
        start = 8 + (name_size + 7 & ~7) + (type_size + 7 & ~7) + (space_size + 7 & ~7)
    else:
        check_version(version, 1, 2, 3)
        start = (9 if version == 3 else 8) + name_size + type_size + space_size
    if start > len(body):
        raise Damaged(f"an attribute whose parts have {start} bytes in a message of {len(body)}")
    return int(start)


def decode_head(head: bytes) -> AttributeHead:
    """The parts of the first `data_start` bytes of an attribute message."""
    version, flags, name_size, type_size, space_size = _HEAD(head)
    padding = 7 if version == 1 else 0
    place = 9 if version == 3 else 8
    type_at = place + (name_size + padding & ~padding)
    space_at = type_at + (type_size + padding & ~padding)
    flags = flags if version > 1 else 0
    return AttributeHead(
        decoded(head[place : place + name_size].split(b"\0")[0]),
        head[type_at : type_at + type_size],
        bool(flags & 1),
        head[space_at : space_at + space_size],
        bool(flags & 2),
    )


class AttributeInfo(NamedTuple):
    """The attribute info message: where the attributes are that are not in the header."""

    creation_order_tracked: bool
    heap: int
    """Address of the fractal heap with attribute messages; UNDEFINED if all are in the header."""
    names: int
    """Address of the v2 B-tree by the hash of the name."""


def decode_attribute_info(body: bytes) -> AttributeInfo:
    """The attribute info message."""
    check_version(body[0], 0)
    flags = body[1]
    heap, names = struct.unpack_from("<QQ", body, 2 + 2 * (flags & 1))
    return AttributeInfo(bool(flags & 1), heap, names)


HeapObject = Callable[[int, int], bytes]
"""The object of a global heap collection, by the collection's address and the object's number."""


def decode_value(datatype: Datatype, shape: tuple[int, ...], data: bytes, heap_object: HeapObject, limit: int) -> Value:
    """`data` as elements. Values of variable length may take `limit` bytes in all, those of the file for instance."""
    try:
        return _decoded_value(datatype, shape, data, heap_object, limit)
    except Unsupported as error:
        return Unreadable(str(error))


def _decoded_value(
    datatype: Datatype, shape: tuple[int, ...], data: bytes, heap_object: HeapObject, limit: int
) -> Value:
    count = 1
    for length in shape:
        count *= length
    size = count * datatype.itemsize
    if size > MAX_ATTRIBUTE_BYTES:
        return Unreadable(f"{count} elements are too many for an attribute")
    if datatype.kind == "unsupported":
        return Unreadable(datatype.reason)
    data = taken(data, 0, size)
    if datatype.kind in ("text", "vlen"):
        return _variable(datatype, shape, data, heap_object, limit)
    if datatype.dtype is None:
        return Unreadable(datatype.reason)
    if datatype.kind == "reference":
        return [[reference] for reference in _references(datatype, data)]
    values = np.frombuffer(data, datatype.stored_dtype)
    if not datatype.exact:
        values = convert(values, datatype)
    whole = shape + datatype.shape
    return values if len(whole) == 1 else values.reshape(whole)


_ADDRESS: Final = struct.Struct("<Q")
_reference = lru_cache(1024)(Reference)  # the same few dimensions again and again


def _references(datatype: Datatype, data: bytes) -> list[Reference]:
    addresses = referenced_addresses(np.frombuffer(data, datatype.stored_dtype), datatype)
    return [_reference(address) for address in addresses.tolist()]


def _variable(datatype: Datatype, shape: tuple[int, ...], data: bytes, heap_object: HeapObject, limit: int) -> Value:
    base = datatype.base
    if base is not None and (base.dtype is None or base.shape):
        return Unreadable(f"variable-length values of kind {base.kind!r} are not supported")
    rows, total, width = list[bytes](), 0, base.stored_size if base else 1
    for length, address, index in struct.iter_unpack("<IQI", data):
        if not length or address in (0, UNDEFINED):
            rows.append(b"")
            continue
        row = taken(heap_object(address, index), 0, length * width)
        total += len(row)
        if total > limit:
            raise Damaged("values of variable length have more bytes than the file")
        rows.append(row)
    whole = shape + datatype.shape
    if base is None:
        return _objects([row.split(b"\0", 1)[0] for row in rows], whole)
    if base.kind == "reference":
        if base.stored_size == _ADDRESS.size:
            return [[_reference(address) for (address,) in _ADDRESS.iter_unpack(row)] for row in rows]
        return [_references(base, row) for row in rows]
    return _objects([convert(np.frombuffer(row, base.stored_dtype), base) for row in rows], whole)


def size_of_objects(value: Value | None) -> int:
    """Bytes of the values of variable length, or of the references in them."""
    if isinstance(value, np.ndarray):
        return sum(len(one) if isinstance(one, bytes) else one.nbytes for one in value.flat)
    return sum(8 * len(row) for row in value) if isinstance(value, list) else 0


def _objects(values: list[bytes] | list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    out = np.empty(len(values), object)
    for number, value in enumerate(values):
        out[number] = value
    return out.reshape(shape)
