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

from ..disk.files import FileIdentity
from ..disk.opened_files import hdf5_lock
from ..hdf5.attributes import RawAttribute
from ..hdf5.file import File
from ..library.target_file import ArrayLayout
from ..model import attributes, frames, hdfstore, leaves
from ..model.attributes import EncodedAttribute
from ..model.frames import FREQUENCY, MARK, TIME_ZONE, Frame
from ..model.hdfstore import PandasObject
from ..model.pytables_types import as_pytables
from ..model.specs import GroupSpec
from ..sources.buffer import Buffer
from . import layouts
from .frame_columns import MISSING, Given, GivenFrame, as_attributes_say, given_frame, stored_text
from .plans import Existing, GroupPlan, VariablePlan, WritePlan
from .request import WriteRequest
from .table_indexes import ColumnIndex, rows_attribute
from .table_plan import (
    Column,
    StoredTable,
    check_can_grow,
    check_place,
    layout_of,
    more_rows,
    rows_of,
    storage_wishes,
    with_indexes,
)
from .text_layout import declared_width
from .variable_plan import teller_of

TABLE: Final = "table"
"""The name of the table in the group of an object."""
_META: Final = "meta"
"""The name of the group, in that of an object, of its categories."""
_INDEX: Final = "index"
"""The column of the index; of a MultiIndex, whose levels are columns of their own, it counts the rows."""
_KIND: Final = "medium"
"""Of the indexes that pandas has PyTables make."""


@dataclass(frozen=True)
class StoredFrame:
    """An object in the table format that is in the file."""

    frame: Frame
    table: StoredTable
    categories: Mapping[str, pd.Index]
    """By column of the table, as pandas has them."""


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
    if not replaced:
        check_place(path, parent, leaf, existing)
        if parent in existing and leaf in existing[parent].tables:
            raise ValueError(
                f"{where}: there is a table that is no object of pandas. Write to another group, or append to it with "
                "layout='table'"
            )
    given = _given(request, where, request.encoding or {})
    if not given.columns or not given.rows:
        what = "rows" if given.columns else "columns"
        raise ValueError(f"{where}: the object has no {what}, and pandas makes no table for such. Leave it out")
    data_columns = _checked_data_columns(request.data_columns, given, where)
    file = _one_row(given, group, data_columns, where)
    made = hdfstore.describe(file, group, allow_pickle=False)
    matched = _matched(given, made.frame, _categories(file, made), where, _NEW)
    info = as_pytables(file.dataset(file.resolve(posixpath.join(group, TABLE)).address))
    record = info.datatype.dtype
    assert record is not None  # pandas has just made it
    wishes = storage_wishes(given.variables, request.encoding or {}, request.filter_words, where)
    wishes = {key: value for key, value in wishes.items() if key == "chunksizes" or key in layouts.COMPRESSION_KEYS}
    layout = layout_of(record, given.rows, given.dim, wishes, where)
    data = rows_of(_columns(matched, record, 0, given.rows), record, given.rows, layout, where)
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
    if not given.rows:  # as pandas has it: there is nothing whose kind could be wrong
        return WritePlan(path, "a", (), (), version, in_parts=True)
    if not stored.frame.problems and stored.frame.dim != given.dim:
        raise ValueError(f"{where}: the index is called {stored.frame.dim!r}, that of the new rows {given.dim!r}")
    matched = _matched(given, stored.frame, stored.categories, where, _APPENDED)
    record = stored.table.spec.variables[0].info.datatype.dtype
    assert record is not None  # `check_can_grow`
    before = stored.table.spec.variables[0].shape[0]
    columns = _columns(matched, record, before, given.rows)
    variable = more_rows(stored.table, TABLE, columns, given.rows, where)
    groups = (GroupPlan(group, (), (), (variable,)),)
    return with_indexes(WritePlan(path, "a", groups, (), version, in_parts=True), stored.table, table, {}, given.rows)


def describe_stored(file: File, group: str, table: StoredTable) -> StoredFrame:
    """What has to be known of an object in an open file to append to it."""
    found = hdfstore.describe(file, group, allow_pickle=False)
    return StoredFrame(found.frame, table, _categories(file, found))


def _categories(file: File, found: PandasObject) -> dict[str, pd.Index]:
    """The categories of each column of a table that has some, or that could have and has none."""
    categories = {}
    for column in (*found.frame.index, *found.frame.columns):
        source = column.categories
        if source is not None and source.member is not None:
            stored = leaves.read_column(file, found.infos[source.array], (source.member,))
            values = frames.decode(stored, source.decoding, source.dtype)
            values = values[:, source.item] if source.item is not None else values
            categories[str(column.member)] = as_attributes_say(pd.Index(values), source.attributes, file.name)
        elif column.decoding.kind == "missing":
            categories[str(column.member)] = pd.Index([], dtype=object)
    return categories


def check_alone(file: File, group: str) -> None:
    """Raise ValueError if more than the object at `group` would go with its group.

    Raises UnknownLayoutError if it cannot be said what belongs to the object.
    """
    found = hdfstore.describe(file, group, allow_pickle=False)
    names = {link.name for link in file.links(file.resolve(group).address)}
    others = sorted(names - found.frame.parts - {f"_i_{TABLE}"})
    if _META in names & found.frame.parts:
        others += sorted(_strangers(file, group, _META))
    if others:
        raise ValueError(
            f"{file.name}:{group}: the group of the object holds {', '.join(map(repr, others))} as well, which would "
            "go with it. Write to another group"
        )


def _strangers(file: File, group: str, below: str, above: frozenset[int] = frozenset()) -> Iterator[str]:
    """What lies among the tables of categories and is none, relative to `group`; `above` has addresses of groups."""
    address = file.resolve(posixpath.join(group, below)).address
    is_categories = MARK in file.attributes(address)
    above |= {address}
    for link in file.links(address):
        path = posixpath.join(below, link.name)
        if is_categories:
            is_stranger = link.name not in (TABLE, f"_i_{TABLE}")
        else:
            is_stranger = link.kind != "hard" or link.address in above or file.kind(link.address) != "group"
            if not is_stranger:
                yield from _strangers(file, group, path, above)
        if is_stranger:
            yield path


# -- arguments ---------------------------------------------------------------------------------------------


_PANDAS: Final = 3
"""Versions before it forget the unit of times with a zone, and take a category called `nan` for a missing one."""


def _given(request: WriteRequest, where: str, encoding: Mapping[Hashable, Any]) -> GivenFrame:
    if int(pd.__version__.partition(".")[0]) < _PANDAS:
        raise ValueError(f"{where}: layout='pandas' needs pandas {_PANDAS}; this is pandas {pd.__version__}")
    widths = _widths(encoding, where)
    given = given_frame(request.obj, where, widths)
    unknown = set(encoding) - {column.name for column in (*given.columns, *given.index)} - {given.dim}
    if unknown:
        raise KeyError(f"{where}: encoding names {', '.join(map(repr, unknown))}, which the object does not have")
    called = {column.name: column for column in given.columns}
    for level in given.index:
        name = given.dim if level.name is None and len(given.index) == 1 else level.name
        called.setdefault(name, level)
    for name, one in called.items():
        if one.width is None and name in widths:
            raise ValueError(
                f"{one.label} is {one.shown()}, and encoding has the width of text for it. Leave its 'dtype' out, or "
                "convert it with astype(str)"
            )
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
        return asked or []
    if isinstance(asked, str) or not isinstance(asked, Iterable):
        example = [asked if isinstance(asked, str) else given.columns[0].name]
        raise TypeError(
            f"{where}: data_columns must be a list of names, e.g. data_columns={example!r}, or True, not {asked!r}"
        )
    names, columns = list(asked), [column.name for column in given.columns]
    unknown = [name for name in names if name not in columns]
    if unknown:
        raise ValueError(
            f"{where}: data_columns names {', '.join(map(repr, unknown))}; the columns are "
            f"{', '.join(map(repr, columns))}"
        )
    twice = [name for number, name in enumerate(names) if name in names[:number]]
    if twice:
        raise ValueError(f"{where}: data_columns names {', '.join(map(repr, twice))} more than once")
    return names


# -- what pandas makes of one row --------------------------------------------------------------------------


def _one_row(given: GivenFrame, group: str, data_columns: list[Hashable] | bool, where: str) -> File:
    """A file in memory to which pandas has written one row. Raises what pandas raises, naming the object."""
    series = given.labels is None
    alone = {column.name for column in given.columns} if data_columns is True else set(data_columns or ())
    widths: dict[Hashable, int] = {}
    for number, level in enumerate(given.index):
        if level.width is not None and len(given.index) > 1:
            widths[level.name if level.name is not None else f"level_{number}"] = level.width
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

    def means_something(name: str) -> bool:
        return name == "TITLE" or frames.is_own_attribute(name)  # PyTables' title of the group, and pandas' own

    told = teller_of(given.encoding)
    return attributes.encode(given.attributes, where=where, leave_out=told, means_something=means_something)


# -- columns -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Matched:
    """A column that is given, and where it goes."""

    given: Given
    member: str
    item: int | None
    nan_rep: str | None


_NEW: Final = "Names that occur twice, or that pandas changes, cannot be kept: rename them"
_APPENDED: Final = "Appended rows have the same names: rename them, or add or leave out columns"


def _matched(
    given: GivenFrame, frame: Frame, categories: Mapping[str, pd.Index], where: str, way_out: str
) -> list[_Matched]:
    """What is given, each with its place in a row; columns and levels are found by their names.

    Raises ValueError where names or kinds are not those of `frame`, and `way_out` for the names.
    """
    own: list[Hashable] = [column.name for column in given.columns]
    if given.labels is None:
        own = [frames.label(own[0] or "values")]  # as pandas calls the column of a series
    pairs = _paired(given.columns, own, frame.columns, f"{where}: the object has the columns", way_out)
    own, levels = [given.dim], frame.index
    if len(given.index) > 1:
        own = [f"level_{number}" if one.name is None else str(one.name) for number, one in enumerate(given.index)]
    elif len(levels) == 1:  # whose name may be another where a column has it
        levels = (replace(levels[0], name=given.dim),)
    pairs += _paired(given.index, own, levels, f"{where}: the index has the levels", way_out)
    found = []
    for one, column in pairs:
        _check_like(one, column, categories.get(str(column.member)))
        found.append(_Matched(one, str(column.member), column.item, column.decoding.nan_rep))
    return found


def _paired(
    given: Sequence[Given], names: Sequence[Hashable], columns: Sequence[frames.Column], what: str, way_out: str
) -> list[tuple[Given, frames.Column]]:
    by_name = {repr(column.name): column for column in columns}
    if sorted(map(repr, names)) != sorted(by_name):
        raise ValueError(f"{what} {', '.join(map(repr, names))}; as stored they are {', '.join(by_name)}. {way_out}")
    return [(one, by_name[repr(name)]) for one, name in zip(given, names, strict=True)]


def _check_like(given: Given, column: frames.Column, categories: pd.Index | None) -> None:
    """Raise ValueError if what is stored in `column`, which has these categories, is not read as what is given."""
    if given.categories is not None and categories is not None:
        if not _are_same(given.categories, categories):
            raise ValueError(
                f"{given.label} has the categories {_told(given.categories)}, and would be stored with "
                f"{_told(categories)}. Choose others with cat.set_categories() or cat.rename_categories()"
            )
        if given.is_ordered != column.ordered:
            kinds = ("without an order", "in an order")
            raise ValueError(
                f"{given.label} has categories {kinds[given.is_ordered]}, and would be stored with categories "
                f"{kinds[column.ordered]}. Convert it with cat.as_{'ordered' if column.ordered else 'unordered'}()"
            )
    elif not _is_like(given, column):
        zone, freq = column.attributes.get(TIME_ZONE), column.attributes.get(FREQUENCY)
        kind = "text" if column.decoding.kind == "text" else column.dtype
        kind = f"categories {_told(categories)}" if categories is not None else kind
        said = ", ".join([str(kind), *map(str, filter(None, (zone, freq)))])
        raise ValueError(f"{given.label} is {given.shown()}, and would be stored as {said}. Convert it with astype()")


def _told(categories: pd.Index) -> str:
    """The first of them, and their type, for messages."""
    shown = [*map(repr, categories[:_SHOWN].tolist()), *["..."] * (len(categories) > _SHOWN)]
    return f"[{', '.join(shown)}] ({categories.dtype})"


_SHOWN: Final = 10


def _are_same(given: pd.Index, stored: pd.Index) -> bool:
    """Whether categories are equal and of one type; all that pandas has for text, or for none, are one."""
    is_text = {given.inferred_type, stored.inferred_type} <= {"string", "empty"}
    return given.tolist() == stored.tolist() and (is_text or not len(given) or given.dtype == stored.dtype)


def _is_like(given: Given, column: frames.Column) -> bool:
    """Whether what is stored in `column` is read as what is given, which are no categories."""
    if given.width is not None:
        return column.decoding.kind == "text" and column.decoding.encoding == "utf_8" and column.categories is None
    return (
        given.categories is None
        and column.decoding.kind in ("plain", "times")
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
