"""HDF5 types in memory: what one is, and the type to create for an array.

Knows HDF5 type identifiers (the caller holds the lock), no dataset and no attribute.

Tested in `tests/model/test_odd_types.py` and `tests/test_docs.py`.
"""

from __future__ import annotations

import ctypes
from ctypes import c_size_t

import numpy as np

from ..hdf5.datatype import NUMPY_TAG, Datatype, decode_datatype
from . import libhdf5 as h5
from .libhdf5 import Identifier, call, opened


def describe(datatype: int) -> Datatype:
    """What an HDF5 type is, by the message that HDF5 would store for it."""
    size = c_size_t(0)
    call("H5Tencode", datatype, None, ctypes.byref(size))
    encoded = ctypes.create_string_buffer(size.value)
    call("H5Tencode", datatype, encoded, ctypes.byref(size))
    return decode_datatype(encoded.raw[2:])  # behind the type of the message and the version of this encoding


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


def _create_opaque(dtype: np.dtype) -> Identifier:
    opaque = opened("H5Tcreate", h5.OPAQUE, dtype.itemsize)
    if dtype.kind != "V":
        call("H5Tset_tag", opaque.id, f"{NUMPY_TAG}{dtype.str}".encode())
    return opaque


def _create_enum(dtype: np.dtype, members: tuple[tuple[str, int], ...]) -> Identifier:
    dtype = np.dtype(np.int8) if dtype.kind == "b" else dtype  # as h5py has it
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
