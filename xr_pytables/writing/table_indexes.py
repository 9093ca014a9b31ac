"""Making PyTables' indexes of a table.

Only PyTables can make them, so this is the one place that opens a file on disk with it: a file with nothing in it but
what this project wrote. Where the new version of a file holds other things as well, the indexed columns go to a table
in a file of its own, value by value, and their indexes come back.

Tested in `tests/writing/test_table_writing.py`.
"""

from __future__ import annotations

import os
import posixpath
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import tables

from ..hdf5.dataset import DatasetInfo
from ..hdf5.datatype import Datatype
from ..library import libhdf5 as h5
from ..library.libhdf5 import call
from ..library.target_file import ArrayLayout, TargetFile
from ..model.attributes import EncodedAttribute
from ..model.leaves import read_column
from ..model.pytables_types import as_pytables

TABLE_VERSION: Final = "2.7"
"""Of PyTables' format of tables (tables.table.obversion)."""
_ASIDE: Final = "indexing.h5"
_BATCH_BYTES: Final = 2**25
"""Of rows that are copied at once."""


class ColumnIndex(NamedTuple):
    """An index to make."""

    column: str
    """Path in the table: `a/b` for a nested column."""
    kind: str
    optlevel: int = 6
    """As for `tables.Column.create_index`."""


def create_indexes(path: str, folder: str, indexes: Mapping[str, Sequence[ColumnIndex]], *, ours_alone: bool) -> None:
    """Index columns of tables in the file at `path`, by the path of the table.

    Temporary files go to `folder`. `ours_alone` says that this project wrote everything in the file; else indexes that
    the table has are replaced. The caller holds the HDF5 lock. A second call for the same file changes nothing.
    """
    for table, wanted in indexes.items():
        if not wanted:
            continue
        if ours_alone:
            if not _has_index(path, table):
                _index(path, table, wanted, folder)
            continue
        aside = os.path.join(folder, _ASIDE)
        if os.path.exists(aside):  # of an earlier run of this step
            os.unlink(aside)
        with TargetFile(aside, create=True) as own, TargetFile(path, create=False) as file:
            own.require_group(posixpath.dirname(table))
            _copy_columns(file, table, [tuple(each.column.split("/")) for each in wanted], own)
        _index(aside, table, wanted, folder)
        with TargetFile(aside, create=False) as own, TargetFile(path, create=False) as file:
            source = h5.name_bytes(_index_of(table))
            if file.exists(_index_of(table)):  # in one go with the copy, which HDF5 puts in its place
                file.remove(_index_of(table))
            call("H5Ocopy", own.id, source, file.id, source, h5.DEFAULT, h5.DEFAULT)
        os.unlink(aside)


def _index_of(table: str) -> str:
    folder, leaf = posixpath.split(table)
    return posixpath.join(folder, f"_i_{leaf}")


def _has_index(path: str, table: str) -> bool:
    with TargetFile(path, create=False) as file:
        return file.exists(_index_of(table))


def _copy_columns(file: TargetFile, table: str, members: Sequence[tuple[str, ...]], own: TargetFile) -> None:
    """A table of these columns alone: its type, attributes and chunks are made here, only numbers and bytes copied.

    So PyTables sees nothing that others wrote. The chunks have as many rows: indexes depend on that.
    """
    with file.on_disk() as source:
        info = as_pytables(source.dataset(source.resolve(table).address))
        record, rows = record_of(info.datatype, members), (info.shape or (0,))[0]
        own.create_array(table, ArrayLayout((rows,), record, (h5.UNLIMITED,), info.chunkshape))
        own.write_attributes(table, table_attributes(record, rows))
        step = rows_at_once(info)
        for start in range(0, rows, step):
            some = np.zeros(min(step, rows - start), record)
            for member in members:
                member_of(some, member)[...] = read_column(source, info, member, slice(start, start + len(some)))
            own.write(table, (start,), some)


def rows_at_once(info: DatasetInfo) -> int:
    """How many rows of a table are copied together."""
    return max(_BATCH_BYTES // info.datatype.itemsize, 1)


def member_of(rows: np.ndarray, member: Sequence[str]) -> np.ndarray:
    """One column of rows, perhaps in a record inside of them: a view."""
    for name in member:
        rows = rows[name]
    return rows


def record_of(compound: Datatype, members: Sequence[tuple[str, ...]]) -> np.dtype:
    """The type of rows of these columns alone, packed."""
    fields: list[tuple[str, np.dtype | None]] = []
    for name in dict.fromkeys(member[0] for member in members):
        inner = [member[1:] for member in members if member[0] == name]
        datatype = next(field.datatype for field in compound.fields if field.name == name)
        fields.append((name, datatype.dtype if inner == [()] else record_of(datatype, inner)))
    return np.dtype(fields)


def table_attributes(record: np.dtype, rows: int) -> Iterable[EncodedAttribute]:
    """What makes an array of records a Table for PyTables."""
    yield EncodedAttribute("CLASS", np.array(b"TABLE"))
    yield EncodedAttribute("VERSION", np.array(TABLE_VERSION.encode()))
    yield EncodedAttribute("TITLE", None)
    yield rows_attribute(rows)
    for number, name in enumerate(record.names or ()):
        yield EncodedAttribute(f"FIELD_{number}_NAME", np.array(name.encode()), utf8=not name.isascii())


def rows_attribute(rows: int) -> EncodedAttribute:
    """How many rows a table has, as PyTables notes it."""
    return EncodedAttribute("NROWS", np.array(rows, "i8"))


def _index(path: str, table: str, columns: Iterable[ColumnIndex], folder: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tables.NaturalNameWarning)
        with tables.open_file(path, "a") as file:
            node = file.get_node(table)
            for column, kind, optlevel in columns:
                node.cols._f_col(column).create_index(kind=kind, optlevel=optlevel, tmp_dir=folder)
