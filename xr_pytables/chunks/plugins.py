"""Filter plug-ins of HDF5 itself, called without HDF5: shared libraries that tell of a filter and have its C function.

They are found in the folders of the environment variable `HDF5_PLUGIN_PATH`, and of the package `hdf5plugin` if it is
installed, which is not imported. ctypes releases the GIL around each call, no lock of HDF5 is needed, and it does not
matter whether a copy of HDF5 is loaded, and which.

Tested in `tests/chunks/test_other_filters.py`.
"""

from __future__ import annotations

import ctypes
import functools
import glob
import importlib.util
import logging
import os
import sys
from collections.abc import Callable
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_uint, c_void_p
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

PATH: Final = "HDF5_PLUGIN_PATH"
_PACKAGE: Final = "hdf5plugin"
_FILTER: Final = 0  # H5PL_TYPE_FILTER
_REVERSE: Final = 0x0100  # H5Z_FLAG_REVERSE
_READING_ON: Final = frozenset({32013})
"""Filters whose plug-ins read beyond the end of data that are cut off: ZFP, of which a block takes less than twice the
bytes that it becomes. They get zeros there."""
_BLOCK: Final = 4096
_ENDINGS: Final = ("*.so", "*.dylib", "*.dll")

_log = logging.getLogger(__name__)


class _Description(ctypes.Structure):
    """H5Z_class2_t, what a plug-in says of its filter."""

    _fields_ = (
        ("version", c_int), ("id", c_int), ("encoder_present", c_uint), ("decoder_present", c_uint),
        ("name", c_char_p), ("can_apply", c_void_p), ("set_local", c_void_p), ("filter", c_void_p),
    )  # fmt: skip


_Function = ctypes.CFUNCTYPE(
    c_size_t, c_uint, c_size_t, POINTER(c_uint), c_size_t, POINTER(c_size_t), POINTER(c_void_p)
)


class Plugin(NamedTuple):
    """The filter of one plug-in."""

    id: int
    name: str
    path: str
    function: Callable[..., int]

    def decode(self, data: Bytes, values: tuple[int, ...], out: Bytes) -> Bytes:
        """Undo the filter. The plug-in allocates what it returns: hostile data may make it ask for much memory."""
        memory = _allocator()
        behind = 2 * out.size + _BLOCK if self.id in _READING_ON else 1
        buffer = c_void_p(memory.malloc(data.size + behind))
        if not buffer:
            raise MemoryError(f"no memory for {data.size} bytes")
        try:
            ctypes.memmove(buffer, data.__array_interface__["data"][0], data.size)
            ctypes.memset((buffer.value or 0) + data.size, 0, behind)
            room = c_size_t(data.size)
            numbers = (c_uint * max(len(values), 1))(*values)
            got = self.function(_REVERSE, len(values), numbers, data.size, byref(room), byref(buffer))
            if got != out.size or not buffer:
                raise ValueError(f"the plug-in {self.path} gives {got} bytes, expected {out.size}")
            ctypes.memmove(out.__array_interface__["data"][0], buffer, got)
        finally:
            memory.free(buffer)
        return out


def find(identifier: int) -> Plugin | None:
    """The plug-in for a filter; None if no folder has one."""
    return _plugins(tuple(_folders())).get(identifier)


def _folders() -> list[str]:
    folders = [folder for folder in os.environ.get(PATH, "").split(os.pathsep) if folder]
    spec = importlib.util.find_spec(_PACKAGE)
    packages = list(spec.submodule_search_locations or ()) if spec else []
    return folders + [os.path.join(package, "plugins") for package in packages]


@functools.cache
def _plugins(folders: tuple[str, ...]) -> dict[int, Plugin]:
    """The plug-ins in these folders by filter id, the first of each. Loads all of them, as only they know their id."""
    found: dict[int, Plugin] = {}
    for folder in folders:
        paths = [path for ending in _ENDINGS for path in glob.glob(os.path.join(glob.escape(folder), ending))]
        for path in sorted(paths):
            plugin = _load(path)
            if plugin is not None:
                found.setdefault(plugin.id, plugin)
    return found


def _load(path: str) -> Plugin | None:
    try:
        library = ctypes.CDLL(path)
        kind, describe = library.H5PLget_plugin_type, library.H5PLget_plugin_info
    except (OSError, AttributeError) as error:
        _log.debug("%s is no plug-in that can be used: %s", path, error)
        return None
    describe.restype = POINTER(_Description)
    if kind() != _FILTER:
        return None
    description = describe().contents
    if not description.filter or not description.decoder_present:
        return None
    name = (description.name or b"").decode("ascii", "replace")
    return Plugin(description.id, name, path, _Function(description.filter))


@functools.cache
def _allocator() -> Any:
    """The C library whose `malloc` and `free` plug-ins use, with argument types."""
    library = ctypes.CDLL("ucrtbase" if sys.platform == "win32" else None)
    library.malloc.restype, library.malloc.argtypes = c_void_p, (c_size_t,)
    library.free.restype, library.free.argtypes = None, (c_void_p,)
    return library
