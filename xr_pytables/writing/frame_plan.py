"""What writing an object of pandas' HDFStore will do: a table that `pd.read_hdf` reads, new or longer.

pandas itself says how: it writes one row of the object to a file in memory. From there come the attributes of all
groups and tables, and the type of a row; the values are ours, written as those of any table (`table_plan`). What a
column of that row means is what our reader says of it (`frames`), so what is read back is what was given, or it is
refused.

Tested in `tests/writing/test_frame_writing.py`.
"""

from __future__ import annotations

import posixpath
import uuid
import warnings
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import dask.array
import numpy as np
import pandas as pd
import tables
from numpy.typing import NDArray

from ..disk.files import FileIdentity, hdf5_lock
from ..hdf5.attributes import RawAttribute
from ..hdf5.file import File
from ..library.target_file import ArrayLayout
from ..model import attributes, frames, hdfstore, leaves
from ..model.attributes import EncodedAttribute
from ..model.frames import FREQUENCY, MARK, TIME_ZONE, Frame
from ..model.pytables_types import as_pytables
from ..model.specs import GroupSpec
from ..sources.buffer import Buffer
from . import layouts
from .frame_columns import MISSING, Given, GivenFrame, given_frame, stored_text
from .plans import Existing, GroupPlan, VariablePlan, WritePlan
from .request import WriteRequest
from .table_indexes import ColumnIndex, rows_attribute
from .table_plan import (
    Column,
    StoredTable,
    check_can_grow,
    check_place,
    kept_indexes,
    layout_of,
    more_rows,
    rows_of,
    storage_wishes,
)
from .text_layout import declared_width
from .variable_plan import teller_of

TABLE: Final = "table"
"""The name of the table in the group of an object."""
_INDEX: Final = "index"
"""The column of the index; of a MultiIndex, whose levels are columns of their own, it counts the rows."""
_KIND: Final = "medium"
"""Of the indexes that pandas has PyTables make."""


@dataclass(frozen=True)
class StoredFrame:
    """An object in the table format that is in the file."""

    frame: Frame
    table: StoredTable
    categories: Mapping[str, NDArray[Any]]
    """By column of the table."""


def is_object(spec: GroupSpec | None) -> bool:
    """Whether a group of the file is that of a pandas object."""
    return spec is not None and MARK in spec.attributes


def plan_frame(request: WriteRequest, existing: Existing, version: FileIdentity | None) -> WritePlan:
    """The plan for a new object at `group`. Raises TypeError and ValueError for what pandas' tables cannot hold."""
    path, mode, group = request.target, request.mode, request.group
    where, (parent, leaf) = f"{path}:{group}", posixpath.split(group)
    if mode == "r+":
        raise ValueError(f"{where}: mode='r+' sets values of arrays; mode='a' replaces the object")
    if not leaf:
        raise ValueError(f"{path}: with layout='pandas', group names the object, e.g. group='/events'")
    replaced = is_object(existing.get(group))
    if replaced:
        _check_alone(existing[group], where)
    else:
        check_place(path, parent, leaf, existing)
    given = _given(request, where, request.encoding or {})
    data_columns = _checked_data_columns(request.data_columns, given, where)
    file = _one_row(given, group, data_columns, where)
    frame = hdfstore.describe(file, group, allow_pickle=False).frame
    matched = _matched(given, frame, {}, where)
    info = as_pytables(file.dataset(file.resolve(posixpath.join(group, TABLE)).address))
    record = info.datatype.dtype
    assert record is not None  # pandas has just made it
    wishes = storage_wishes(given.variables, request.encoding or {}, request.filter_words, where)
    wishes = {key: value for key, value in wishes.items() if key == "chunksizes" or key in layouts.COMPRESSION_KEYS}
    layout = layout_of(record, given.rows, given.dim, wishes, where)
    data = rows_of(_columns(matched, record, 0, given.rows), record, given.rows, layout)
    own = _own_attributes(given, where)
    groups = list(_groups(file, group, layout, data, own))
    if replaced:
        groups.insert(0, GroupPlan(parent, (), (), (), removed=(leaf,)))
    return WritePlan(path, mode, tuple(groups), (), version, _indexes(file, groups))


def plan_longer_frame(request: WriteRequest, version: FileIdentity | None, stored: StoredFrame) -> WritePlan:
    """The plan for more rows of the object at `group`. Raises TypeError and ValueError for what does not fit it."""
    path, group = request.target, request.group
    where, table = f"{path}:{group}", posixpath.join(group, TABLE)
    check_can_grow(stored.table, path, table)
    if request.data_columns:
        raise ValueError(f"{where}: the object is there, and its data columns are chosen. Leave data_columns out")
    if request.encoding:
        raise ValueError(f"{where}: the object is there, and appended to as it is stored. Leave encoding out")
    given = _given(request, where, {})
    if not stored.frame.problems and stored.frame.dim != given.dim:
        raise ValueError(f"{where}: the index is called {stored.frame.dim!r}, that of the new rows {given.dim!r}")
    matched = _matched(given, stored.frame, stored.categories, where)
    record = stored.table.spec.variables[0].info.datatype.dtype
    assert record is not None  # `check_can_grow`
    before = stored.table.spec.variables[0].shape[0]
    columns = _columns(matched, record, before, given.rows)
    variable = more_rows(stored.table, TABLE, columns, given.rows)
    indexes = kept_indexes(stored.table, table, {}, where)
    groups = (GroupPlan(group, (), (), (variable,)),)
    return WritePlan(path, "a", groups, (), version, indexes, in_parts=True)


def describe_stored(file: File, group: str, table: StoredTable) -> StoredFrame:
    """What has to be known of an object in an open file to append to it."""
    found = hdfstore.describe(file, group, allow_pickle=False)
    categories = {}
    for column in (*found.frame.index, *found.frame.columns):
        source = column.categories
        if source is not None and source.member is not None:
            stored = leaves.read_column(file, found.infos[source.array], (source.member,))
            values = frames.decode(stored, source.decoding, source.dtype)
            categories[str(column.member)] = values[:, source.item] if source.item is not None else values
    return StoredFrame(found.frame, table, categories)


# -- arguments ---------------------------------------------------------------------------------------------


_PANDAS: Final = 3
"""Versions before it forget the unit of times with a zone, and take a category called `nan` for a missing one."""


def _given(request: WriteRequest, where: str, encoding: Mapping[Any, Any]) -> GivenFrame:
    if int(pd.__version__.partition(".")[0]) < _PANDAS:
        raise ValueError(f"{where}: layout='pandas' needs pandas {_PANDAS}; this is pandas {pd.__version__}")
    given = given_frame(request.obj, where, _widths(encoding, where))
    unknown = set(encoding) - {column.name for column in (*given.columns, *given.index)} - {given.dim}
    if unknown:
        raise KeyError(f"{where}: encoding names {', '.join(map(repr, unknown))}, which the object does not have")
    if not given.columns or not given.rows:
        what = "rows" if given.columns else "columns"
        raise ValueError(f"{where}: the object has no {what}, and pandas makes no table for such. Leave it out")
    if request.append_dim not in (None, given.dim):
        raise ValueError(f"{where}: rows are appended along {given.dim!r}, not append_dim={request.append_dim!r}")
    if request.unlimited_dims is not None and set(request.unlimited_dims) - {given.dim}:
        raise ValueError(f"{where}: only the rows ({given.dim!r}) of a table can grow, and they always can")
    return given


def _widths(encoding: Mapping[Any, Any], where: str) -> dict[Hashable, int]:
    """Bytes of text columns that `encoding` asks for."""
    found = {}
    for name, asked in encoding.items():
        others = set(asked) - {"dtype", "chunksizes", *layouts.COMPRESSION_KEYS}
        width = declared_width(asked.get("dtype"))
        if others or ("dtype" in asked and width is None):
            raise ValueError(
                f"{where}: variable {name!r}: pandas chooses how values are stored; with layout='pandas' encoding has "
                f"chunks, compression, and the width of text ('dtype': 'S30'), not "
                f"{', '.join(map(repr, sorted(others) or ['dtype']))}. Convert the values with astype()"
            )
        if width is not None:
            found[name] = width
    return found


def _checked_data_columns(asked: bool | Iterable[Hashable], given: GivenFrame, where: str) -> list[Hashable] | bool:
    if isinstance(asked, bool):
        return asked
    if isinstance(asked, str):
        raise TypeError(f"{where}: data_columns must be a list of names, e.g. data_columns=[{asked!r}], or True")
    names, columns = list(asked), [column.name for column in given.columns]
    unknown = [name for name in names if name not in columns]
    if unknown:
        raise ValueError(
            f"{where}: data_columns names {', '.join(map(repr, unknown))}; the columns are "
            f"{', '.join(map(repr, columns))}"
        )
    return names


def _check_alone(spec: GroupSpec, where: str) -> None:
    """Raise ValueError if more than the object would go with its group."""
    others = sorted({*spec.groups, *spec.tables} - {TABLE, "meta"})
    if others:
        raise ValueError(
            f"{where}: the group of the object holds {', '.join(map(repr, others))} as well, which would go with it. "
            "Write to another group"
        )


# -- what pandas makes of one row --------------------------------------------------------------------------


def _one_row(given: GivenFrame, group: str, data_columns: list[Hashable] | bool, where: str) -> File:
    """A file in memory to which pandas has written one row. Raises what pandas raises, naming the object."""
    series = given.labels is None
    alone = {column.name for column in given.columns} if data_columns is True else set(data_columns or ())
    widths: dict[Hashable, int] = {}
    for number, level in enumerate(given.index):
        if level.width is not None:
            name = level.name if level.name is not None else f"level_{number}"
            widths[_INDEX if len(given.index) == 1 else name] = level.width
    for column in given.columns:
        if column.width is not None:
            own = (column.name or "values") if series else column.name
            place = own if series or column.name in alone else "values"
            widths[place] = max(column.width, widths.get(place, 1))
    missing = MISSING[any(column.has_nan for column in (*given.index, *given.columns))]
    with hdf5_lock(), warnings.catch_warnings():
        warnings.simplefilter("ignore", tables.NaturalNameWarning)
        name = f"one row {uuid.uuid4().hex}"  # of no file: it is in memory
        try:
            sample = given.sample()
            with pd.HDFStore(name, "w", driver="H5FD_CORE", driver_core_backing_store=0) as store:
                store.append(group, sample, data_columns=data_columns, min_itemsize=widths, nan_rep=missing)
                return File(Buffer(store.root._v_file.get_file_image(), where))
        except (ValueError, TypeError, KeyError, NotImplementedError, tables.HDF5ExtError) as error:
            raise ValueError(f"{where}: pandas cannot write this object as a table: {error}") from error


def _groups(
    file: File, group: str, layout: ArrayLayout, data: Any, own: Sequence[EncodedAttribute]
) -> Iterator[GroupPlan]:
    """The groups that pandas has made, with `data` in the place of its one row. Tables of categories are complete."""
    address = file.resolve(group).address
    variables, below = [], []
    for link in file.links(address):
        path = posixpath.join(group, link.name)
        place = file.resolve(path)
        if link.name.startswith("_i_"):
            continue
        if file.kind(place.address) == "group":
            below.append(path)
            continue
        info = as_pytables(file.dataset(place.address))
        noted = [each for each in _as_they_are(file.attributes(place.address)) if each.name != "NROWS"]
        rows = leaves.read(file, info) if data is None else data
        record = info.datatype.dtype
        assert record is not None  # pandas has just made it
        shape = layout_of(record, len(rows), "rows", {}, file.name) if data is None else layout
        variables.append(
            VariablePlan(link.name, (f"rows of {link.name}",), shape, (*noted, rows_attribute(len(rows))), rows)
        )
    yield GroupPlan(group, (*_as_they_are(file.attributes(address)), *own), (), tuple(variables))
    for path in below:
        yield from _groups(file, path, layout, None, ())


def _indexes(file: File, groups: Iterable[GroupPlan]) -> dict[str, tuple[ColumnIndex, ...]]:
    """The indexes that pandas had PyTables make, by path of the table."""
    found = {}
    for group in groups:
        for variable in group.variables:
            columns = file.links(file.resolve(posixpath.join(group.path, f"_i_{variable.name}")).address)
            found[posixpath.join(group.path, variable.name)] = tuple(ColumnIndex(each.name, _KIND) for each in columns)
    return found


def _as_they_are(raw: Mapping[str, RawAttribute]) -> Iterator[EncodedAttribute]:
    for name, one in raw.items():
        assert one.value is None or isinstance(one.value, np.ndarray)  # no references
        value = one.value.astype(bool) if one.value is not None and one.datatype.kind == "bitfield" else one.value
        yield EncodedAttribute(name, value, utf8=one.datatype.utf8)


def _own_attributes(given: GivenFrame, where: str) -> list[EncodedAttribute]:
    """The user's attributes, beside pandas'."""
    encoded = attributes.encode(given.attributes, where=where, leave_out=teller_of(given.encoding))
    return [
        replace(each, name=attributes.ESCAPE + each.name) if frames.is_own_attribute(each.name) else each
        for each in encoded
    ]


# -- columns -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Matched:
    """A column that is given, and where it goes."""

    given: Given
    member: str
    item: int | None
    nan_rep: str | None


def _matched(given: GivenFrame, frame: Frame, categories: Mapping[str, NDArray[Any]], where: str) -> list[_Matched]:
    """What is given, each with its place in a row. Raises ValueError where names or kinds are not those of `frame`."""
    own: list[Hashable] = [column.name for column in given.columns]
    there: list[Hashable] = [column.name for column in frame.columns]
    if given.labels is None and len(there) == 1:  # a series is stored as a column of some name
        own = there
    if sorted(map(repr, own)) != sorted(map(repr, there)) or len(given.index) != len(frame.index):
        told = [level.name for level in frame.index] if len(frame.index) > 1 else []
        raise ValueError(
            f"{where}: the object has the columns {', '.join(map(repr, own))}; as stored they are "
            f"{', '.join(map(repr, there))}{f' with the index {told}' if told else ''}. Names that occur twice, or "
            "that pandas changes, cannot be kept: rename them"
        )
    by_name = {repr(column.name): column for column in frame.columns}
    pairs = [*zip(given.index, frame.index, strict=True)]
    pairs += [(column, by_name[repr(name)]) for column, name in zip(given.columns, own, strict=True)]
    found = []
    for one, column in pairs:
        known = categories.get(str(column.member))
        if not _is_like(one, column, known):
            zone, freq = column.attributes.get(TIME_ZONE), column.attributes.get(FREQUENCY)
            kind = "text" if column.decoding.kind == "text" else "categories" if column.categories else column.dtype
            said = ", ".join([str(kind), *map(str, filter(None, (zone, freq)))])
            raise ValueError(
                f"{one.label} is {one.shown()}, and would be stored as {said}. Convert it with astype()"
                f"{'' if known is None else f'; the categories are {known.tolist()}'}"
            )
        found.append(_Matched(one, str(column.member), column.item, column.decoding.nan_rep))
    return found


def _is_like(given: Given, column: frames.Column, categories: NDArray[Any] | None) -> bool:
    """Whether what is stored in `column` is read as what is given."""
    if given.width is not None:
        return column.decoding.kind == "text" and column.decoding.encoding == "utf_8" and column.categories is None
    if given.categories is not None:
        known = column.categories is not None or column.decoding.kind == "missing"
        return known and (categories is None or given.categories.tolist() == categories.tolist())
    return (
        column.decoding.kind in ("plain", "times")
        and column.categories is None
        and column.dtype == given.data.dtype.newbyteorder("=")
        and given.zone == column.attributes.get(TIME_ZONE)
        and given.freq == column.attributes.get(FREQUENCY)
    )


def _columns(matched: Sequence[_Matched], record: np.dtype[Any], before: int, rows: int) -> list[Column]:
    """The columns of the table, `rows` from the row `before` on: blocks are columns of one kind side by side."""
    found = []
    for member in record.names or ():
        parts = sorted((each for each in matched if each.member == member), key=lambda each: each.item or 0)
        kind, width = record[member].base, len(parts)
        data = [_stored(each, kind) for each in parts]
        if not parts:
            assert member == _INDEX, member  # all columns of a table are those of its object
            data = [np.arange(before, before + rows, dtype=kind)]
        elif parts[0].item is not None:
            assert record[member].shape == (width,)
            stack = dask.array.stack if any(isinstance(each, dask.array.Array) for each in data) else np.stack
            data = [stack(data, axis=1)]
        dims = tuple(f"dim_{number}" for number in range(data[0].ndim))
        found.append(Column(member, (member,), dims, kind, tuple(data[0].shape[1:]), (), data[0]))
    return found


def _stored(column: _Matched, kind: np.dtype[Any]) -> Any:
    """The values of a column as the table has them."""
    data = column.given.data
    arguments = (kind, column.nan_rep, column.given.label)
    if isinstance(data, dask.array.Array):
        return data.map_blocks(_elements, *arguments, dtype=kind, meta=np.empty(0, kind))
    return _elements(np.asarray(data), *arguments)


def _elements(values: NDArray[Any], kind: np.dtype[Any], nan_rep: str | None, label: str) -> NDArray[Any]:
    if kind.kind == "S":
        return stored_text(values, kind.itemsize, nan_rep, label)
    if values.dtype.kind in "mM":
        return values.astype(values.dtype.newbyteorder("="), copy=False).view(np.int64)
    return values.astype(kind)
