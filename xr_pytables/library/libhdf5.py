"""The C calls of libhdf5, made through ctypes in the copy of the library that `tables` has loaded.

One library in the process means one lock, one set of filters and no version skew. Every function here calls HDF5, so
the caller holds the one HDF5 lock (`opened_files.hdf5_lock`). Knows identifiers, buffers and error messages; knows no
file layout and nothing of PyTables' nodes.

Calls that only look at metadata keep the GIL, as PyTables itself does: they last microseconds, and giving the GIL up
for each would cost a switch interval under load. Calls that move data release it, if the library was built thread-safe
(a build that is not relies on the GIL to keep plain PyTables out). No Python callback ever runs inside HDF5: its mutex
would be held while the callback waits for the GIL, and PyTables waits for that mutex with the GIL held.

Tested in `tests/writing/test_writing.py` and `tests/library/test_chunk_tree.py`.
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

import tables

from ..errors import HDF5Error

DEFAULT: Final = 0  # H5P_DEFAULT, H5S_ALL, H5E_DEFAULT
UNLIMITED: Final = 2**64 - 1

# H5T_class_t
OPAQUE, COMPOUND, REFERENCE, VLEN, ARRAY = 5, 6, 7, 9, 10
# H5S_class_t
SCALAR_SPACE, NULL_SPACE = 0, 2
# H5F_ACC_*
READ_ONLY, READ_WRITE, EXCLUSIVE = 0, 1, 4
UTF8: Final = 1  # H5T_cset_t
CHUNKED: Final = 2  # H5D_layout_t
ALLOC_TIME_INCR: Final = 3  # H5D_alloc_time_t
# H5_index_t, H5_iter_order_t
INDEX_NAME, INDEX_CREATION_ORDER = 0, 1
INCREASING, NATIVE_ORDER = 0, 2
CREATION_ORDER_TRACKED, CREATION_ORDER_INDEXED = 1, 2
EARLIEST: Final = 0  # H5F_libver_t


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
    "H5Dget_create_plist": (_hid, (_hid,)),
    "H5Dget_space": (_hid, (_hid,)),
    "H5Dget_storage_size": (c_uint64, (_hid,)),
    "H5Dget_type": (_hid, (_hid,)),
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
    "H5Fget_vfd_handle": (c_int, (_hid, _hid, c_void_p)),
    "H5Fopen": (_hid, (c_char_p, c_uint, _hid)),
    "H5Gclose": (c_int, (_hid,)),
    "H5Gcreate2": (_hid, (_hid, c_char_p, _hid, _hid, _hid)),
    "H5Gget_create_plist": (_hid, (_hid,)),
    "H5Lcreate_external": (c_int, (c_char_p, c_char_p, _hid, c_char_p, _hid, _hid)),
    "H5Lcreate_hard": (c_int, (_hid, c_char_p, _hid, c_char_p, _hid, _hid)),
    "H5Lcreate_soft": (c_int, (c_char_p, _hid, c_char_p, _hid, _hid)),
    "H5Ldelete": (c_int, (_hid, c_char_p, _hid)),
    "H5Lexists": (c_int, (_hid, c_char_p, _hid)),
    "H5Oclose": (c_int, (_hid,)),
    "H5Ocopy": (c_int, (_hid, c_char_p, _hid, c_char_p, _hid, _hid)),
    "H5Oopen": (_hid, (_hid, c_char_p, _hid)),
    "H5Pclose": (c_int, (_hid,)),
    "H5Pcreate": (_hid, (_hid,)),
    "H5Pget_attr_creation_order": (c_int, (_hid, c_void_p)),
    "H5Pget_libver_bounds": (c_int, (_hid, c_void_p, c_void_p)),
    "H5Pget_link_creation_order": (c_int, (_hid, c_void_p)),
    "H5Premove_filter": (c_int, (_hid, c_int)),
    "H5Pset_alloc_time": (c_int, (_hid, c_int)),
    "H5Pset_chunk": (c_int, (_hid, c_int, c_void_p)),
    "H5Pset_fill_value": (c_int, (_hid, _hid, c_void_p)),
    "H5Pset_filter": (c_int, (_hid, c_int, c_uint, c_size_t, c_void_p)),
    "H5Pset_fletcher32": (c_int, (_hid,)),
    "H5Pset_attr_creation_order": (c_int, (_hid, c_uint)),
    "H5Pset_layout": (c_int, (_hid, c_int)),
    "H5Pset_libver_bounds": (c_int, (_hid, c_int, c_int)),
    "H5Pset_link_creation_order": (c_int, (_hid, c_uint)),
    "H5Rcreate": (c_int, (c_void_p, _hid, c_char_p, c_int, _hid)),
    "H5Sclose": (c_int, (_hid,)),
    "H5Screate": (_hid, (c_int,)),
    "H5Screate_simple": (_hid, (c_int, c_void_p, c_void_p)),
    "H5Sget_simple_extent_dims": (c_int, (_hid, c_void_p, c_void_p)),
    "H5Sget_simple_extent_npoints": (c_int64, (_hid,)),
    "H5Sget_simple_extent_type": (c_int, (_hid,)),
    "H5Sselect_hyperslab": (c_int, (_hid, c_int, c_void_p, c_void_p, c_void_p, c_void_p)),
    "H5Tarray_create2": (_hid, (_hid, c_uint, c_void_p)),
    "H5Tclose": (c_int, (_hid,)),
    "H5Tcommit2": (c_int, (_hid, c_char_p, _hid, _hid, _hid, _hid)),
    "H5Tcopy": (_hid, (_hid,)),
    "H5Tcreate": (_hid, (c_int, c_size_t)),
    "H5Tdetect_class": (c_int, (_hid, c_int)),
    "H5Tencode": (c_int, (_hid, c_void_p, c_void_p)),
    "H5Tenum_create": (_hid, (_hid,)),
    "H5Tenum_insert": (c_int, (_hid, c_char_p, c_void_p)),
    "H5Tequal": (c_int, (_hid, _hid)),
    "H5Tget_class": (c_int, (_hid,)),
    "H5Tget_member_offset": (c_size_t, (_hid, c_uint)),
    "H5Tget_member_type": (_hid, (_hid, c_uint)),
    "H5Tget_nmembers": (c_int, (_hid,)),
    "H5Tget_size": (c_size_t, (_hid,)),
    "H5Tget_super": (_hid, (_hid,)),
    "H5Tinsert": (c_int, (_hid, c_char_p, c_size_t, _hid)),
    "H5Tis_variable_str": (c_int, (_hid,)),
    "H5Tset_cset": (c_int, (_hid, c_int)),
    "H5Tset_ebias": (c_int, (_hid, c_size_t)),
    "H5Tset_fields": (c_int, (_hid, c_size_t, c_size_t, c_size_t, c_size_t, c_size_t)),
    "H5Tset_tag": (c_int, (_hid, c_char_p)),
    "H5Tset_size": (c_int, (_hid, c_size_t)),
    "H5Tvlen_create": (_hid, (_hid,)),
    "H5Zfilter_avail": (c_int, (c_int,)),
}
_MOVES_DATA = frozenset(
    {
        "H5Dread",
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
        function = getattr(releasing if name in _MOVES_DATA else keeping, name)
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
    "H5Fcreate": "H5Fclose",
    "H5Fget_create_plist": "H5Pclose",
    "H5Fopen": "H5Fclose",
    "H5Gcreate2": "H5Gclose",
    "H5Gget_create_plist": "H5Pclose",
    "H5Oopen": "H5Oclose",
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


def name_bytes(name: str) -> bytes:
    """A name as HDF5 stores it: UTF-8, with surrogates for bytes that are none."""
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
