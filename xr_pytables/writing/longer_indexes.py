"""Indexes of a table that go on when rows are appended, as far as PyTables goes on with them.

PyTables itself sorts the rows behind the last whole slice of an index, in a file that holds nothing else: a table with
these rows alone, and arrays of the index that are as long as those in the user's file, without values. What it adds is
put into the user's file as the values of any array are, in place or in a copy. So PyTables sees nothing that others
wrote but numbers.

Tested in `tests/writing/test_table_appending.py`.
"""

from __future__ import annotations

import os
import posixpath
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import tables
from tables.idxutils import get_reduction_level

from ..disk.opened_files import hdf5_lock
from ..hdf5.file import File
from ..library import libhdf5 as h5
from ..library.target_file import ArrayLayout, TargetFile, why_not_encode
from ..model import attributes
from ..model.attributes import EncodedAttribute
from ..model.leaves import read, read_column
from ..sources.local import LocalFile
from ..sources.source import Source
from ..where.table_index import IndexSpec, TableIndexes, UnusableIndexError, array_spec
from .blocks import Box, InMemory, Values
from .plans import GroupPlan, LongerIndex, VariablePlan, WritePlan
from .table_indexes import member_of, record_of, rows_at_once, rows_attribute, table_attributes

_GROWN: Final = ("sorted", "indices", "ranges", "mranges", "bounds", "abounds", "zbounds", "mbounds")
"""Arrays that get something for each slice."""
_REST: Final = ("sortedLR", "indicesLR")
"""Arrays that hold the rows behind the last whole slice."""
_TABLE: Final = "/rows"
_INDEXES: Final = "/_i_rows"


# -- what can be continued ------------------------------------------------------------------------------------


def describe_longer(file: File, indexes: TableIndexes) -> dict[str, LongerIndex]:
    """Those of a table's indexes that can go on, by the path of the column; reads headers and attributes only."""
    found = {name: _described(file, spec) for name, spec in indexes.usable.items()}
    return {name: each for name, each in found.items() if each is not None}


def _described(file: File, spec: IndexSpec) -> LongerIndex | None:
    folder, arrays = posixpath.dirname(spec.arrays["sorted"].path), dict(spec.arrays)
    try:
        for name in set(_GROWN) - set(arrays):
            arrays[name] = array_spec(file, file.resolve(posixpath.join(folder, name)))
        sorted_wholly = file.attributes(file.resolve(folder).address).get("is_csi")
    except (OSError, UnusableIndexError):
        return None
    if spec.kind == "full" and (
        sorted_wholly is None or not isinstance(sorted_wholly.value, np.ndarray) or sorted_wholly.value.any()
    ):
        return None  # it would be sorted slice by slice only
    if get_reduction_level(spec.arrays["indices"].dtype.itemsize, spec.optlevel, spec.slicesize, spec.chunksize) != (
        spec.reduction
    ):
        return None
    slices, kept, chunks = spec.slices, spec.slicesize // spec.reduction, spec.slicesize // spec.chunksize
    expected: dict[str, tuple[int, ...]] = {
        "sorted": (slices, kept), "indices": (slices, spec.slicesize), "ranges": (slices, 2), "mranges": (slices,),
        "bounds": (slices, chunks - 1), "abounds": (slices * chunks,), "zbounds": (slices * chunks,),
        "mbounds": (slices * chunks,), "sortedLR": (kept + chunks + 1,), "indicesLR": (spec.slicesize,),
    }  # fmt: skip
    for name, shape in expected.items():
        info = arrays[name].info
        if info.shape != shape or why_not_encode(info) or (name in _GROWN and info.maxshape[0] != h5.UNLIMITED):
            return None
    return LongerIndex(spec, arrays)


# -- carrying it out ------------------------------------------------------------------------------------------


def with_longer_indexes(
    plan: WritePlan, values: Mapping[str, Values], source: Source, folder: str
) -> tuple[WritePlan, Mapping[str, Values]]:
    """The plan with what changes in indexes that go on, and the values for that, which lie in files of `folder`.

    `values` are those of the new rows, `source` is the file as it is.
    """
    groups, found = list(plan.groups), dict(values)
    for number, (table, indexes) in enumerate(plan.longer.items()):
        if not indexes:
            continue
        (variable,) = (each for group, each in plan if posixpath.join(group.path, each.name) == table)
        aside = os.path.join(folder, f"longer-{number}.h5")
        with hdf5_lock():
            _sort_aside(aside, indexes, variable, values[table], File(source))
        for index in indexes:
            path = posixpath.dirname(index.arrays["sorted"].path)
            parts = dict(_parts(index, aside))
            groups.append(GroupPlan(path, (), (), tuple(each for each, _ in parts.values())))
            found |= {posixpath.join(path, name): made for name, (_, made) in parts.items()}
    return replace(plan, groups=tuple(groups)), found


def _sort_aside(path: str, indexes: Sequence[LongerIndex], variable: VariablePlan, values: Values, file: File) -> None:
    """Let PyTables add the rows behind the last whole slice of each index. The caller holds the HDF5 lock."""
    assert variable.stored is not None  # rows are appended to a table
    info, (before,), (after,) = variable.stored.info, variable.start, variable.layout.shape
    members = [tuple(each.spec.column.split("/")) for each in indexes]
    record = record_of(info.datatype, members)
    if os.path.exists(path):  # of an earlier run of this step
        os.unlink(path)
    with TargetFile(path, create=True) as own:
        own.create_array(_TABLE, ArrayLayout((0,), record, (h5.UNLIMITED,), info.chunkshape))
        own.write_attributes(_TABLE, table_attributes(record, 0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tables.NaturalNameWarning)
        with tables.open_file(path, "a") as made:
            for spec in (each.spec for each in indexes):
                block = spec.slices_per_block * spec.slicesize
                made.get_node(_TABLE).cols._f_col(spec.column).create_index(
                    kind=spec.kind,
                    optlevel=spec.optlevel,
                    tmp_dir=os.path.dirname(path),
                    _blocksizes=(block, block, spec.slicesize, spec.chunksize),
                )
        with TargetFile(path, create=False) as own:
            for each in indexes:
                for name in _GROWN:
                    with own.array(posixpath.join(_INDEXES, each.spec.column, name)) as array:
                        array.set_shape(each.arrays[name].info.shape or ())
                if each.spec.kind == "full":  # which may have put any row of the table there
                    _put_rest(own, each.spec, file)
            with own.array(_TABLE) as array:
                array.set_shape((after,))
            own.write_attributes(_TABLE, [rows_attribute(after)])
            first = min(each.spec.slices * each.spec.slicesize for each in indexes)
            step = rows_at_once(info)
            for start in range(first, after, step):
                stop = min(start + step, after)
                border = min(max(start, before), stop)  # rows before it are in the file, those from it on are new
                some = np.zeros(stop - start, record)
                new = values.read((slice(border - before, stop - before),)) if border < stop else some[:0]
                for member in members:
                    place = member_of(some, member)
                    place[: border - start] = read_column(file, info, member, slice(start, border))
                    place[border - start :] = member_of(new, member)
                own.write(_TABLE, (start,), some)
        with tables.open_file(path, "a") as made:
            made.get_node(_TABLE).flush_rows_to_index()


def _put_rest(own: TargetFile, spec: IndexSpec, file: File) -> None:
    """Give an index what the one in the file has behind its last whole slice."""
    for name in _REST:
        path = posixpath.join(_INDEXES, spec.column, name)
        own.write(path, (0,), read(file, spec.arrays[name].info, (slice(0, spec.rest),)))
        own.write_attributes(path, [_elements(spec.rest)])


def _elements(count: int) -> EncodedAttribute:
    """How many elements of an array for the rest count, as PyTables notes it."""
    return EncodedAttribute("nelements", np.array(count, "i8"))


def _parts(index: LongerIndex, path: str) -> Iterator[tuple[str, tuple[VariablePlan, Values]]]:
    """What each array of an index gets, from the file at `path`."""
    step = index.spec.chunksize // index.spec.reduction
    with open(path, "rb") as raw:
        file = File(LocalFile(raw.fileno(), path))
        for name, spec in index.arrays.items():
            there = posixpath.join(_INDEXES, index.spec.column, name)
            address = file.resolve(there).address
            shape, count = file.dataset(address).shape, 0
            assert shape is not None  # PyTables made it
            start, length = (0,) * len(shape), shape
            noted: tuple[EncodedAttribute, ...] = ()
            if name in _REST:
                (count,) = attributes.numbers(file.attributes(address)["nelements"]) or (0,)
                noted = (_elements(count),)
                bounds = -(-count // step) + 1 if count and name == "sortedLR" else 0
                length = (count + bounds,)
            else:
                start = (spec.shape[0], *start[1:])
                length = (shape[0] - spec.shape[0], *shape[1:])
            layout = ArrayLayout(
                shape, spec.info.datatype.dtype, spec.info.maxshape, spec.info.chunkshape, spec.info.filters
            )
            plan = VariablePlan(name, spec.dims, layout, noted, None, action="put", start=start, stored=spec)
            made = _Made(path, there, start, length, spec.dtype.itemsize)
            yield name, (plan, InMemory(made.read(*made.pieces())) if name in _REST else made)


@dataclass(frozen=True)
class _Made:
    """A part of an array that PyTables has made, from `start` on."""

    file: str
    path: str
    start: tuple[int, ...]
    shape: tuple[int, ...]
    itemsize: int

    def read(self, box: Box) -> np.ndarray:
        """See Values."""
        part = tuple(slice(first + a.start, first + a.stop) for first, a in zip(self.start, box, strict=True))
        with open(self.file, "rb") as raw:
            file = File(LocalFile(raw.fileno(), self.file))
            return read(file, file.dataset(file.resolve(self.path).address), part)

    def pieces(self) -> Iterator[Box]:
        """See Values."""
        yield tuple(slice(0, length) for length in self.shape)
