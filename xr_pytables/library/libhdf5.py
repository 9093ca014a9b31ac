"""The C calls of libhdf5, made through ctypes in the copy of the library that `tables` has loaded.

One library in the process means one lock, one set of filters and no version skew. Every function here calls HDF5, so
the caller holds the one HDF5 lock (`files.hdf5_lock`). Knows identifiers, buffers and error messages; knows no file
layout and nothing of PyTables' nodes.

Calls that only look at metadata keep the GIL, as PyTables itself does: they last microseconds, and giving the GIL up
for each would cost a switch interval under load. Calls that move data release it, if the library was built thread-safe
(a build that is not relies on the GIL to keep plain PyTables out). No Python callback ever runs inside HDF5: its mutex
would be held while the callback waits for the GIL, and PyTables waits for that mutex with the GIL held.

Tested in `tests/test_reading.py` and `tests/test_attacks.py`.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import glob
import os
import re
import threading
from collections.abc import Callable, Sequence
from ctypes import c_char_p, c_int, c_int64, c_size_t, c_ssize_t, c_uint, c_uint32, c_uint64, c_void_p
from types import TracebackType
from typing import Final

import numpy as np
import tables

from ..chunks.filters import Filter, FilterPipeline

UNDEFINED_ADDRESS: Final = 2**64 - 1
DEFAULT: Final = 0  # H5P_DEFAULT, H5S_ALL, H5E_DEFAULT
UNLIMITED: Final = 2**64 - 1

# H5T_class_t
INTEGER, FLOAT, TIME, STRING, BITFIELD, OPAQUE, COMPOUND, REFERENCE, ENUM, VLEN, ARRAY = range(11)
# H5D_layout_t
COMPACT, CONTIGUOUS, CHUNKED, VIRTUAL = range(4)
# H5L_type_t
HARD_LINK, SOFT_LINK, EXTERNAL_LINK = 0, 1, 64
# H5I_type_t of an opened object
GROUP_ID, DATATYPE_ID, DATASET_ID = 2, 3, 5
# H5S_class_t
SCALAR_SPACE, SIMPLE_SPACE, NULL_SPACE = range(3)
# H5F_ACC_*
READ_ONLY, READ_WRITE, TRUNCATE, EXCLUSIVE = 0, 1, 2, 4
# H5T_cset_t, H5T_str_t
ASCII, UTF8 = 0, 1
NULL_TERMINATED, NULL_PADDED, SPACE_PADDED = range(3)
# H5_index_t, H5_iter_order_t
INDEX_NAME, INDEX_CREATION_ORDER = 0, 1
INCREASING, NATIVE_ORDER = 0, 2
CREATION_ORDER_TRACKED, CREATION_ORDER_INDEXED = 1, 2
FILL_TIME_IFSET, ALLOC_TIME_INCR = 2, 3
EARLIEST: Final = 0  # H5F_libver_t


class HDF5Error(OSError):
    """A call of libhdf5 failed; the message is what HDF5 says of the innermost cause.

    `errno` is set where the disk was the cause.
    """


class Token(ctypes.Structure):
    """H5O_token_t: in files of this library, the address of an object header and eight bytes of nothing."""

    _fields_ = (("address", c_uint64), ("rest", c_uint64))


class ObjectInfo(ctypes.Structure):
    """H5O_info2_t."""

    _fields_ = (
        ("file_number", ctypes.c_ulong),
        ("token", Token),
        ("type", c_int),
        ("reference_count", c_uint),
        ("access_time", ctypes.c_long),
        ("modification_time", ctypes.c_long),
        ("change_time", ctypes.c_long),
        ("birth_time", ctypes.c_long),
        ("attribute_count", c_uint64),
    )


class LinkInfo(ctypes.Structure):
    """H5L_info2_t; the union is a token for hard links, for others its first number is the size of the value."""

    _fields_ = (
        ("type", c_int),
        ("creation_order_valid", ctypes.c_bool),
        ("creation_order", c_int64),
        ("cset", c_int),
        ("value", Token),
    )


class GroupInfo(ctypes.Structure):
    """H5G_info_t."""

    _fields_ = (
        ("storage_type", c_int),
        ("link_count", c_uint64),
        ("max_creation_order", c_int64),
        ("mounted", ctypes.c_bool),
    )


class VariableLength(ctypes.Structure):
    """hvl_t: one variable-length value in memory."""

    _fields_ = (("length", c_size_t), ("pointer", c_void_p))


_hid = c_int64
_Signature = tuple[type, tuple[type, ...]]
_SIGNATURES: dict[str, _Signature] = {
    "H5Aclose": (c_int, (_hid,)),
    "H5Acreate2": (_hid, (_hid, c_char_p, _hid, _hid, _hid, _hid)),
    "H5Adelete": (c_int, (_hid, c_char_p)),
    "H5Aexists": (c_int, (_hid, c_char_p)),
    "H5Aget_name": (c_ssize_t, (_hid, c_size_t, c_void_p)),
    "H5Aget_num_attrs": (c_int, (_hid,)),
    "H5Aget_space": (_hid, (_hid,)),
    "H5Aget_type": (_hid, (_hid,)),
    "H5Aopen": (_hid, (_hid, c_char_p, _hid)),
    "H5Aopen_by_idx": (_hid, (_hid, c_char_p, c_int, c_int, c_uint64, _hid, _hid)),
    "H5Aread": (c_int, (_hid, _hid, c_void_p)),
    "H5Awrite": (c_int, (_hid, _hid, c_void_p)),
    "H5Dclose": (c_int, (_hid,)),
    "H5Dcreate2": (_hid, (_hid, c_char_p, _hid, _hid, _hid, _hid, _hid)),
    "H5Dget_chunk_info_by_coord": (c_int, (_hid, c_void_p, c_void_p, c_void_p, c_void_p)),
    "H5Dget_chunk_storage_size": (c_int, (_hid, c_void_p, c_void_p)),
    "H5Dget_create_plist": (_hid, (_hid,)),
    "H5Dget_offset": (c_uint64, (_hid,)),
    "H5Dget_space": (_hid, (_hid,)),
    "H5Dget_storage_size": (c_uint64, (_hid,)),
    "H5Dget_type": (_hid, (_hid,)),
    "H5Dopen2": (_hid, (_hid, c_char_p, _hid)),
    "H5Dread_chunk": (c_int, (_hid, _hid, c_void_p, c_void_p, c_void_p)),
    "H5Dread": (c_int, (_hid, _hid, _hid, _hid, _hid, c_void_p)),
    "H5Dset_extent": (c_int, (_hid, c_void_p)),
    "H5Dvlen_reclaim": (c_int, (_hid, _hid, _hid, c_void_p)),
    "H5Dwrite": (c_int, (_hid, _hid, _hid, _hid, _hid, c_void_p)),
    "H5Dwrite_chunk": (c_int, (_hid, _hid, c_uint32, c_void_p, c_size_t, c_void_p)),
    "H5Eset_auto2": (c_int, (_hid, c_void_p, c_void_p)),
    "H5Fclose": (c_int, (_hid,)),
    "H5Fcreate": (_hid, (c_char_p, c_uint, _hid, _hid)),
    "H5Fflush": (c_int, (_hid, c_int)),
    "H5Fget_create_plist": (_hid, (_hid,)),
    "H5Fopen": (_hid, (c_char_p, c_uint, _hid)),
    "H5Gclose": (c_int, (_hid,)),
    "H5Gcreate2": (_hid, (_hid, c_char_p, _hid, _hid, _hid)),
    "H5Gget_create_plist": (_hid, (_hid,)),
    "H5Gget_info": (c_int, (_hid, c_void_p)),
    "H5Iget_type": (c_int, (_hid,)),
    "H5Ldelete": (c_int, (_hid, c_char_p, _hid)),
    "H5Lexists": (c_int, (_hid, c_char_p, _hid)),
    "H5Lget_info_by_idx2": (c_int, (_hid, c_char_p, c_int, c_int, c_uint64, c_void_p, _hid)),
    "H5Lget_info2": (c_int, (_hid, c_char_p, c_void_p, _hid)),
    "H5Lget_name_by_idx": (c_ssize_t, (_hid, c_char_p, c_int, c_int, c_uint64, c_void_p, c_size_t, _hid)),
    "H5Lget_val": (c_int, (_hid, c_char_p, c_void_p, c_size_t, _hid)),
    "H5Lunpack_elink_val": (c_int, (c_void_p, c_size_t, c_void_p, c_void_p, c_void_p)),
    "H5Oclose": (c_int, (_hid,)),
    "H5Ocopy": (c_int, (_hid, c_char_p, _hid, c_char_p, _hid, _hid)),
    "H5Oget_info3": (c_int, (_hid, c_void_p, c_uint)),
    "H5Oopen": (_hid, (_hid, c_char_p, _hid)),
    "H5Oopen_by_token": (_hid, (_hid, Token)),
    "H5Pclose": (c_int, (_hid,)),
    "H5Pcreate": (_hid, (_hid,)),
    "H5Pget_char_encoding": (c_int, (_hid, c_void_p)),
    "H5Pget_chunk": (c_int, (_hid, c_int, c_void_p)),
    "H5Pget_chunk_opts": (c_int, (_hid, c_void_p)),
    "H5Pget_external_count": (c_int, (_hid,)),
    "H5Pget_fill_value": (c_int, (_hid, _hid, c_void_p)),
    "H5Pfill_value_defined": (c_int, (_hid, c_void_p)),
    "H5Pget_filter2": (
        c_int,
        (_hid, c_uint, c_void_p, c_void_p, c_void_p, c_size_t, c_void_p, c_void_p),
    ),
    "H5Pget_layout": (c_int, (_hid,)),
    "H5Pget_libver_bounds": (c_int, (_hid, c_void_p, c_void_p)),
    "H5Pget_link_creation_order": (c_int, (_hid, c_void_p)),
    "H5Pget_nfilters": (c_int, (_hid,)),
    "H5Pget_userblock": (c_int, (_hid, c_void_p)),
    "H5Pset_alloc_time": (c_int, (_hid, c_int)),
    "H5Pset_chunk": (c_int, (_hid, c_int, c_void_p)),
    "H5Pset_fapl_stdio": (c_int, (_hid,)),
    "H5Pset_fill_time": (c_int, (_hid, c_int)),
    "H5Pset_fill_value": (c_int, (_hid, _hid, c_void_p)),
    "H5Pset_filter": (c_int, (_hid, c_int, c_uint, c_size_t, c_void_p)),
    "H5Pset_fletcher32": (c_int, (_hid,)),
    "H5Pset_layout": (c_int, (_hid, c_int)),
    "H5Pset_attr_creation_order": (c_int, (_hid, c_uint)),
    "H5Pset_libver_bounds": (c_int, (_hid, c_int, c_int)),
    "H5Pset_link_creation_order": (c_int, (_hid, c_uint)),
    "H5Rcreate": (c_int, (c_void_p, _hid, c_char_p, c_int, _hid)),
    "H5Rget_name": (c_ssize_t, (_hid, c_int, c_void_p, c_void_p, c_size_t)),
    "H5Sclose": (c_int, (_hid,)),
    "H5Screate": (_hid, (c_int,)),
    "H5Screate_simple": (_hid, (c_int, c_void_p, c_void_p)),
    "H5Sget_simple_extent_dims": (c_int, (_hid, c_void_p, c_void_p)),
    "H5Sget_simple_extent_ndims": (c_int, (_hid,)),
    "H5Sget_simple_extent_type": (c_int, (_hid,)),
    "H5Sselect_hyperslab": (c_int, (_hid, c_int, c_void_p, c_void_p, c_void_p, c_void_p)),
    "H5Tarray_create2": (_hid, (_hid, c_uint, c_void_p)),
    "H5Tclose": (c_int, (_hid,)),
    "H5Tcopy": (_hid, (_hid,)),
    "H5Tcreate": (_hid, (c_int, c_size_t)),
    "H5Tencode": (c_int, (_hid, c_void_p, c_void_p)),
    "H5Tenum_create": (_hid, (_hid,)),
    "H5Tenum_insert": (c_int, (_hid, c_char_p, c_void_p)),
    "H5Tequal": (c_int, (_hid, _hid)),
    "H5Tget_array_dims2": (c_int, (_hid, c_void_p)),
    "H5Tget_array_ndims": (c_int, (_hid,)),
    "H5Tget_class": (c_int, (_hid,)),
    "H5Tget_cset": (c_int, (_hid,)),
    "H5Tget_ebias": (c_size_t, (_hid,)),
    "H5Tget_fields": (c_int, (_hid, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p)),
    "H5Tget_member_name": (c_void_p, (_hid, c_uint)),
    "H5Tget_member_offset": (c_size_t, (_hid, c_uint)),
    "H5Tget_member_type": (_hid, (_hid, c_uint)),
    "H5Tget_member_value": (c_int, (_hid, c_uint, c_void_p)),
    "H5Tget_nmembers": (c_int, (_hid,)),
    "H5Tget_offset": (c_int, (_hid,)),
    "H5Tget_order": (c_int, (_hid,)),
    "H5Tget_precision": (c_size_t, (_hid,)),
    "H5Tget_sign": (c_int, (_hid,)),
    "H5Tget_size": (c_size_t, (_hid,)),
    "H5Tget_strpad": (c_int, (_hid,)),
    "H5Tget_super": (_hid, (_hid,)),
    "H5Tget_tag": (c_void_p, (_hid,)),
    "H5Tinsert": (c_int, (_hid, c_char_p, c_size_t, _hid)),
    "H5Tis_variable_str": (c_int, (_hid,)),
    "H5Tset_cset": (c_int, (_hid, c_int)),
    "H5Tset_ebias": (c_int, (_hid, c_size_t)),
    "H5Tset_fields": (c_int, (_hid, c_size_t, c_size_t, c_size_t, c_size_t, c_size_t)),
    "H5Tset_order": (c_int, (_hid, c_int)),
    "H5Tset_precision": (c_int, (_hid, c_size_t)),
    "H5Tset_tag": (c_int, (_hid, c_char_p)),
    "H5Tset_size": (c_int, (_hid, c_size_t)),
    "H5Tset_strpad": (c_int, (_hid, c_int)),
    "H5Tvlen_create": (_hid, (_hid,)),
    "H5Zfilter_avail": (c_int, (c_int,)),
    "H5free_memory": (c_int, (c_void_p,)),
    "H5is_library_threadsafe": (c_int, (c_void_p,)),
}
_MOVES_DATA = frozenset(
    {
        "H5Dread",
        "H5Dread_chunk",
        "H5Dwrite",
        "H5Dwrite_chunk",
        "H5Dset_extent",
        "H5Fopen",
        "H5Fcreate",
        "H5Fclose",
        "H5Fflush",
        "H5Ocopy",
    }
)


_RENAMED = {"H5Dread_chunk": "H5Dread_chunk1"}
"""What HDF5 2 may call a function that has a successor with other arguments."""


def _library_paths() -> list[str]:
    """Where the loaded libhdf5 can be reached: PyTables' own extension, else (Windows) the DLL beside it.

    ELF and Mach-O look a symbol up through a module's dependencies; Windows does not.
    """
    package = os.path.dirname(tables.__file__)
    beside = (os.path.join(folder, "*hdf5*.dll") for folder in (package, package + ".libs"))
    return [
        tables.hdf5extension.__file__,
        *(path for pattern in beside for path in sorted(glob.glob(pattern))),
    ]


@functools.cache
def _libraries() -> tuple[ctypes.PyDLL, ctypes.CDLL]:
    """The library twice: for calls that keep the GIL, and for calls that may release it."""
    tried = _library_paths()
    for path in tried:
        keeping = ctypes.PyDLL(path)
        if hasattr(keeping, "H5Oget_info3"):
            answer = ctypes.c_bool()
            keeping.H5is_library_threadsafe(ctypes.byref(answer))
            return keeping, ctypes.CDLL(path) if answer.value else keeping
    raise ImportError(
        "no libhdf5 with H5Oget_info3 (HDF5 1.12 or newer) can be reached through PyTables "
        f"{tables.__version__}; looked in {tried}. Install a wheel or conda build of tables with its own libhdf5"
    )


class _Functions(dict[str, Callable[..., int]]):
    """The functions of the library by name, looked up on first use."""

    def __missing__(self, name: str) -> Callable[..., int]:
        keeping, releasing = _libraries()
        library = releasing if name in _MOVES_DATA else keeping
        function = getattr(library, name, None) or getattr(library, _RENAMED.get(name, name))
        function.restype, function.argtypes = _SIGNATURES[name]
        self[name] = function
        wrapped: Callable[..., int] = function
        return wrapped


_FUNCTIONS = _Functions()


def call(name: str, *args: object) -> int:
    """The result of one HDF5 function; raises HDF5Error where HDF5 answers with a negative number."""
    result = _FUNCTIONS[name](*args)
    if result < 0:
        raise _error(_innermost_message() or "HDF5 gives no reason", name)
    return result


_ERRNO: Final = re.compile(r"errno = (\d+)")
_OF_THE_DISK: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS})


def _error(reason: str, name: str) -> HDF5Error:
    """What to raise for a failed call. Of a failed write, HDF5 tells addresses and names of hidden files: not shown."""
    found = _ERRNO.search(reason)
    number = int(found[1]) if found else 0
    if number in _OF_THE_DISK:
        return HDF5Error(number, f"{os.strerror(number)} ({name})")
    return HDF5Error(f"{reason} ({name})")


def _innermost_message() -> str:
    try:
        trace = tables.utilsextension._dump_h5_backtrace()
    except AttributeError:  # private to PyTables: without it the message lacks a reason, no more
        return ""
    return "; ".join(dict.fromkeys(str(entry[3]) for entry in reversed(trace or ())) if trace else ())[:300]


_silenced = threading.local()


def silence_this_thread() -> None:
    """Keep HDF5 from printing its error stack to stderr: a setting of each thread in thread-safe builds."""
    if not getattr(_silenced, "done", False):
        call("H5Eset_auto2", DEFAULT, None, None)
        _silenced.done = True


class Identifier:
    """An HDF5 identifier that is closed when its `with` block ends."""

    __slots__ = ("_close", "id")

    def __init__(self, identifier: int, close: str) -> None:
        self.id = identifier
        self._close = close

    def __enter__(self) -> int:
        return self.id

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        identifier, self.id = self.id, -1
        if identifier >= 0:
            call(self._close, identifier)

    def close(self) -> None:
        """Close it now; a second call does nothing."""
        self.__exit__(None, None, None)


def opened(name: str, *args: object) -> Identifier:
    """The identifier that the HDF5 function `name` returns, to be closed by the function its kind asks for."""
    return Identifier(call(name, *args), _CLOSES[name])


_CLOSES = {
    "H5Acreate2": "H5Aclose",
    "H5Aget_space": "H5Sclose",
    "H5Aget_type": "H5Tclose",
    "H5Aopen": "H5Aclose",
    "H5Aopen_by_idx": "H5Aclose",
    "H5Dcreate2": "H5Dclose",
    "H5Dget_create_plist": "H5Pclose",
    "H5Dget_space": "H5Sclose",
    "H5Dget_type": "H5Tclose",
    "H5Dopen2": "H5Dclose",
    "H5Fcreate": "H5Fclose",
    "H5Fget_create_plist": "H5Pclose",
    "H5Fopen": "H5Fclose",
    "H5Gcreate2": "H5Gclose",
    "H5Gget_create_plist": "H5Pclose",
    "H5Oopen": "H5Oclose",
    "H5Oopen_by_token": "H5Oclose",
    "H5Pcreate": "H5Pclose",
    "H5Screate": "H5Sclose",
    "H5Screate_simple": "H5Sclose",
    "H5Tarray_create2": "H5Tclose",
    "H5Tcopy": "H5Tclose",
    "H5Tcreate": "H5Tclose",
    "H5Tenum_create": "H5Tclose",
    "H5Tget_member_type": "H5Tclose",
    "H5Tget_super": "H5Tclose",
    "H5Tvlen_create": "H5Tclose",
}


@functools.cache
def constant(name: str) -> int:
    """A predefined identifier such as `H5T_NATIVE_INT_g` or `H5P_CLS_DATASET_CREATE_ID_g`."""
    return int(_hid.in_dll(_libraries()[0], name).value)


MAX_RANK: Final = 32  # H5S_MAX_RANK
_Sizes = c_uint64 * MAX_RANK
_CURRENT, _MAXIMAL = _Sizes(), _Sizes()  # used again and again, under the lock


def sizes(values: Sequence[int]) -> ctypes.Array[c_uint64]:
    """`values` as an array of hsize_t (never of length zero, which ctypes cannot point to)."""
    return (c_uint64 * max(len(values), 1))(*values)


def simple_space(shape: Sequence[int], maxshape: Sequence[int] | None = None) -> Identifier:
    """A dataspace of `shape` elements; `()` is a scalar. UNLIMITED in `maxshape` lets a dimension grow."""
    if not shape:
        return opened("H5Screate", SCALAR_SPACE)
    return opened("H5Screate_simple", len(shape), sizes(shape), None if maxshape is None else sizes(maxshape))


def space_shape(space: int) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Current and maximal shape (UNLIMITED where it may grow), in elements; None for a null dataspace."""
    kind = call("H5Sget_simple_extent_type", space)
    if kind == SCALAR_SPACE:
        return (), ()
    if kind == NULL_SPACE:
        return None
    rank = call("H5Sget_simple_extent_dims", space, _CURRENT, _MAXIMAL)
    return tuple(_CURRENT[:rank]), tuple(_MAXIMAL[:rank])


def text_of(pointer: int | None, *, errors: str = "surrogateescape") -> str:
    """The UTF-8 C string at `pointer`; '' for NULL. Bytes that are not UTF-8 come as surrogates."""
    return ctypes.string_at(pointer).decode("utf-8", errors) if pointer else ""


def name_bytes(name: str) -> bytes:
    """A name as HDF5 stores it (UTF-8; the reverse of `text_of`)."""
    return name.encode("utf-8", "surrogateescape")


def chunk_info(dataset: int, corner: Sequence[int]) -> tuple[int, int, int]:
    """Address (bytes from the start of the file), stored bytes and filter mask of the chunk at `corner` (elements).

    HDF5 searches from the first chunk on: for checks, not for loops.
    """
    mask, address, size = c_uint32(), c_uint64(), c_uint64()
    call(
        "H5Dget_chunk_info_by_coord", dataset, sizes(corner), ctypes.byref(mask), ctypes.byref(address),
        ctypes.byref(size),
    )  # fmt: skip
    return address.value, size.value, mask.value


def stored_chunk(dataset: int, corner: Sequence[int]) -> tuple[np.ndarray, int] | None:
    """The bytes of the chunk at `corner` (elements) as they are stored, and its filter mask; None if it is missing."""
    size, mask = c_uint64(), c_uint32()
    try:
        call("H5Dget_chunk_storage_size", dataset, sizes(corner), ctypes.byref(size))
    except HDF5Error as error:
        if "chunk storage is not allocated" in str(error):
            return None
        raise
    if not size.value:
        return None
    data = np.empty(size.value, np.uint8)
    call("H5Dread_chunk", dataset, DEFAULT, sizes(corner), ctypes.byref(mask), data.ctypes.data)
    return data, mask.value


def object_address(identifier: int) -> int:
    """Address of an object's header, in bytes from the base address of the file."""
    return int(_object_info(identifier).token.address)


def link_count(identifier: int) -> int:
    """How many hard links lead to an object."""
    return int(_object_info(identifier).reference_count)


def _object_info(identifier: int) -> ObjectInfo:
    info = ObjectInfo()
    call("H5Oget_info3", identifier, ctypes.byref(info), 1)
    return info


def reference_name(location: int, pointer: int) -> str | None:
    """A path of the object that the object reference at `pointer` points to; None if it points nowhere."""
    try:
        length = call("H5Rget_name", location, 0, pointer, None, 0)
    except HDF5Error:
        return None
    if not length:
        return None
    buffer = ctypes.create_string_buffer(length + 1)
    call("H5Rget_name", location, 0, pointer, buffer, length + 1)
    return buffer.value.decode("utf-8", "surrogateescape")


def chunkshape(creation_properties: int) -> tuple[int, ...]:
    """Elements per chunk of a chunked dataset's creation property list."""
    rank = call("H5Pget_chunk", creation_properties, MAX_RANK, _CURRENT)
    return tuple(_CURRENT[:rank])


def filter_pipeline(creation_properties: int) -> FilterPipeline:
    """The filters of a dataset creation property list with all their client data."""
    steps = range(call("H5Pget_nfilters", creation_properties))
    return FilterPipeline(tuple(_filter(creation_properties, number) for number in steps))


def _filter(creation_properties: int, number: int) -> Filter:
    _COUNT.value = len(_VALUES)
    identifier = call("H5Pget_filter2", creation_properties, number, *_FILTER_ANSWERS)
    values, count = _VALUES, _COUNT.value
    if count > len(_VALUES):
        values = (c_uint * count)()
        flags, room, _, *rest = _FILTER_ANSWERS
        call("H5Pget_filter2", creation_properties, number, flags, room, values, *rest)
    return Filter(identifier, tuple(values[:count]), _NAME.value.decode("latin-1"), bool(_FLAGS.value & 1))


# used again and again, under the lock
_FLAGS, _COUNT, _CONFIG = c_uint(), c_size_t(), c_uint()
_VALUES, _NAME = (c_uint * 32)(), ctypes.create_string_buffer(256)
_FILTER_ANSWERS = (ctypes.byref(_FLAGS), ctypes.byref(_COUNT), _VALUES, 256, _NAME, ctypes.byref(_CONFIG))
