"""PyTables' objects that are open in this process, as places: the file that they are of, and the path of the node.

What is read is read from the disk, past the handle, after the door has flushed it (`own_writers`). A file that lives in
memory only is read from its image as it is now. Imports no PyTables: an object of it is known by its module.

Tested in `tests/disk/test_open_nodes.py`.
"""

from __future__ import annotations

import os
import posixpath
import sys
from typing import Any

from ..sources.place import BytesPlace, Place
from ..sources.source import printable
from .files import LocalPlace, checked_group
from .own_writers import PLAIN_DRIVERS


def is_open_node(what: object) -> bool:
    """Whether it is a `tables.File`, or a node of one: group, leaf, table or link."""
    tables = sys.modules.get("tables")
    return tables is not None and isinstance(what, tables.File | tables.Node)


def place_of_node(what: Any, group: object) -> tuple[Place, str]:
    """Where the file of a PyTables object is, and the path of `group` in it, which counts from that object.

    Raises ValueError for what is closed, or lies in no single file; FileNotFoundError for a file that was removed.
    """
    inside, is_file = checked_group(group).lstrip("/"), isinstance(what, sys.modules["tables"].File)
    if not (what.isopen if is_file else what._v_isopen):
        raise ValueError(
            f"{type(what).__name__}: this object of PyTables is closed, or was removed from its file. Open the file "
            "by its path"
        )
    file, path = (what, "/") if is_file else (what._v_file, what._v_pathname)
    whole = posixpath.join("/", file.root_uep, path.lstrip("/"), inside)  # paths of PyTables count from the entry point
    return _place(file, printable(str(file.filename))), posixpath.normpath(whole)


def _place(file: Any, name: str) -> Place:
    driver = file.params.get("DRIVER")
    if driver == "H5FD_CORE":
        from .opened_files import hdf5_lock  # late, as is said there

        with hdf5_lock():
            return BytesPlace(file.get_file_image(), f"<memory of {name}>")
    if driver not in PLAIN_DRIVERS:
        why = "and in no single file"
        if driver == "H5FD_STDIO":
            why = "which does not tell where that is: open it by its path"
        raise ValueError(f"{name}: this file of PyTables is open with the driver {driver}, {why}")
    return LocalPlace(_path_of(file, name))


def _path_of(file: Any, name: str) -> str:
    """The absolute path of an open file: PyTables keeps the one that it was given, which may have been relative."""
    opened = os.fstat(file.fileno())
    for path in (os.path.abspath(file.filename), os.path.realpath(f"/proc/self/fd/{file.fileno()}")):
        try:
            if os.path.samestat(os.stat(path), opened):
                return path
        except OSError:
            continue
    raise FileNotFoundError(f"{name}: this file of PyTables has no path any more: it was moved, replaced or removed")
