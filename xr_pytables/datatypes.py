"""HDF5 datatypes and NumPy dtypes: what the stored bytes mean, and the type to create for an array.

Knows HDF5 type identifiers (the caller holds the lock), no dataset and no attribute. A `Datatype` is a plain value.
"""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Iterator, Sequence
from ctypes import c_size_t
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np

from . import libhdf5 as h5
from .libhdf5 import Identifier, call, opened

Kind = Literal[
    "integer", "float", "complex", "bool", "string", "text", "enum", "time", "compound", "opaque", "reference",
    "vlen", "unsupported",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Field:
    """One member of a compound."""

    name: str
    offset: int
    """Bytes from the beginning of the compound; as in the file if the compound has a `stored_size`."""
    size: int
    """Bytes, array dimensions included."""
    datatype: Datatype


@dataclass(frozen=True, slots=True)
class Datatype:
    """What one element of a dataset or attribute is."""

    kind: Kind
    dtype: np.dtype | None
    """The element as NumPy sees it: of the stored bytes (byte order and padding kept) if `exact`, else of what HDF5
    converts it to. None for variable-length and unsupported types. Never has a shape: see `shape`."""
    shape: tuple[int, ...] = ()
    """Shape of an HDF5 array type (PyTables: of a multi-dimensional atom); () for others."""
    exact: bool = True
    """False where the stored bytes cannot be viewed as `dtype`, so that only HDF5 can read them."""
    utf8: bool = False
    """The HDF5 character set of strings."""
    space_padded: bool = False
    members: tuple[tuple[str, int], ...] = ()
    """Names and values of an enumeration, in the order of the file."""
    base: Datatype | None = None
    """Element type of a `vlen`."""
    reason: str = ""
    """Why the type is `unsupported`, or why a compound has no `dtype`."""
    fields: tuple[Field, ...] = ()
    """Members of a compound, in the order of the file."""
    stored_size: int | None = None
    """Bytes of one compound in the file; None where a member has another length in memory (variable-length values)."""

    @property
    def itemsize(self) -> int:
        """Bytes of one element, array dimensions included; of a variable-length type: of the descriptor in memory."""
        size = self.dtype.itemsize if self.dtype is not None else self.stored_size or 16
        return size * math.prod(self.shape)

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
        """A dtype that shows the one member at `path` in the bytes of a stored compound, as nested fields."""
        if not path:
            if self.dtype is None:
                raise TypeError(f"values of kind {self.kind!r} cannot be seen in the bytes of a compound")
            return np.dtype((self.dtype, self.shape)) if self.shape else self.dtype
        field = self._field(path[0])
        inner = field.datatype.view_of(path[1:])
        if len(path) > 1 and field.datatype.shape:
            inner = np.dtype((inner, field.datatype.shape))
        size = self.stored_size
        if size is None:
            raise TypeError("a compound with variable-length members has no bytes of its own")
        return np.dtype({"names": [path[0]], "formats": [inner], "offsets": [field.offset], "itemsize": size})

    def _field(self, name: str) -> Field:
        for field in self.fields:
            if field.name == name:
                return field
        raise KeyError(name)


_ORDERS = {0: "<", 1: ">"}
_NATIVE: Final = "<" if sys.byteorder == "little" else ">"
# (size in bytes, sign bit, exponent position and size, mantissa position and size, exponent bias)
_FLOAT_LAYOUTS: dict[tuple[int, ...], str] = {
    (2, 15, 10, 5, 0, 10, 15): "f2",
    (4, 31, 23, 8, 0, 23, 127): "f4",
    (8, 63, 52, 11, 0, 52, 1023): "f8",
}
_X87_LAYOUT = (79, 64, 15, 0, 64, 16383)
_TRUTH = {"FALSE": 0, "TRUE": 1}


MAX_NESTING: Final = 32
"""Types within types: more would only serve to exhaust Python's stack."""
MAX_RANK: Final = 32
"""Dimensions of an array type. HDF5 allows as many for the dataset, and NumPy 64 for both."""
MAX_ELEMENT_BYTES: Final = 2**31 - 1
"""What NumPy allows."""


def describe(datatype: int) -> Datatype:
    """The meaning of an HDF5 type; kinds that nothing here can read come as `unsupported` with the reason."""
    encoded = _encoded(datatype)
    known = _KNOWN.get(encoded)
    if known is None:
        known = _describe(datatype, 0)
        if len(_KNOWN) < _MAX_KNOWN:
            _KNOWN[encoded] = known
    return known


_KNOWN: dict[bytes, Datatype] = {}
"""A file has many arrays and attributes but few types: one call to encode a type saves a dozen that ask about it."""
_MAX_KNOWN: Final = 1024


def _encoded(datatype: int) -> bytes:
    """The type as HDF5 stores it in files: equal for equal types."""
    _ENCODED_SIZE.value = len(_ENCODED)
    call("H5Tencode", datatype, _ENCODED, _ENCODED_SIZE_POINTER)
    if _ENCODED_SIZE.value <= len(_ENCODED):
        return ctypes.string_at(_ENCODED, _ENCODED_SIZE.value)
    longer = ctypes.create_string_buffer(_ENCODED_SIZE.value)
    call("H5Tencode", datatype, longer, _ENCODED_SIZE_POINTER)
    return longer.raw


# used again and again, under the lock
_ENCODED = ctypes.create_string_buffer(1024)
_ENCODED_SIZE = c_size_t()
_ENCODED_SIZE_POINTER = ctypes.byref(_ENCODED_SIZE)


def _describe(datatype: int, depth: int) -> Datatype:
    kind, size = call("H5Tget_class", datatype), call("H5Tget_size", datatype)
    if depth > MAX_NESTING:
        return _unsupported(f"a type nested more than {MAX_NESTING} levels deep")
    if size > MAX_ELEMENT_BYTES:
        return _unsupported(f"elements of {size} bytes")
    if kind in _NESTED:
        return _NESTED[kind](datatype, depth + 1)
    return _SIMPLE[kind](datatype) if kind in _SIMPLE else _unsupported("an unknown class of datatypes")


def _unsupported(reason: str) -> Datatype:
    return Datatype("unsupported", None, reason=reason)


def _order(datatype: int) -> str:
    return _ORDERS.get(call("H5Tget_order", datatype), "|")


def _packed_bits(datatype: int, size: int) -> bool:
    return call("H5Tget_precision", datatype) == 8 * size and call("H5Tget_offset", datatype) == 0


def _integer(datatype: int) -> Datatype:
    size = call("H5Tget_size", datatype)
    if size > 8:
        return _unsupported(f"{8 * size}-bit integers")
    letter = "i" if call("H5Tget_sign", datatype) else "u"
    if size in (1, 2, 4, 8) and _packed_bits(datatype, size) and _order(datatype) in "<>":
        return Datatype("integer", np.dtype(f"{_order(datatype)}{letter}{size}"))
    whole = next(width for width in (1, 2, 4, 8) if width >= size)
    return Datatype("integer", np.dtype(f"{letter}{whole}"), exact=False)


def _float(datatype: int) -> Datatype:
    size = call("H5Tget_size", datatype)
    fields = [c_size_t() for _ in range(5)]
    call("H5Tget_fields", datatype, *map(ctypes.byref, fields))
    layout = (*(field.value for field in fields), call("H5Tget_ebias", datatype))
    if _order(datatype) in "<>":
        code = _FLOAT_LAYOUTS.get((size, *layout))
        if code:
            return Datatype("float", np.dtype(_order(datatype) + code))
        if layout == _X87_LAYOUT and size == np.dtype("g").itemsize and np.finfo("g").nmant == 63:
            return Datatype("float", np.dtype("g"), exact=_order(datatype) == _NATIVE)
    mantissa, exponent = layout[4], layout[2]
    for code in ("f4", "f8", "g"):
        wide = np.finfo(code)
        if mantissa <= wide.nmant and exponent <= wide.iexp:
            return Datatype("float", np.dtype(code), exact=False)
    return Datatype("float", np.dtype("g"), exact=False)


def _time(datatype: int) -> Datatype:
    """The raw bits: seconds (4 bytes), or PyTables' seconds << 32 | microseconds (8 bytes)."""
    size = call("H5Tget_size", datatype)
    if size not in (4, 8):
        return _unsupported(f"{8 * size}-bit times")
    order = _order(datatype)
    return Datatype("time", np.dtype(f"{order if order in '<>' else _NATIVE}i{size}"))


def _string(datatype: int) -> Datatype:
    utf8 = call("H5Tget_cset", datatype) == h5.UTF8
    if call("H5Tis_variable_str", datatype):
        return Datatype("text", None, utf8=utf8)
    padded = call("H5Tget_strpad", datatype) == h5.SPACE_PADDED
    return Datatype("string", np.dtype(f"S{call('H5Tget_size', datatype)}"), utf8=utf8, space_padded=padded)


def _bitfield(datatype: int) -> Datatype:
    size = call("H5Tget_size", datatype)
    if size == 1:
        return Datatype("bool", np.dtype(bool))
    if size not in (2, 4, 8):
        return _unsupported(f"{8 * size}-bit bitfields")
    return Datatype("integer", np.dtype(f"{_order(datatype)}u{size}"))


def _opaque(datatype: int) -> Datatype:
    size = call("H5Tget_size", datatype)
    return Datatype("opaque", _time_of_numpy(datatype, size) or np.dtype(f"V{size}"))


_NUMPY_TAG: Final = "NUMPY:"
"""How h5py begins the tag of opaque bytes that are NumPy's datetime64 or timedelta64; the dtype follows."""


def _time_of_numpy(datatype: int, size: int) -> np.dtype | None:
    pointer = call("H5Tget_tag", datatype)
    try:
        tag = h5.text_of(pointer)
    finally:
        call("H5free_memory", pointer)
    if not tag.startswith(_NUMPY_TAG) or size != 8:
        return None
    try:
        dtype = np.dtype(tag.removeprefix(_NUMPY_TAG))
    except (TypeError, ValueError):
        return None
    return dtype if dtype.kind in "mM" and as_shown(dtype) is not None else None


def as_shown(dtype: np.dtype) -> np.dtype | None:
    """The dtype with one of xarray's units (s, ms, us, ns) that holds the same times; None if there is none."""
    unit = np.datetime_data(dtype)[0]
    shown = {"h": "s", "m": "s", "D": "s", "W": "s", "s": "s", "ms": "ms", "us": "us", "ns": "ns"}.get(unit)
    return np.dtype(f"{dtype.kind}8[{shown}]") if shown else None


def _reference(datatype: int) -> Datatype:
    size = call("H5Tget_size", datatype)
    if size not in (8, 12):
        return _unsupported("references of the kind that HDF5 1.12 brought")
    return Datatype("reference", np.dtype(f"V{size}"))


def _member_name(datatype: int, number: int) -> str:
    pointer = call("H5Tget_member_name", datatype, number)
    try:
        return h5.text_of(pointer)
    finally:
        call("H5free_memory", pointer)


def _enum(datatype: int, depth: int) -> Datatype:
    with opened("H5Tget_super", datatype) as base:
        stored = _describe(base, depth)
    if stored.dtype is None or not stored.exact:
        return _unsupported(f"an enumeration of {stored.reason or 'unusual integers'}")
    members = []
    for number in range(call("H5Tget_nmembers", datatype)):
        value = np.empty((), stored.dtype)
        call("H5Tget_member_value", datatype, number, value.ctypes.data)
        members.append((_member_name(datatype, number), int(value)))
    if dict(members) == _TRUTH and stored.dtype.itemsize == 1:  # as h5py writes bool
        return Datatype("bool", np.dtype(bool))
    return Datatype("enum", stored.dtype, members=tuple(members))


def _array(datatype: int, depth: int) -> Datatype:
    with opened("H5Tget_super", datatype) as base:
        element = _describe(base, depth)
    if element.kind == "unsupported":
        return element
    if element.dtype is None and element.stored_size is None:  # one element of the array is then several pointers
        return _unsupported("an array type of variable-length values")
    dims = h5.sizes((0,) * call("H5Tget_array_ndims", datatype))
    call("H5Tget_array_dims2", datatype, dims)
    shape = (*dims, *element.shape)
    return replace(element, shape=shape) if len(shape) <= MAX_RANK else _unsupported(f"{len(shape)}-dimensional arrays")


def _compound(datatype: int, depth: int) -> Datatype:
    fields = []
    for number in range(call("H5Tget_nmembers", datatype)):
        with opened("H5Tget_member_type", datatype, number) as member_type:
            member, size = _describe(member_type, depth), call("H5Tget_size", member_type)
        name, offset = _member_name(datatype, number), call("H5Tget_member_offset", datatype, number)
        fields.append(Field(name, offset, size, member))
    size = call("H5Tget_size", datatype)
    names, members, offsets = [f.name for f in fields], [f.datatype for f in fields], [f.offset for f in fields]
    number_type = _complex(names, members, offsets, size)
    if number_type:
        return number_type
    formats, problem = [], ""
    for field in fields:
        member = field.datatype
        if member.dtype is None or not member.exact:
            problem = problem or f"a compound whose member {field.name!r} is {member.reason or member.kind}"
            formats.append(np.dtype(f"V{field.size}"))
        else:
            formats.append(np.dtype((member.dtype, member.shape)) if member.shape else member.dtype)
    try:
        record = np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": size})
    except (ValueError, TypeError) as error:  # duplicate or overlapping members
        return _unsupported(f"a compound that NumPy refuses: {error}")
    stored_size = size if all(map(_has_fixed_size, members)) else None
    return Datatype(
        "compound", None if problem else record, reason=problem, fields=tuple(fields), stored_size=stored_size
    )


def _has_fixed_size(member: Datatype) -> bool:
    """Whether a member is as long in the file as in memory, where variable-length values are pointers."""
    if member.kind == "compound":
        return member.stored_size is not None
    return member.kind not in ("text", "vlen", "unsupported")


def _complex(names: list[str], members: list[Datatype], offsets: list[int], size: int) -> Datatype | None:
    """The type of a NumPy complex number, if the members of a compound are its two parts."""
    if names not in (["r", "i"], ["real", "imag"]) or members[0] != members[1]:
        return None
    part = members[0]
    if part.kind != "float" or part.dtype is None or part.shape:
        return None
    width = part.dtype.itemsize
    if not part.exact:  # HDF5 converts the members of a compound by name, so to the names of `create`
        return Datatype("complex", np.dtype(f"c{2 * width}"), exact=False) if names == ["r", "i"] else None
    if width == 2 or offsets != [0, width] or size != 2 * width:
        return None
    return Datatype("complex", np.dtype(f"{part.dtype.str[0]}c{size}"))


def _vlen(datatype: int, depth: int) -> Datatype:
    with opened("H5Tget_super", datatype) as base:
        return Datatype("vlen", None, base=_describe(base, depth))


_SIMPLE = {
    h5.INTEGER: _integer,
    h5.FLOAT: _float,
    h5.TIME: _time,
    h5.STRING: _string,
    h5.BITFIELD: _bitfield,
    h5.OPAQUE: _opaque,
    h5.REFERENCE: _reference,
}
_NESTED = {h5.COMPOUND: _compound, h5.ENUM: _enum, h5.VLEN: _vlen, h5.ARRAY: _array}

_STANDARD = {
    "i1": "H5T_STD_I8", "i2": "H5T_STD_I16", "i4": "H5T_STD_I32", "i8": "H5T_STD_I64",
    "u1": "H5T_STD_U8", "u2": "H5T_STD_U16", "u4": "H5T_STD_U32", "u8": "H5T_STD_U64",
    "f4": "H5T_IEEE_F32", "f8": "H5T_IEEE_F64",
}  # fmt: skip


def create(dtype: np.dtype, *, utf8: bool = False, members: tuple[tuple[str, int], ...] = ()) -> Identifier:
    """A new HDF5 type for `dtype`, with the layout that PyTables gives it.

    bool becomes an 8-bit bitfield, complex a compound of `r` and `i`, `S n` a NUL-terminated string of n bytes
    (`utf8` sets its character set); `members` makes an enumeration of an integer dtype. A structured dtype becomes a
    compound with the same offsets; fields whose dtype has the metadata `enum` become enumerations.
    Raw bytes become opaque, and times as well, with the tag by which h5py knows them. Raises TypeError for dtypes
    without an HDF5 form (objects, text: encode them first).
    """
    if members:
        return _create_enum(dtype, members)
    if dtype.names is not None:
        return _create_compound(dtype)
    if dtype.kind in "VmM":
        return _create_opaque(dtype)
    if dtype.kind == "b":
        return opened("H5Tcopy", h5.constant("H5T_STD_B8LE_g"))
    if dtype.kind == "S":
        text = opened("H5Tcopy", h5.constant("H5T_C_S1_g"))
        call("H5Tset_size", text.id, max(dtype.itemsize, 1))
        if utf8:
            call("H5Tset_cset", text.id, h5.UTF8)
        return text
    if dtype.kind == "c":
        return _create_complex(dtype)
    if dtype.kind == "f" and dtype.itemsize == 2:
        return _create_float16(dtype)
    if dtype.kind == "f" and dtype.itemsize > 8:
        return opened("H5Tcopy", h5.constant("H5T_NATIVE_LDOUBLE_g"))
    standard = _STANDARD.get(f"{dtype.kind}{dtype.itemsize}")
    if standard is None:
        raise TypeError(f"HDF5 has no type for dtype {dtype}")
    order = "BE" if dtype.newbyteorder("=").str[0] != dtype.str[0] and dtype.str[0] == ">" else "LE"
    return opened("H5Tcopy", h5.constant(f"{standard}{order}_g"))


def _create_compound(dtype: np.dtype) -> Identifier:
    compound = opened("H5Tcreate", h5.COMPOUND, dtype.itemsize)
    fields = dtype.fields
    assert fields is not None  # it is structured
    for name in dtype.names or ():
        field, offset = fields[name][:2]
        members = tuple((field.base.metadata or {"enum": {}}).get("enum", {}).items())
        with create(field.base, members=members) as element:
            if not field.shape:
                call("H5Tinsert", compound.id, h5.name_bytes(name), offset, element)
                continue
            with opened("H5Tarray_create2", element, len(field.shape), h5.sizes(field.shape)) as array:
                call("H5Tinsert", compound.id, h5.name_bytes(name), offset, array)
    return compound


def has_form(dtype: np.dtype) -> bool:
    """Whether `create` makes a type for `dtype`, of which elements are not empty."""
    if dtype.fields is not None:
        return bool(dtype.names) and all(has_form(field[0].base) for field in dtype.fields.values())
    return dtype.kind in "biufcSVmM" and dtype.itemsize > 0


def _create_opaque(dtype: np.dtype) -> Identifier:
    opaque = opened("H5Tcreate", h5.OPAQUE, dtype.itemsize)
    if dtype.kind != "V":
        call("H5Tset_tag", opaque.id, f"{_NUMPY_TAG}{dtype.str}".encode())
    return opaque


def _create_enum(dtype: np.dtype, members: tuple[tuple[str, int], ...]) -> Identifier:
    with create(dtype) as base:
        enum = opened("H5Tenum_create", base)
    for name, value in members:
        stored = np.array(value, dtype)
        call("H5Tenum_insert", enum.id, h5.name_bytes(name), stored.ctypes.data)
    return enum


def _create_complex(dtype: np.dtype) -> Identifier:
    part = np.dtype(f"{dtype.str[0]}f{dtype.itemsize // 2}")
    compound = opened("H5Tcreate", h5.COMPOUND, dtype.itemsize)
    with create(part) as real:
        call("H5Tinsert", compound.id, b"r", 0, real)
        call("H5Tinsert", compound.id, b"i", part.itemsize, real)
    return compound


def _create_float16(dtype: np.dtype) -> Identifier:
    """As PyTables makes it: an IEEE float of 2 bytes cut from the 4-byte one (HDF5 1.14 has no own name for it)."""
    half = opened("H5Tcopy", h5.constant("H5T_IEEE_F32BE_g" if dtype.str[0] == ">" else "H5T_IEEE_F32LE_g"))
    call("H5Tset_fields", half.id, 15, 10, 5, 0, 10)
    call("H5Tset_size", half.id, 2)
    call("H5Tset_ebias", half.id, 15)
    return half


def create_text() -> Identifier:
    """The variable-length UTF-8 string type that netCDF-4 and h5py write."""
    text = opened("H5Tcopy", h5.constant("H5T_C_S1_g"))
    call("H5Tset_size", text.id, ctypes.c_size_t(-1).value)
    call("H5Tset_cset", text.id, h5.UTF8)
    return text


def create_rows(dtype: np.dtype, shape: tuple[int, ...] = ()) -> Identifier:
    """The type of rows of any number of elements, as PyTables' VLArray has it."""
    with create(dtype) as element:
        if not shape:
            return opened("H5Tvlen_create", element)
        with opened("H5Tarray_create2", element, len(shape), h5.sizes(shape)) as array:
            return opened("H5Tvlen_create", array)
