"""Whether PyTables' index of a column agrees with its table: the values in order, and of each row its own.

An index lists the values of the rows in an order of its own, so sums are compared that do not depend on the order: of a
number for each row that is made of its bucket and its value. (Where not all values are kept, of buckets alone.)

Tested in `tests/tools/test_verifying.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..hdf5.dataset import DatasetInfo
from ..hdf5.file import File
from ..model import leaves
from ..model.pytables_types import as_pytables
from ..model.specs import VariableSpec
from .table_index import IndexSearch, IndexSpec, UnusableIndexError, describe_indexes

_AT_ONCE: Final = 1 << 24  # bytes
_ODD: Final = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def contradictions(file: File, path: str, info: DatasetInfo) -> Iterator[tuple[str, str]]:
    """Column and reason for each index of the table at `path` that PyTables takes for good and that is not.

    Reads all of the table's columns that are indexed, and of the indexes. Raises FormatError for what is damaged.
    """
    info = as_pytables(info)
    columns = [
        VariableSpec(
            file=file.path,
            path=path,
            name=names[-1],
            info=info,
            shape=(*(info.shape or ()), *datatype.shape),
            dtype=datatype.dtype.newbyteorder("="),
            dims=("row",),
            chunks=info.chunkshape,
            member=names,
            element=datatype,
            base_address=file.base_address,
        )
        for names, datatype in info.datatype.columns()
        if datatype.dtype is not None
    ]
    for column, spec in describe_indexes(file, columns).usable.items():
        try:
            _check(file, info, column, spec)
        except UnusableIndexError as error:
            yield column, str(error)


def _check(file: File, info: DatasetInfo, column: str, spec: IndexSpec) -> None:
    rows = (info.shape or (0,))[0]
    search = IndexSearch(spec, rows, lambda array, key: _read(file, array, key))
    found = wanted = 0
    for number, count in [*((each, spec.slicesize) for each in range(spec.slices)), (spec.slices, spec.rest)]:
        if count:
            values = search.checked_values(number)
            entries = search.entries(number, 0, count)
            found += _sum(entries, values if spec.reduction == 1 else None)
    step = max(1, _AT_ONCE // max(info.datatype.itemsize, 1))
    for start in range(0, spec.rows, step):
        some = slice(start, min(start + step, spec.rows))
        values = leaves.read_column(file, info, tuple(column.split("/")), some)
        wanted += _sum(search.stored_buckets(some.start, some.stop), values if spec.reduction == 1 else None)
    if (found - wanted) % (1 << 64):
        raise UnusableIndexError("it does not name each row of the table with its value")


def _read(file: File, array: VariableSpec, key: tuple[Any, ...]) -> NDArray[Any]:
    slices = tuple(slice(each, each + 1) if isinstance(each, int) else each for each in key)
    values = leaves.read(file, as_pytables(array.info), slices)
    return values[tuple(0 if isinstance(each, int) else slice(None) for each in key)]


def _sum(places: NDArray[np.int64], values: NDArray[Any] | None) -> int:
    """A sum over pairs, whatever their order."""
    mixed = _mixed(places.astype(np.uint64))
    if values is not None:
        width = -(-values.dtype.itemsize // 8)
        words = np.zeros((len(values), width * 8), np.uint8)
        words[:, : values.dtype.itemsize] = np.ascontiguousarray(values).view(np.uint8).reshape(len(values), -1)
        for word in words.view(np.uint64).T:
            mixed = _mixed(mixed ^ word)
    return int(np.add.reduce(mixed, dtype=np.uint64))


def _mixed(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Numbers of which each bit depends on all bits of the given ones (the last step of SplitMix64)."""
    words = words + _ODD[0]
    words = (words ^ words >> np.uint64(30)) * _ODD[1]
    words = (words ^ words >> np.uint64(27)) * _ODD[2]
    return words ^ words >> np.uint64(31)
