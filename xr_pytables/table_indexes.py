"""Making PyTables' indexes of a table that was just written.

Only PyTables can make them, so this is the one place that opens a file with it: a file with nothing in it but what
this project wrote. Where the new version of a file holds other things as well, the table goes to a file of its own
and its index comes back.
"""

from __future__ import annotations

import os
import posixpath
import warnings
from collections.abc import Iterable, Mapping

import tables

from . import libhdf5 as h5
from .libhdf5 import call
from .target_file import TargetFile

_ASIDE = "indexing.h5"


def create_indexes(
    path: str, folder: str, indexes: Mapping[str, Iterable[tuple[str, str]]], *, ours_alone: bool
) -> None:
    """Index columns of tables in the file at `path`, by the path of the table: (column, kind).

    Temporary files go to `folder`. `ours_alone` says that this project wrote everything in the file. The caller holds
    the HDF5 lock. A second call for the same file does nothing.
    """
    for table, columns in indexes.items():
        wanted = list(columns)
        if not wanted or _has_index(path, table):
            continue
        if ours_alone:
            _index(path, table, wanted, folder)
            continue
        aside = os.path.join(folder, _ASIDE)
        if os.path.exists(aside):  # of an earlier run of this step
            os.unlink(aside)
        with TargetFile(aside, create=True) as own, TargetFile(path, create=False) as file:
            own.require_group(posixpath.dirname(table))
            _copy(file, table, own)
        _index(aside, table, wanted, folder)
        with TargetFile(aside, create=False) as own, TargetFile(path, create=False) as file:
            _copy(own, _index_of(table), file)
        os.unlink(aside)


def _index_of(table: str) -> str:
    folder, leaf = posixpath.split(table)
    return posixpath.join(folder, f"_i_{leaf}")


def _has_index(path: str, table: str) -> bool:
    with TargetFile(path, create=False) as file:
        return file.exists(_index_of(table))


def _copy(source: TargetFile, path: str, target: TargetFile) -> None:
    call("H5Ocopy", source.id, h5.name_bytes(path), target.id, h5.name_bytes(path), h5.DEFAULT, h5.DEFAULT)


def _index(path: str, table: str, columns: Iterable[tuple[str, str]], folder: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tables.NaturalNameWarning)
        with tables.open_file(path, "a") as file:
            node = file.get_node(table)
            for column, kind in columns:
                node.cols._f_col(column).create_index(kind=kind, tmp_dir=folder)
