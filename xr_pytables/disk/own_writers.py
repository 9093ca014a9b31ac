"""Files that this very process has open for writing, with PyTables or h5py: what they hold back goes to the disk.

What a program has appended and not flushed lies in the memory of the library it wrote with. Whoever reads the file
would find the length that it has already, and fill values. Imports neither library: one that is not loaded has nothing
open. (netCDF4 keeps no list of its open files: what it holds back cannot be seen from here.)
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

PLAIN_DRIVERS: Final = frozenset({None, "H5FD_SEC2", "H5FD_DIRECT", "H5FD_LOG", "H5FD_WINDOWS"})
"""Those that write one file in HDF5's format by a descriptor (PyTables, `parameters.DRIVER`); what the handle of
H5FD_STDIO gives for one is the address of C's FILE."""


def may_write() -> bool:
    """Whether there can be such files at all. Needs no lock."""
    pytables, h5py = (sys.modules.get(name) for name in _LIBRARIES)
    return h5py is not None or any(True for _ in (_of_pytables(pytables) if pytables is not None else ()))


def flush(path: str) -> bool:
    """Flush the handles by which this process writes to the file at `path`, so that the disk has all of it.

    Returns whether there are any. The caller holds the HDF5 lock. Raises OSError, naming the file, if the library
    cannot write.
    """
    found = False
    for library, writers in _LIBRARIES.items():
        module = sys.modules.get(library)
        for name, flush_one in writers(module) if module is not None else ():
            if not _is_same(name, path):
                continue
            found = True
            try:
                flush_one()
            except Exception as error:  # whatever the library and its plug-ins raise: the user's own handle is broken
                if not any(_is_same(other, path) for other, _ in writers(module)):
                    continue  # another thread closed it meanwhile
                raise OSError(
                    f"{path}: this process has the file open for writing ({library.partition('.')[0]}), and what it "
                    f"holds back cannot be written: {error}. Close it first"
                ) from error
    return found


_Writers = Iterator[tuple[str | bytes | int, Callable[[], object]]]
"""The path (or the descriptor) of each file that is open for writing, and how to flush it."""


def _of_pytables(module: Any) -> _Writers:
    for handle in list(getattr(getattr(module, "_open_files", None), "handlers", ())):
        try:
            if not handle.isopen or handle.mode == "r":
                continue
            plain = handle.params.get("DRIVER") in PLAIN_DRIVERS  # the name may count from a folder that is left
            name = handle.fileno() if plain else handle.filename
        except Exception:  # whatever a handle says that another thread is closing: it knows no file any more
            continue
        yield name, handle.flush


def _of_h5py(module: Any) -> _Writers:
    for handle in module.get_obj_ids(module.OBJ_ALL, module.OBJ_FILE):
        try:
            name = handle.name if handle.get_intent() & module.ACC_RDWR else None
        except (ValueError, RuntimeError):  # another thread closed it meanwhile
            continue
        if name is not None:
            yield name, partial(module.flush, handle)


def _is_same(name: str | bytes | int, path: str) -> bool:
    """Whether an open file is the one at `path` (one that lives in memory, or was removed, is none)."""
    try:
        if isinstance(name, int):
            return os.path.samestat(os.fstat(name), os.stat(path))
        return os.path.samefile(os.fsdecode(name), path)
    except OSError:
        return False


_LIBRARIES: Final = {"tables.file": _of_pytables, "h5py.h5f": _of_h5py}
