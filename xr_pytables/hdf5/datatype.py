"""The datatype message (IV.A.2.d): what one element is, in the file and for NumPy.

A `Datatype` is a plain value. Types that NumPy cannot see in the stored bytes carry the layout of their bits, and
`conversion.convert` makes native numbers of them.

Tested in `tests/hdf5/test_structures.py` and `tests/hdf5/test_oracles.py`.
"""

from __future__ import annotations

import math
import re
import struct
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .damage import Damaged, Unsupported, bytes_needed, check_version, decoded, taken, terminated
from .numbers import ByteOrder, FloatBits, IntegerBits, integers

Kind = Literal[
    "integer", "float", "complex", "bool", "bitfield", "string", "text", "enum", "time", "compound", "opaque",
    "reference", "vlen", "unsupported",
]  # fmt: skip
Padding = Literal["null-terminated", "null-padded", "space-padded"]

MAX_NESTING: Final = 32
"""Types within types: more would only serve to exhaust Python's stack."""
MAX_RANK: Final = 32
"""Dimensions of an array type. HDF5 allows as many for the dataset, and NumPy 64 for both."""
MAX_ELEMENT_BYTES: Final = 2**31 - 1
"""What NumPy allows."""
DESCRIPTOR_BYTES: Final = 16
"""Of a variable-length value in the file: length (4), address of a heap collection (8), number of its object (4)."""


class Field(NamedTuple):
    """One member of a compound."""

    name: str
    offset: int
    """Bytes from the beginning of the compound in the file."""
    size: int
    """Bytes in the file, array dimensions included."""
    datatype: Datatype


@dataclass(frozen=True, slots=True)
class Datatype:
    """What one element of a dataset or attribute is."""

    kind: Kind
    dtype: np.dtype | None
    """The element as NumPy sees it: of the stored bytes (byte order and padding kept) if `exact`, else the native one
    that `conversion.convert` makes. None for variable-length and unsupported types. Never has a shape: see `shape`."""
    stored_size: int
    """Bytes of one element in the file, its `shape` not counted."""
    shape: tuple[int, ...] = ()
    """Shape of an HDF5 array type (PyTables: of a multi-dimensional atom); () for others."""
    exact: bool = True
    """False where the stored bytes cannot be viewed as `dtype`: they must be converted."""
    bits: IntegerBits | FloatBits | None = None
    """Of numbers that are not `exact`; for a complex number, of each of its parts."""
    utf8: bool = False
    """The HDF5 character set of strings."""
    padding: Padding = "null-terminated"
    """Of strings."""
    tag: str = ""
    """What the writer of opaque bytes says they are."""
    members: tuple[tuple[str, int], ...] = ()
    """Names and values of an enumeration, in the order of the file."""
    base: Datatype | None = None
    """Element type of a `vlen`."""
    reason: str = ""
    """Why the type is `unsupported`, or why a compound has no `dtype`."""
    fields: tuple[Field, ...] = ()
    """Members of a compound, in the order of the file."""

    @property
    def itemsize(self) -> int:
        """Bytes of one element in the file, array dimensions included."""
        return self.stored_size * math.prod(self.shape)

    @property
    def space_padded(self) -> bool:
        """Whether blanks at the end of strings mean nothing."""
        return self.padding == "space-padded"

    def columns(self, shape: tuple[int, ...] = ()) -> Iterator[tuple[tuple[str, ...], Datatype]]:
        """Path and type of all members of a compound that are no compounds themselves, as its columns.

        The shape of a column begins with those of the compounds that it is in.
        """
        for field in self.fields:
            inner = field.datatype
            if inner.kind == "compound":
                for path, column in inner.columns(shape + inner.shape):
                    yield (field.name, *path), column
            else:
                yield (field.name,), replace(inner, shape=shape + inner.shape)

    def view_of(self, path: Sequence[str]) -> np.dtype:
        """A dtype that shows the one member at `path` in the bytes of a stored compound, as nested fields.

        A member that is not exact, and the descriptor of a variable-length value, is shown as plain bytes.
        """
        if not path:
            return _formatted(self.stored_dtype, self.shape)
        field = self._field(path[0])
        inner = field.datatype.view_of(path[1:])
        if len(path) > 1:
            inner = _formatted(inner, field.datatype.shape)
        names, offset = [path[0]], [field.offset]
        return np.dtype({"names": names, "formats": [inner], "offsets": offset, "itemsize": self.stored_size})

    @property
    def stored_dtype(self) -> np.dtype:
        """The stored bytes as NumPy sees them: `dtype` if it is exact, else plain bytes."""
        return self.dtype if self.exact and self.dtype is not None else np.dtype(f"V{self.stored_size}")

    def _field(self, name: str) -> Field:
        for field in self.fields:
            if field.name == name:
                return field
        raise KeyError(name)


def _formatted(dtype: np.dtype, shape: tuple[int, ...]) -> np.dtype:
    return np.dtype((dtype, shape)) if shape else dtype


def decode_datatype(body: bytes) -> Datatype:
    """The type that a message describes; kinds that nothing here can read come as `unsupported` with the reason.

    Raises Damaged, or what Python raises for missing bytes.
    """
    return _decode(body, 0, 0)[0]


_Decoded = tuple[Datatype, int]
"""A type, and where the bytes behind its description begin."""


class _Head(NamedTuple):
    """What all descriptions begin with."""

    version: int
    flags: int
    """24 bits that mean something else in each class."""
    size: int
    """Bytes of an element."""


def _decode(body: bytes, place: int, depth: int) -> _Decoded:
    if depth > MAX_NESTING:
        raise Damaged(f"a type nested more than {MAX_NESTING} levels deep")
    word, size = struct.unpack_from("<II", body, place)
    head = _Head(word >> 4 & 15, word >> 8, size)
    check_version(head.version, 1, 2, 3, 4, 5)
    kind = word & 15
    if not size:
        raise Damaged("a type of 0 bytes")
    if kind in _NESTED:
        datatype, end = _NESTED[kind](body, place + 8, head, depth + 1)
    elif kind in _SIMPLE:
        decode, length = _SIMPLE[kind]
        end = place + 8 + (length if length >= 0 else head.flags & 0xFF)
        datatype = decode(taken(body, place + 8, end - place - 8), head)
    else:
        raise Unsupported(f"the class {kind} of datatypes is unknown")
    if size > MAX_ELEMENT_BYTES:
        datatype = _unsupported(f"elements of {size} bytes", size)
    return datatype, end


def _unsupported(reason: str, size: int) -> Datatype:
    return Datatype("unsupported", None, size, reason=reason)


# ---------------------------------------------------------------------------------------------------------------------
# numbers

_NATIVE: Final = "<" if sys.byteorder == "little" else ">"
# size in bytes, sign, exponent and its bits, mantissa and its bits, bias
_IEEE: Final = {
    (2, 15, 10, 5, 0, 10, 15): "f2",
    (4, 31, 23, 8, 0, 23, 127): "f4",
    (8, 63, 52, 11, 0, 52, 1023): "f8",
}
_X87: Final = (79, 64, 15, 0, 64, 16383)
_MAX_BITS: Final = 64


def _order(head: _Head) -> str:
    return ">" if head.flags & 1 else "<"


def _order_name(head: _Head) -> ByteOrder:
    return "big" if head.flags & 1 else "little"


def _bit_range(body: bytes, size: int) -> tuple[int, int]:
    offset, precision = struct.unpack("<HH", body)
    if not precision or offset + precision > 8 * size:
        raise Damaged(f"{precision} bits from bit {offset} of {size} bytes")
    return offset, precision


def _integer(body: bytes, head: _Head) -> Datatype:
    return _whole_number("integer", body, head, signed=bool(head.flags & 8))


def _bitfield(body: bytes, head: _Head) -> Datatype:
    return _whole_number("bitfield", body, head, signed=False)


def _whole_number(kind: Kind, body: bytes, head: _Head, *, signed: bool) -> Datatype:
    size = head.size
    offset, precision = _bit_range(body, size)
    letter = "i" if signed else "u"
    if size in (1, 2, 4, 8) and precision == 8 * size:
        return Datatype(kind, np.dtype(f"{_order(head)}{letter}{size}"), size)
    if precision > _MAX_BITS:
        return _unsupported(f"{precision}-bit {kind}s", size)
    width = next(width for width in (1, 2, 4, 8) if 8 * width >= min(precision if size > 8 else 8 * size, 64))
    bits = IntegerBits(size, _order_name(head), offset, precision, signed)
    return Datatype(kind, np.dtype(f"{letter}{width}"), size, exact=False, bits=bits)


def _float(body: bytes, head: _Head) -> Datatype:
    _, _, exponent, exponent_bits, mantissa, mantissa_bits, bias = struct.unpack("<HHBBBBI", body)
    sign, normalization, size = head.flags >> 8 & 0xFF, head.flags >> 4 & 3, head.size
    _bit_range(body[:4], size)
    if sign >= 8 * size or max(exponent + exponent_bits, mantissa + mantissa_bits) > 8 * size or not exponent_bits:
        raise Damaged(f"sign, exponent or mantissa of a float lie outside of its {size} bytes")
    layout = (sign, exponent, exponent_bits, mantissa, mantissa_bits, bias)
    order: ByteOrder = "vax" if head.flags & 0x41 == 0x41 else _order_name(head)
    if order == "vax" and size % 2:
        raise Damaged(f"floats of {size} bytes in VAX's order of two bytes each")
    if order != "vax":
        code = _IEEE.get((size, *layout)) if normalization == 2 else None
        if code:
            return Datatype("float", np.dtype(_order(head) + code), size)
        if layout == _X87 and size == np.dtype("g").itemsize and np.finfo("g").nmant == 63 and _order(head) == _NATIVE:
            return Datatype("float", np.dtype("g"), size)
    if exponent_bits > 30 or mantissa_bits > 2 * _MAX_BITS:
        return _unsupported(f"floats with {exponent_bits} bits of exponent and {mantissa_bits} of mantissa", size)
    bits = FloatBits(size, order, *layout, implied=normalization == 2)
    return Datatype("float", _native_float(bits), size, exact=False, bits=bits)


def _native_float(bits: FloatBits) -> np.dtype:
    """The smallest float of 4 bytes or more that holds all its values; the largest there is if none does."""
    smallest = 1 - bits.bias  # exponents of normal numbers
    largest = (1 << bits.exponent_bits) - 2 - bits.bias
    for code in ("f4", "f8"):
        wide = np.finfo(code)
        if bits.mantissa_bits <= wide.nmant and wide.minexp <= smallest and largest < wide.maxexp:
            return np.dtype(code)
    return np.dtype("g")


def _time(body: bytes, head: _Head) -> Datatype:
    """The raw bits: seconds (4 bytes), or PyTables' seconds << 32 | microseconds (8 bytes)."""
    if head.size not in (4, 8):
        return _unsupported(f"{8 * head.size}-bit times", head.size)
    return Datatype("time", np.dtype(f"{_order(head)}i{head.size}"), head.size)


# ---------------------------------------------------------------------------------------------------------------------
# strings, bytes, references

_PADDINGS: Final[tuple[Padding, ...]] = ("null-terminated", "null-padded", "space-padded")


def _text_words(flags: int) -> tuple[bool, Padding]:
    padding, character_set = flags & 15, flags >> 4 & 15
    if padding > 2 or character_set > 1:
        raise Damaged(f"strings of padding {padding} and character set {character_set}")
    return character_set == 1, _PADDINGS[padding]


def _string(body: bytes, head: _Head) -> Datatype:
    utf8, padding = _text_words(head.flags)
    return Datatype("string", np.dtype(f"S{min(head.size, MAX_ELEMENT_BYTES)}"), head.size, utf8=utf8, padding=padding)


NUMPY_TAG: Final = "NUMPY:"
_NUMPY_TIME: Final = re.compile(NUMPY_TAG + r"([<>][mM]8\[\d*(?:W|D|h|m|s|ms|us|ns)\])")
"""How h5py tags opaque bytes that are NumPy's datetime64 or timedelta64, in the units that xarray can hold too."""


def _opaque(body: bytes, head: _Head) -> Datatype:
    tag = decoded(body.split(b"\0")[0])
    time = _NUMPY_TIME.fullmatch(tag)
    dtype = np.dtype(time[1]) if time and head.size == 8 else np.dtype(f"V{min(head.size, MAX_ELEMENT_BYTES)}")
    return Datatype("opaque", dtype, head.size, tag=tag)


_REFERENCES: Final = {0: 8, 1: 12, 2: 18}
"""Bytes of references to objects, to regions of datasets, and of the revised ones to objects, in a file."""


def _reference(body: bytes, head: _Head) -> Datatype:
    kind = head.flags & 15
    if kind not in _REFERENCES:
        return _unsupported("references to regions or attributes of the kind that HDF5 1.12 brought", head.size)
    if head.size != _REFERENCES[kind]:
        raise Damaged(f"references of {head.size} bytes, expected {_REFERENCES[kind]}")
    return Datatype("reference", np.dtype(f"V{head.size}"), head.size)


_SIMPLE: Final = {
    0: (_integer, 4), 1: (_float, 12), 2: (_time, 2), 3: (_string, 0), 4: (_bitfield, 4), 5: (_opaque, -1),
    7: (_reference, 0),
}  # fmt: skip
"""What decodes a class, and the bytes of its properties; -1 where the flags begin with their number."""

# ---------------------------------------------------------------------------------------------------------------------
# types of types

_TRUTH: Final = {"FALSE": 0, "TRUE": 1}


def _name(body: bytes, place: int, version: int) -> tuple[str, int]:
    """The name at `place`, and where the bytes behind it begin: versions 1 and 2 pad it to a multiple of 8 bytes."""
    name, end = terminated(body, place)
    return decoded(name), end if version >= 3 else place + (end - place + 7 & ~7)


def _enum(body: bytes, place: int, head: _Head, depth: int) -> _Decoded:
    base, place = _decode(body, place, depth)
    count, names = head.flags & 0xFFFF, []
    if base.kind != "integer" or base.shape or base.stored_size != head.size:
        raise Damaged(f"an enumeration of {head.size} bytes with values of kind {base.kind!r}")
    for _ in range(count):
        name, place = _name(body, place, head.version)
        names.append(name)
    values = _values(taken(body, place, count * head.size), base)
    members = tuple(zip(names, values.tolist(), strict=True))
    place += count * head.size
    if dict(members) == _TRUTH and head.size == 1 and base.exact:  # as h5py writes bool
        return Datatype("bool", np.dtype(bool), 1, members=members), place
    return replace(base, kind="enum", members=members), place


def _values(data: bytes, datatype: Datatype) -> NDArray[Any]:
    if isinstance(datatype.bits, IntegerBits):
        return integers(np.frombuffer(data, np.uint8).reshape(-1, datatype.stored_size), datatype.bits)
    return np.frombuffer(data, datatype.dtype)


def _array(body: bytes, place: int, head: _Head, depth: int) -> _Decoded:
    rank = body[place]
    if rank > MAX_RANK:
        raise Damaged(f"an array type of {rank} dimensions, at most {MAX_RANK} are allowed")
    place += 4 if head.version < 3 else 1
    shape = struct.unpack_from(f"<{rank}I", body, place)
    place += 4 * rank * (2 if head.version < 3 else 1)  # a permutation behind the shape, that nobody uses
    element, place = _decode(body, place, depth)
    if math.prod(shape) * element.itemsize != head.size:
        raise Damaged(f"an array type of {head.size} bytes with shape {shape} of {element.itemsize} bytes each")
    return _with_shape(element, shape), place


def _with_shape(element: Datatype, shape: tuple[int, ...]) -> Datatype:
    whole = (*shape, *element.shape)
    if len(whole) > MAX_RANK:
        return _unsupported(f"{len(whole)}-dimensional arrays", element.itemsize * math.prod(shape))
    return replace(element, shape=whole)


def _compound(body: bytes, place: int, head: _Head, depth: int) -> _Decoded:
    fields = []
    for _ in range(head.flags & 0xFFFF):
        field, place = _decode_field(body, place, head, depth)
        if field.offset + field.size > head.size:
            raise Damaged(f"the member {field.name!r} reaches over the end of a compound of {head.size} bytes")
        fields.append(field)
    return of_fields(tuple(fields), head.size), place


def _decode_field(body: bytes, place: int, head: _Head, depth: int) -> tuple[Field, int]:
    name, place = _name(body, place, head.version)
    width = 4 if head.version < 3 else bytes_needed(head.size)
    offset = int.from_bytes(taken(body, place, width), "little")
    place += width
    shape: tuple[int, ...] = ()
    if head.version == 1:
        rank, *sizes = struct.unpack_from("<B3x4x4x4I", body, place)
        if rank > len(sizes):
            raise Damaged(f"the member {name!r} has {rank} dimensions")
        shape, place = tuple(sizes[:rank]), place + 28
    member, place = _decode(body, place, depth)
    member = _with_shape(member, shape) if shape else member
    return Field(name, offset, member.itemsize, member), place


def of_fields(fields: tuple[Field, ...], size: int) -> Datatype:
    """The compound with these members, of `size` bytes."""
    number = _complex_of_parts(fields, size)
    if number is not None:
        return number
    missing = next((field for field in fields if field.datatype.dtype is None), None)
    if missing is not None:
        what = missing.datatype.reason or missing.datatype.kind
        return Datatype(
            "compound", None, size, fields=fields, reason=f"a compound whose member {missing.name!r} is {what}"
        )
    exact = all(field.datatype.exact for field in fields)
    names = [field.name for field in fields]
    try:
        formats = [_formatted(_seen(field.datatype), field.datatype.shape) for field in fields]
        if exact:
            offsets = [field.offset for field in fields]
            dtype = np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": min(size, 2**31 - 1)})
        else:
            dtype = np.dtype(list(zip(names, formats, strict=True)))
    except (ValueError, TypeError) as error:  # duplicate or overlapping members
        return _unsupported(f"a compound that NumPy refuses: {error}", size)
    return Datatype("compound", dtype, size, exact=exact, fields=fields)


def _seen(datatype: Datatype) -> np.dtype:
    assert datatype.dtype is not None  # checked by the caller
    return datatype.dtype


def _complex_of_parts(fields: tuple[Field, ...], size: int) -> Datatype | None:
    """The type of a complex number, if the members of a compound are its two parts as NumPy or h5py have them."""
    if [field.name for field in fields] not in (["r", "i"], ["real", "imag"]):
        return None
    part = fields[0].datatype
    if part != fields[1].datatype or part.kind != "float" or part.shape:
        return None
    width = part.stored_size
    if (fields[0].offset, fields[1].offset, size) != (0, width, 2 * width):
        return None
    return None if part.exact and width == 2 else _complex_of(part)


def _complex_of(part: Datatype) -> Datatype:
    """The complex number of two floats that follow one another."""
    width, native = 2 * part.stored_size, _seen(part)
    if part.exact and native.itemsize > 2:
        return Datatype("complex", np.dtype(f"{native.str[0]}c{2 * native.itemsize}"), width)
    bits = part.bits or FloatBits(2, "big" if native.str[0] == ">" else "little", 15, 10, 5, 0, 10, 15, True)
    dtype = np.dtype(f"c{2 * max(native.itemsize, 4)}")
    return Datatype("complex", dtype, width, exact=False, bits=bits)


def _native_complex(body: bytes, place: int, head: _Head, depth: int) -> _Decoded:
    part, place = _decode(body, place, depth)
    if part.kind != "float" or part.shape or head.size != 2 * part.stored_size:
        raise Damaged(f"a complex number of {head.size} bytes with parts of kind {part.kind!r}")
    if head.flags & 7 != 1:
        return _unsupported("complex numbers that are not a real and an imaginary part of one type", head.size), place
    return _complex_of(part), place


def _vlen(body: bytes, place: int, head: _Head, depth: int) -> _Decoded:
    base, place = _decode(body, place, depth)
    if head.size != DESCRIPTOR_BYTES:
        raise Damaged(f"variable-length values of {head.size} bytes in the file, expected {DESCRIPTOR_BYTES}")
    if head.flags & 15 == 1:
        utf8, padding = _text_words(head.flags >> 4)
        return Datatype("text", None, head.size, utf8=utf8, padding=padding), place
    return Datatype("vlen", None, head.size, base=base), place


_NESTED: Final = {6: _compound, 8: _enum, 9: _vlen, 10: _array, 11: _native_complex}
