"""What is in a file already, before a write is planned, and whether it may be changed at all.

Tested in `tests/writing/test_writing.py`.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import tables

from ..disk.door import Visit, check_no_writer
from ..disk.files import FileIdentity, checked_path
from ..disk.journal import check_for_writing
from ..disk.opened_files import hdf5_lock
from ..errors import FileBusyError, FileChangedError, FormatError
from ..model.frames import UnknownLayoutError
from ..model.nodes import NodeReader
from ..model.specs import GroupSpec, ReadOptions
from . import frame_plan
from .frame_plan import StoredFrame
from .placement import Mode
from .table_plan import StoredTable, describe_stored


def look(path: str, mode: Mode) -> tuple[FileIdentity | None, dict[str, GroupSpec]]:
    """The version of the file that will be changed and its groups; None and nothing if the file is made anew.

    Raises for what the mode does not allow.
    """
    if mode in ("w-", "x") and os.path.lexists(path):
        raise FileExistsError(f"{path}: the file already exists. mode='w' replaces it, mode='a' adds to it")
    if not os.path.exists(path):
        if mode == "r+":
            raise FileNotFoundError(f"{path}: there is no such file, and mode='r+' only changes existing variables")
        return None, {}
    checked_path(path)
    check_for_writing(path)
    _check_not_busy(path)
    if mode == "w":
        return None, {}
    version = FileIdentity.of(path)
    with Visit() as visit, _changed_meanwhile(path, version):
        file = visit.file(path)
        if file.superblock.open_for_writing:  # which HDF5 does not lock in SWMR mode
            raise FileBusyError(
                f"{path}: another program has this file open for writing, or died over it. Close it there first; if it "
                "died, look at the file with verify, and then take the mark away with h5clear -s"
            )
        reader = NodeReader(file, _AS_STORED, visit.linked)
        found = {spec.path: spec for _, spec in reader.tree("/") if spec.file == path and not spec.row_dim}
        visit.check_unchanged()
    return version, found


@contextmanager
def _changed_meanwhile(path: str, version: FileIdentity) -> Iterator[None]:
    """Make a FileChangedError of what looks damaged because somebody else was changing the file."""
    try:
        yield
    except FormatError as error:
        if FileIdentity.of(path).same_version(version):
            raise
        raise FileChangedError(f"{path}: the file changes while it is looked at") from error


_AS_STORED: Final = ReadOptions(external_links="never", pandas_objects=False)


def look_at_table(path: str, group: str) -> StoredTable:
    """The table at `group` of a file, to which rows shall be added."""
    with Visit() as visit, _changed_meanwhile(path, FileIdentity.of(path)):
        file = visit.file(path)
        return describe_stored(file, NodeReader(file, _AS_STORED, visit.linked).dataset(group))


def look_at_frame(path: str, group: str) -> StoredFrame:
    """The pandas object at `group` of a file, to which rows shall be added. Raises ValueError if it cannot grow."""
    with Visit() as visit, _changed_meanwhile(path, FileIdentity.of(path)):
        file = visit.file(path)
        reader = NodeReader(file, _AS_STORED, visit.linked)
        if frame_plan.TABLE not in reader.dataset(group).tables:
            raise ValueError(
                f"{path}:{group}: the pandas object is stored in the fixed format, which cannot grow. Read it and "
                "write it again with layout='pandas', which makes a table"
            )
        table = reader.dataset(posixpath.join(group, frame_plan.TABLE))
        try:
            return frame_plan.describe_stored(file, group, describe_stored(file, table))
        except UnknownLayoutError as error:
            raise ValueError(
                f"{path}:{group}: the pandas object cannot be read ({error}), so nothing is added"
            ) from error


def check_frame_alone(path: str, group: str) -> None:
    """Raise ValueError if more than the pandas object at `group` would go if it was replaced."""
    with Visit() as visit, _changed_meanwhile(path, FileIdentity.of(path)):
        try:
            frame_plan.check_alone(visit.file(path), group)
        except UnknownLayoutError as error:
            raise ValueError(
                f"{path}:{group}: the pandas object cannot be read ({error}), so what would go with it is not known. "
                "Write to another group"
            ) from error


def _check_not_busy(path: str) -> None:
    """Raise FileBusyError if anybody is writing to the file through HDF5."""
    with hdf5_lock():
        for handle in list(tables.file._open_files.handlers):
            if handle.mode != "r" and _leads_to(handle, path):
                raise FileBusyError(
                    f"{path}: this process has the file open with tables.open_file(..., {handle.mode!r}), or as an "
                    "HDFStore. Close it first"
                )
    with open(path, "rb") as file:
        check_no_writer(file.fileno(), path)


def _leads_to(handle: tables.File, path: str) -> bool:
    """Whether a file that PyTables has open is the one at `path`, whatever name it was opened by."""
    try:
        return os.path.samestat(os.fstat(handle.fileno()), os.stat(path))
    except (OSError, ValueError, tables.HDF5ExtError):  # a driver without a descriptor
        return bool(os.path.abspath(handle.filename) == path)
