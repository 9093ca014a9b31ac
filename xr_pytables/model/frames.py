"""What a pandas object in an HDFStore consists of: the columns and index levels of a group, as values.

Knows the layouts of pandas.HDFStore, fixed and table format, and how stored elements become values: `describe` turns
attributes and headers of a group into a `Frame`, `decode` turns elements into values. Sees the file through the
functions of a `Group` only, and asks for labels of columns, never for data. Runs nothing from a file.

Tested in `tests/model/test_hdfstore.py`.
"""

from __future__ import annotations

import datetime
import encodings.aliases
import itertools
import math
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, Protocol, TypeVar

import numpy as np
import pandas as pd

from ..hdf5.dataset import DatasetInfo
from ..hdf5.datatype import Datatype
from .attributes import PANDAS_MARKER
from .safe_pickle import InertObject

MARK: Final = PANDAS_MARKER
"""The attribute of a group that holds a pandas object."""
TIME_ZONE: Final = "time_zone"
"""Attribute of a variable of UTC times: the zone that pandas shows them in."""
FREQUENCY: Final = "freq"
"""Attribute of a variable of integers that count periods: their length, in pandas' words."""
MAX_LABELS: Final = 10_000_000
"""Columns of one object. A file may claim any number."""


class UnknownLayoutError(ValueError):
    """A group is marked as a pandas object, and is none that is known here."""


@dataclass(frozen=True, slots=True)
class Decoding:
    """How stored elements become values."""

    kind: Literal["plain", "times", "ordinals", "text", "objects", "missing"]
    """plain: as they are. times: integers that are datetime64 or timedelta64. ordinals: days since year 1. text: bytes
    of fixed length. objects: one row with a pickled array. missing: nothing is stored, all values are missing."""
    encoding: str = "utf-8"
    errors: str = "strict"
    nan_rep: str | None = None
    """The text that stands for a missing one."""
    unpickle: bool = False
    """Let Python unpickle objects that the restricted decoder refuses."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column, or one level of the index: where it lies in the group and what it means."""

    name: Hashable
    array: str
    """Path of the dataset, relative to the object's group."""
    rows: int
    """In elements. 0 for an object without rows, whatever the dataset holds in its place."""
    dtype: np.dtype[Any]
    """As the user sees it."""
    decoding: Decoding = Decoding("plain")
    member: str | None = None
    """Of a table's rows."""
    item: int | None = None
    """Its position in the dimension after that of the rows; None if there is none."""
    attributes: dict[str, object] = field(default_factory=dict)
    categories: Column | None = None
    """What the stored integers number; negative ones stand for missing values."""
    ordered: bool = False
    """Of categories in a table: whether their order means something."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A pandas object: its index first, then its columns, all along one dimension."""

    dim: str
    index: tuple[Column, ...]
    """One column named like the dimension, or the levels of a MultiIndex."""
    columns: tuple[Column, ...]
    parts: frozenset[str]
    """Names of the datasets and groups that the object consists of."""
    problems: tuple[str, ...] = ()

    @property
    def coordinates(self) -> frozenset[Hashable]:
        return frozenset(column.name for column in self.index)


@dataclass(frozen=True, slots=True)
class StoredArray:
    """A dataset of the group."""

    info: DatasetInfo
    attributes: Mapping[str, object]


class Group(Protocol):
    """What `describe` looks at: a group of a file. Paths are relative to it."""

    @property
    def attributes(self) -> Mapping[str, object]:
        """Decoded."""

    def array(self, path: str) -> StoredArray | None:
        """The dataset at `path`; None if there is none."""

    def read(self, path: str, member: str | None = None) -> np.ndarray[Any, Any]:
        """All elements of a dataset as stored, or of one member; of a row of pickled objects, the decoded array."""

    def has_negative(self, path: str) -> bool:
        """Whether a dataset of integers holds a negative one."""

    def child(self, path: str) -> Group | None:
        """The group at `path`; None if there is none."""


def describe(group: Group) -> Frame:
    """The pandas object that `group` holds. Raises UnknownLayoutError with the reason if it cannot be read as one."""
    kind = _text(group.attributes.get(MARK))
    readers = {"series": _fixed_series, "frame": _fixed_frame, "series_table": _table, "frame_table": _table}
    if kind not in readers:
        raise UnknownLayoutError(f"pandas objects of type {kind!r} are not known")
    try:
        frame = readers[kind](group)
        for column in (*frame.index, *frame.columns):
            _check_elements(group, column)
        return frame
    except UnknownLayoutError:
        raise
    except Exception as error:  # whatever HDF5, NumPy and pandas have to say about what the file chose
        raise UnknownLayoutError(f"{type(error).__name__}: {str(error)[:200]}") from error


_ELEMENTS: Final[Mapping[str, frozenset[str]]] = {
    "plain": frozenset({"integer", "float", "complex", "bool", "string"}),
    "times": frozenset({"integer"}),
    "ordinals": frozenset({"integer", "time"}),
    "text": frozenset({"string"}),
    "objects": frozenset({"vlen"}),
}
"""Kinds of stored elements that can be decoded to each kind of values."""


def _check_elements(group: Group, column: Column) -> None:
    """Raise UnknownLayoutError if the elements of a column are not of the kind that its values need."""
    if column.categories is not None:
        _check_elements(group, column.categories)
    if not column.rows or column.decoding.kind == "missing":
        return
    datatype = _array(group, column.array).info.datatype
    if column.member is not None:
        datatype = next(one.datatype for one in datatype.fields if one.name == column.member)
    if datatype.kind not in _ELEMENTS[column.decoding.kind]:
        raise UnknownLayoutError(
            f"column {column.name!r} is said to be {column.decoding.kind}, and {column.array!r} holds elements of kind "
            f"{datatype.kind!r}"
        )


def is_own_attribute(name: str) -> bool:
    """Whether an attribute of the group is pandas' own, and not the user's."""
    return name in _OWN or bool(_OWN_PATTERN.fullmatch(name))


_OWN: Final = frozenset(
    "pandas_type pandas_version encoding errors ndim nblocks name table_type index_cols values_cols non_index_axes "
    "data_columns nan_rep levels info mi_level_nan_rep data_col_nan_rep".split()
)
_OWN_PATTERN: Final = re.compile(r"(axis\d+|block\d+_items|index)(_categories)?_(variety|nlevels)")


# -- the fixed format --------------------------------------------------------------------------------------


def _fixed_series(group: Group) -> Frame:
    index, parts = _fixed_index(group, "index", _array(group, "values"))
    rows = index[0].rows
    stored = group.attributes.get("name")
    name = "values" if stored is None else label(stored)
    [column] = _block(group, "values", [name], rows)
    return _frame(index, [column], {*parts, "values"}, multi=_is_multi(group, "index"))


def _fixed_frame(group: Group) -> Frame:
    blocks = _count(group.attributes.get("nblocks"))
    first = _array(group, "block0_values") if blocks else None
    index, parts = _fixed_index(group, "axis1", first)
    rows = index[0].rows
    columns: list[Column] = []
    for number in range(blocks):
        names = _fixed_labels(group, f"block{number}_items")
        columns += _block(group, f"block{number}_values", names, rows)
        parts |= {f"block{number}_values", *_index_parts(group, f"block{number}_items")}
    order = _fixed_labels(group, "axis0")
    parts |= set(_index_parts(group, "axis0"))
    return _frame(index, _in_order(columns, order), parts, multi=_is_multi(group, "axis1"))


def _fixed_index(group: Group, key: str, beside: StoredArray | None) -> tuple[list[Column], set[str]]:
    """The levels and the parts of an index; `beside` is an array of as many rows."""
    if not _is_multi(group, key):
        levels = [_index_column(group, key, beside)]
    else:
        levels = [_level(group, key, number) for number in range(_levels(group, key))]
        if len({level.rows for level in levels}) > 1:
            raise UnknownLayoutError(f"the levels of {key!r} have different numbers of rows")
    return levels, set(_index_parts(group, key))


def _is_multi(group: Group, key: str) -> bool:
    variety = _text(group.attributes.get(f"{key}_variety", "regular"))
    if variety not in ("regular", "multi"):
        raise UnknownLayoutError(f"an index of variety {variety!r} is not known")
    return variety == "multi"


def _levels(group: Group, key: str) -> int:
    count = _count(group.attributes.get(f"{key}_nlevels"))
    if not count:
        raise UnknownLayoutError(f"{key!r} has no levels")
    return count


def _index_parts(group: Group, key: str) -> list[str]:
    if not _is_multi(group, key):
        return [key, f"{key}_categories"]
    return [f"{key}_{part}{number}" for number in range(_levels(group, key)) for part in ("level", "label")]


def _level(group: Group, key: str, number: int) -> Column:
    """One level of a MultiIndex: codes, and the values that they number."""
    values = _index_column(group, f"{key}_level{number}", None)
    codes = f"{key}_label{number}"
    stored = _array(group, codes)
    rows = _length(stored)
    _check_codes(stored, codes)
    dtype = values.dtype
    if dtype.kind in "biu" and rows and group.has_negative(codes):  # what pandas does too
        dtype = np.dtype(object) if dtype.kind == "b" else np.dtype(float)
    name = values.name if values.name is not None else f"level_{number}"
    return replace(
        values, name=name, array=codes, rows=rows, dtype=dtype, decoding=Decoding("plain"), categories=values
    )


def _index_column(group: Group, key: str, beside: StoredArray | None) -> Column:
    """A plain index, or the values of a level. `beside` is an array of as many rows, if there is one."""
    stored = _array(group, key)
    attributes = stored.attributes
    name, kind = _name(attributes.get("name")), _text(attributes.get("kind"))
    rows = _length(stored)
    if kind == "category":
        codes = Column(name, key, rows, np.dtype("i8"))
        _check_codes(stored, key)
        categories = _index_column(group, f"{key}_categories", None)
        return _categorical(codes, categories)
    if _text(attributes.get("index_class")) == "period":
        freq = frequency(attributes.get("freq"))
        return Column(name, key, rows, np.dtype("i8"), attributes={FREQUENCY: freq} if freq else {})
    nan_rep = _text(attributes.get("nan_rep", "nan")) or None
    dtype, decoding = _of_kind(kind or "", stored, group, nan_rep=nan_rep)
    if decoding.kind == "objects":
        rows = _length(beside) if beside is not None and not _is_objects(beside) else len(_objects(group, key))
    zone = time_zone(attributes.get("tz"))
    return Column(name, key, rows, dtype, decoding, attributes={TIME_ZONE: zone} if zone else {})


def _of_kind(kind: str, stored: StoredArray, group: Group, *, nan_rep: str | None) -> tuple[np.dtype[Any], Decoding]:
    """dtype and decoding of an index of `kind`, as pandas calls it."""
    if kind.startswith(("datetime64", "timedelta64")):
        return _times(kind), Decoding("times")
    if kind == "date":
        return np.dtype("M8[s]"), Decoding("ordinals")
    if kind == "string":
        return np.dtype(object), _text_decoding(group, nan_rep)
    if kind == "object" or _is_objects(stored):
        return np.dtype(object), Decoding("objects")
    if kind in ("integer", "float", "bool", "complex"):
        empty = stored.attributes.get("value_type") if _stands_for_nothing(stored) else None
        return _plain(stored.info.datatype, empty), Decoding("plain")
    raise UnknownLayoutError(f"an index of kind {kind!r} is not known")


def _fixed_labels(group: Group, key: str) -> list[Hashable]:
    """The labels of columns that an index holds: tuples for a MultiIndex."""
    if _is_multi(group, key):
        levels = [_labels_of(group, _level(group, key, number)) for number in range(_levels(group, key))]
        return list(zip(*levels, strict=True))
    return _labels_of(group, _index_column(group, key, None))


def _labels_of(group: Group, column: Column) -> list[Hashable]:
    if column.rows > MAX_LABELS:
        raise UnknownLayoutError(f"{column.array!r} claims {column.rows} columns")
    if not column.rows:
        return []
    values = _read(group, column)
    zone, freq = column.attributes.get(TIME_ZONE), column.attributes.get(FREQUENCY)
    if freq is not None:
        return list(pd.PeriodIndex.from_ordinals(values, freq=freq))
    if zone is not None:
        return [in_zone(pd.Timestamp(value), str(zone)) for value in values]
    return [label(value) for value in (values if values.dtype.kind in "mM" else values.tolist())]


def _read(group: Group, column: Column) -> np.ndarray[Any, Any]:
    stored = group.read(column.array)
    if column.categories is None:
        return decode(stored, column.decoding, column.dtype)
    return taken(_read(group, column.categories), stored, column.dtype)


def _block(group: Group, key: str, names: Sequence[Hashable], rows: int) -> list[Column]:
    """The columns of one block, or the values of a series."""
    stored = _array(group, key)
    dtype, decoding, attributes = _values(stored, group)
    shape = _shape(stored)
    if decoding.kind != "objects":  # on disk: rows, then columns
        _length(stored)
        found = (shape[0], shape[1] if len(shape) == 2 else 1) if all(shape) else None
        if len(shape) > 2 or (found != (rows, len(names)) if found else rows and names):
            raise UnknownLayoutError(f"{key!r} has shape {shape} for an index of {rows} rows and {len(names)} columns")
    flat = decoding.kind != "objects" and len(shape) < 2
    return [
        Column(name, key, rows, dtype, decoding, item=None if flat else number, attributes=attributes)
        for number, name in enumerate(names)
    ]


def _values(stored: StoredArray, group: Group) -> tuple[np.dtype[Any], Decoding, dict[str, object]]:
    """dtype, decoding and attributes of the values of a block or series."""
    kind = _text(stored.attributes.get("value_type")) or ""
    if _is_objects(stored):
        return np.dtype(object), Decoding("objects"), {}
    zone = time_zone(stored.attributes.get("tz"))
    aware = re.fullmatch(r"(datetime64\[\w+), (.+)\]", kind)
    if aware:  # only beside an empty array
        kind, zone = aware[1] + "]", zone or aware[2]
    if kind.startswith(("datetime64", "timedelta64")):
        return _times(kind), Decoding("times"), {TIME_ZONE: zone} if zone else {}
    period = re.fullmatch(r"period\[(.+)\]", kind)
    if period:
        return np.dtype("i8"), Decoding("plain"), {FREQUENCY: period[1]}
    return _plain(stored.info.datatype, kind if _stands_for_nothing(stored) else None), Decoding("plain"), {}


# -- the table format --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Table:
    """The table of an object, and what is said of its columns."""

    group: Group
    rows: int
    types: Mapping[str, Datatype]
    """Of the members of a row."""
    attributes: Mapping[str, object]
    """Of the table."""
    levels: tuple[Hashable, ...]
    """Names of the columns that are levels of a MultiIndex; empty for a plain index."""
    of_categories: bool
    """Whether it holds the categories of another one, and so has none itself."""

    def text(self, name: str) -> str | None:
        return _text(self.attributes.get(name))

    def info(self, member: str) -> Mapping[object, object]:
        """Zone, frequency and name that pandas keeps of a column."""
        every = self.group.attributes.get("info")
        one = every.get(member) if isinstance(every, dict) else None
        return one if isinstance(one, dict) else {}


def _table(group: Group, *, of_categories: bool = False) -> Frame:
    stored = _array(group, "table")
    datatype, shape = stored.info.datatype, stored.info.shape
    if datatype.kind != "compound" or datatype.shape or shape is None or len(shape) != 1:
        raise UnknownLayoutError("'table' is no table")
    levels = group.attributes.get("levels")
    names = tuple(map(label, levels)) if isinstance(levels, list | tuple) else ()
    types = {one.name: one.datatype for one in datatype.fields}
    table = _Table(group, shape[0], types, stored.attributes, names, of_categories)
    axis, member = _pair(*_tuple(group.attributes["index_cols"]))
    if axis != 0:
        raise UnknownLayoutError("its columns are stored as rows (axes=['columns'])")
    columns = [column for name in _tuple(group.attributes["values_cols"]) for column in _table_columns(table, name)]
    _, labels = _pair(*_tuple(group.attributes["non_index_axes"]))
    order = list(map(label, _tuple(labels)))
    parts = {"table"}
    meta = group.child("meta")
    if meta is not None and MARK not in meta.attributes:  # categories; nobody's object of that name
        parts.add("meta")
    if not names:
        frame = _frame([_table_index(table, str(member))], _in_order(columns, order), parts, multi=False)
        info = group.attributes.get("info")
        if info is None or isinstance(info, dict):
            return frame
        problem = "the attribute 'info' cannot be decoded: the name of the index and time zones are not known"
        return replace(frame, problems=(*frame.problems, problem))
    by_name = {column.name: column for column in columns}
    if not set(names) <= set(by_name):
        raise UnknownLayoutError(f"its table lacks one of the levels {names}")
    index = [by_name[name] for name in names]
    rest = [column for column in columns if column.name not in names]
    return _frame(index, _in_order(rest, order), parts, multi=True)


def _table_index(table: _Table, member: str) -> Column:
    kind, info, datatype = table.text(f"{member}_kind") or "", table.info(member), _member(table, member)
    [column] = _members(table, member, [_name(info.get("index_name"))])
    categories = _categories(table, member)
    if categories is not None or table.text(f"{member}_meta") == "category":
        return _coded(table, column, categories)
    freq = frequency(info.get("freq"))
    if kind == "integer" and info.get("freq") is not None:
        return replace(column, dtype=np.dtype("i8"), attributes={FREQUENCY: freq} if freq else {})
    if kind == "string":
        nan_rep = _text(table.attributes.get(f"{member}_nan_rep", "nan")) or None
        return replace(column, dtype=np.dtype(object), decoding=_text_decoding(table.group, nan_rep))
    return _typed(column, kind, datatype, info)


def _table_columns(table: _Table, name: object) -> list[Column]:
    """The columns of one block, or one data column."""
    member = _text(name) or ""
    datatype, info = _member(table, member), table.info(member)
    labels = table.attributes.get(f"{member}_kind")
    columns = _members(table, member, list(map(label, labels)) if isinstance(labels, list | tuple) else [label(labels)])
    kind = table.text(f"{member}_dtype") or ""
    if table.text(f"{member}_meta") == "category":
        return [_coded(table, column, _categories(table, member)) for column in columns]
    if kind.startswith(("string", "bytes")):
        decoding = _text_decoding(table.group, _nan_rep(table, member))
        return [replace(column, dtype=np.dtype(object), decoding=decoding) for column in columns]
    period = re.fullmatch(r"period\[(.+)\]", kind)
    if period:
        return [replace(column, dtype=np.dtype("i8"), attributes={FREQUENCY: period[1]}) for column in columns]
    return [_typed(column, kind, datatype, info) for column in columns]


def _member(table: _Table, member: str) -> Datatype:
    if member not in table.types:
        raise UnknownLayoutError(f"its table has no column {member!r}")
    return table.types[member]


def _members(table: _Table, member: str, names: Sequence[Hashable]) -> list[Column]:
    """What lies in one column of the table, before its values are known."""
    shape = _member(table, member).shape
    if len(shape) > 1 or (shape or (1,)) != (len(names),):
        raise UnknownLayoutError(f"column {member!r} of its table has shape {shape} for {len(names)} labels")
    return [
        Column(name, "table", table.rows, np.dtype("i8"), member=member, item=number if shape else None)
        for number, name in enumerate(names)
    ]


def _typed(column: Column, kind: str, datatype: Datatype, info: Mapping[object, object]) -> Column:
    """A column of times, dates or numbers."""
    if kind.startswith(("datetime64", "timedelta64")):
        zone = time_zone(info.get("tz"))
        attributes: dict[str, object] = {TIME_ZONE: zone} if zone else {}
        return replace(column, dtype=_times(kind), decoding=Decoding("times"), attributes=attributes)
    if kind == "date":
        return replace(column, dtype=np.dtype("M8[s]"), decoding=Decoding("ordinals"))
    return replace(column, dtype=_plain(datatype, None))


def _nan_rep(table: _Table, member: str) -> str | None:
    """What stands for missing text: of the column itself in tables of pandas 3.1, else of the whole table."""
    of_group = table.group.attributes
    own = of_group.get("data_col_nan_rep") or (member in table.levels and of_group.get("mi_level_nan_rep"))
    if own:
        return table.text(f"{member}_nan_rep")
    of_table = _text(of_group.get("nan_rep"))
    return "nan" if of_table is None else of_table


def _categories(table: _Table, member: str) -> Column | None:
    """The categories of a column, which pandas keeps as a series of its own; None if there are none."""
    path = f"meta/{member}/meta"
    group = table.group.child(path)
    if group is None or MARK not in group.attributes:
        return None
    if table.of_categories:  # a group may be reached by many paths, and so be inside itself
        raise UnknownLayoutError("the categories of a column have categories")
    [column] = _table(group, of_categories=True).columns
    return replace(column, array=f"{path}/{column.array}")


def _coded(table: _Table, column: Column, categories: Column | None) -> Column:
    column = replace(column, ordered=bool(table.info(column.member or "").get("ordered")))
    if categories is None or not categories.rows:  # PyTables cannot store an array without elements
        return replace(column, dtype=np.dtype(float), decoding=Decoding("missing"))
    _check_integers(_member(table, column.member or ""), column.member or "")
    return _categorical(column, categories)


# -- arrays and attributes ---------------------------------------------------------------------------------


def _array(group: Group, name: str) -> StoredArray:
    stored = group.array(name)
    if stored is None:
        raise UnknownLayoutError(f"there is no array {name!r}")
    return stored


def _is_objects(stored: StoredArray) -> bool:
    """Whether the array is a row of pickled objects (PyTables' ObjectAtom: a VLArray of bytes)."""
    return stored.info.datatype.kind == "vlen"


def _stands_for_nothing(stored: StoredArray) -> bool:
    """Whether the array takes the place of one without elements, which HDF5 could not hold in PyTables' early days."""
    shape = stored.attributes.get("shape")
    return isinstance(shape, tuple) and 0 in shape


def _shape(stored: StoredArray) -> tuple[int, ...]:
    """In elements, rows first: on disk, or what the array stands for."""
    if _stands_for_nothing(stored):
        shape = tuple(_count(size) for size in _tuple(stored.attributes["shape"]))
    else:
        shape = (*(stored.info.shape or ()), *stored.info.datatype.shape)
    # pandas stores blocks by rows, and says so; empty ones as it has them: by columns
    transposed = stored.attributes.get("transposed")
    by_columns = isinstance(transposed, bool | np.bool_) and not transposed
    return shape[::-1] if by_columns and 0 in shape else shape


def _length(stored: StoredArray) -> int:
    shape = _shape(stored)
    if not shape:
        raise UnknownLayoutError("an index or block is a scalar")
    return shape[0]


def _objects(group: Group, key: str) -> np.ndarray[Any, Any]:
    return as_objects(group.read(key))


def as_objects(value: object) -> np.ndarray[Any, Any]:
    """A decoded pickle as an array of objects. Raises UnknownLayoutError if it is none."""
    if isinstance(value, np.ndarray) and value.ndim:
        return value.astype(object)
    raise UnknownLayoutError(f"a row of objects holds a {type(value).__name__} and no array")


def _plain(datatype: Datatype, stands_for: object) -> np.dtype[Any]:
    name = _text(stands_for)
    if name is not None:  # an empty array of which only the name of the dtype was kept
        try:
            return np.dtype(name)
        except TypeError:
            return np.dtype(object)
    if datatype.dtype is None or datatype.kind not in ("integer", "float", "complex", "bool", "string"):
        raise UnknownLayoutError(f"an array of kind {datatype.kind!r} among its parts")
    return datatype.dtype.newbyteorder("=")


def _check_codes(stored: StoredArray, where: str) -> None:
    if not _stands_for_nothing(stored):  # else it is of any type
        _check_integers(stored.info.datatype, where)


def _check_integers(datatype: Datatype, where: str) -> None:
    if datatype.kind != "integer":
        raise UnknownLayoutError(f"{where!r} holds no codes but elements of kind {datatype.kind!r}")


def _times(kind: str) -> np.dtype[Any]:
    """datetime64 or timedelta64; in nanoseconds where older versions of pandas do not say."""
    found = re.fullmatch(r"(datetime64|timedelta64)(?:\[(s|ms|us|ns)\])?", kind)
    if not found:
        raise UnknownLayoutError(f"times of kind {kind!r} are not known")
    return np.dtype(f"{found[1]}[{found[2] or 'ns'}]")


def _categorical(codes: Column, categories: Column) -> Column:
    """A column of categories. Whether a value is missing is not known before all are read, so integers are floats."""
    dtype = categories.dtype
    if dtype.kind in "biu":
        dtype = np.dtype(object) if dtype.kind == "b" else np.dtype(float)
    return replace(codes, dtype=dtype, categories=categories, attributes={**codes.attributes, **categories.attributes})


_ERRORS: Final = frozenset({"strict", "ignore", "replace", "backslashreplace", "surrogateescape", "surrogatepass"})
_NO_TEXT: Final = frozenset({"base64_codec", "bz2_codec", "hex_codec", "quopri_codec", "rot_13", "uu_codec",
                             "zlib_codec", "mbcs"})  # fmt: skip
_ENCODINGS: Final = frozenset(encodings.aliases.aliases.values()) - _NO_TEXT


def _text_decoding(group: Group, nan_rep: str | None) -> Decoding:
    encoding = _text(group.attributes.get("encoding")) or "utf-8"
    errors = _text(group.attributes.get("errors")) or "strict"
    known = encodings.normalize_encoding(encoding).lower()
    known = encodings.aliases.aliases.get(known, known)
    if known not in _ENCODINGS:
        raise UnknownLayoutError(f"the text encoding {encoding!r} is not known")
    return Decoding("text", known, errors if errors in _ERRORS else "strict", nan_rep)


def _text(value: object) -> str | None:
    """Text, as any version of Python has left it in an attribute."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value) if isinstance(value, str) else None


def _tuple(value: object) -> tuple[object, ...]:
    if isinstance(value, list | tuple):
        return tuple(value)
    if isinstance(value, np.ndarray):
        return tuple(value.tolist())
    raise UnknownLayoutError(f"an attribute holds a {type(value).__name__} instead of a list")


def _pair(value: object) -> tuple[object, object]:
    first, second = _tuple(value)
    return first, second


def _count(value: object) -> int:
    if isinstance(value, int | np.integer) and not isinstance(value, bool) and 0 <= value <= MAX_LABELS:
        return int(value)
    raise UnknownLayoutError(f"an attribute that counts holds {str(value)[:50]!r}")


def _name(value: object) -> Hashable:
    return None if value is None else label(value)


def label(value: object) -> Hashable:
    """A label as pandas has it: text, numbers, times; tuples of them. The text of what cannot be a label."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, str):
        return str(value)
    if isinstance(value, tuple | list):
        return tuple(label(item) for item in value)
    revived = revive(value)
    if revived is None or revived is pd.NaT or not isinstance(revived, Hashable):
        return str(revived)
    if isinstance(revived, float | np.floating) and math.isnan(revived):  # not equal to itself: nobody could ask for it
        return "nan"
    plain: Hashable = revived.item() if isinstance(revived, np.generic) else revived
    return plain


def revive(value: object) -> object:
    """pandas' own scalar for what the restricted decoder of pickles leaves of one; other values as they are."""
    if isinstance(value, np.datetime64):
        return pd.Timestamp(value)
    if isinstance(value, np.timedelta64):
        return pd.Timedelta(value)
    if isinstance(value, np.generic):
        return value.item()
    if not isinstance(value, InertObject):
        return value
    match value:
        case InertObject("pandas.NA"):
            return pd.NA
        case InertObject("pandas.Timestamp", (time, str(zone))):
            return in_zone(pd.Timestamp(time), zone)
        case InertObject("datetime.datetime", (time, str(zone))) if is_zone_name(zone):
            return pd.Timestamp(time).tz_localize(zone).to_pydatetime()
        case InertObject("pandas.Period", (None, offset, int(ordinal))):
            return pd.Period(ordinal=ordinal, freq=frequency(offset))
        case InertObject("pandas.Interval", (left, right, "left" | "right" | "both" | "neither" as closed)):
            return pd.Interval(revive(left), revive(right), closed)
    return value


_ZONE: Final = re.compile(r"(?!dateutil)[A-Za-z][A-Za-z0-9_+:-]*(/[A-Za-z0-9_+-]+){0,3}")


def is_zone_name(zone: str) -> bool:
    """Whether a zone has a name to look up; others (`dateutil//dev/zero`) name files, which pandas would open."""
    return len(zone) < 100 and bool(_ZONE.fullmatch(zone))


def in_zone(utc: pd.Timestamp, zone: str) -> pd.Timestamp:
    """A time of UTC as the same time in a zone; without one if the zone is not known."""
    if not is_zone_name(zone):
        return utc
    try:
        return utc.tz_localize("UTC").tz_convert(zone)
    except (KeyError, ValueError, OSError):
        return utc


_OFFSETS: Final = frozenset(
    "Day Hour Minute Second Milli Micro Nano MonthEnd MonthBegin QuarterEnd QuarterBegin YearEnd YearBegin Week "
    "BusinessDay BDay BMonthEnd BusinessMonthEnd BQuarterEnd BYearEnd".split()
)


def frequency(value: object) -> str | None:
    """The length of periods in pandas' words (`M`, `2D`, `Q-JAN`), or what it is called; None if there is none."""
    text = _text(value)
    if text is not None:
        return text
    if not isinstance(value, InertObject):
        return None
    name = value.name.removeprefix("pandas.offsets.")
    arguments = [item for item in value.args if isinstance(item, int | bool)]
    if name not in _OFFSETS or value.state is not None:
        return name
    try:
        offset = getattr(pd.offsets, name)(*arguments)
        return str(pd.PeriodIndex.from_ordinals([0], freq=offset).freqstr)
    except (ValueError, TypeError, AttributeError, OverflowError):
        return name


def time_zone(value: object) -> str | None:
    """The name of a zone, or of what it is; None if there is none."""
    if isinstance(value, datetime.timezone):
        return str(value)
    return value.name if isinstance(value, InertObject) else _text(value)


# -- frames ------------------------------------------------------------------------------------------------


def _in_order(columns: Sequence[Column], order: Sequence[Hashable]) -> list[Column]:
    """The columns in the order of their labels, as the object had them."""
    place = {name: number for number, name in reversed(list(enumerate(order)))}
    return sorted(columns, key=lambda column: place.get(column.name, len(place)))


def _frame(index: Sequence[Column], columns: Sequence[Column], parts: set[str], *, multi: bool) -> Frame:
    """The object, with names that are unique: a column keeps its label, what is in its way is renamed.

    The index is called by text, whatever it was called: xarray's dimensions are.
    """
    problems = []
    used: set[Hashable] = set()
    named = []
    for column in columns:
        name = _free(column.name, used)
        if name != column.name:
            problems.append(f"another column is called {column.name!r} too: it is shown as {name!r}")
        used.add(name)
        named.append(replace(column, name=name))
    wanted = "index" if multi or index[0].name is None else str(index[0].name)
    dim = _free(wanted, used, "level_0" if wanted == "index" and not multi else None)
    renamed = [(wanted, dim)] if dim != wanted else []
    used.add(dim)
    levels = []
    for column in index:
        level = _free(str(column.name), used) if multi else dim
        if multi and level != str(column.name):
            renamed.append((str(column.name), level))
        used.add(level)
        levels.append(replace(column, name=level))
    problems += [f"a column is called {was!r} like the index: the index is shown as {now!r}" for was, now in renamed]
    return Frame(dim, tuple(levels), tuple(named), frozenset(parts), tuple(problems))


_Label = TypeVar("_Label", str, Hashable)


def _free(name: _Label, used: set[Hashable], other: str | None = None) -> _Label | str:
    """`name`, or if that is used `other`, or the name with a number."""
    if name not in used:
        return name
    if other is not None and other not in used:
        return other
    return next(free for number in itertools.count(1) if (free := f"{name}_{number}") not in used)


# -- values ------------------------------------------------------------------------------------------------


def decode(stored: np.ndarray[Any, Any], decoding: Decoding, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """The values that stored elements stand for, in an array of the same shape and of `dtype`."""
    if decoding.kind == "times":
        return np.ascontiguousarray(stored, "i8").view(dtype).reshape(stored.shape)
    if decoding.kind == "ordinals":
        odd = stored[(stored < 1) | (stored > datetime.date.max.toordinal())]
        if odd.size:
            raise ValueError(f"{odd[0]} is the ordinal of no date")
        return (stored.astype("i8") - _EPOCH).astype("M8[D]").astype(dtype)
    if decoding.kind == "text":
        return _decoded_text(stored, decoding)
    if decoding.kind == "objects":
        return _revived(stored)
    return stored.astype(dtype, copy=False)


_EPOCH: Final = datetime.date(1970, 1, 1).toordinal()


def _decoded_text(stored: np.ndarray[Any, Any], decoding: Decoding) -> np.ndarray[Any, Any]:
    encoding, errors = decoding.encoding, decoding.errors
    texts = [data.decode(encoding, errors) for data in stored.reshape(-1).tolist()]
    if decoding.nan_rep is not None:
        texts = [np.nan if text == decoding.nan_rep else text for text in texts]
    values = np.empty(len(texts), object)
    values[:] = texts
    return values.reshape(stored.shape)


_SIMPLE: Final = frozenset({str, float, int, bool, bytes})


def _revived(stored: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Objects as pandas has them: its own scalars, and NaN for what is missing among nothing but texts."""
    flat = stored.reshape(-1)
    kinds = set(map(type, flat))
    values = np.empty(flat.shape, object)
    if (
        kinds <= {str, type(None), float}
        and str in kinds
        and all(v is None or v != v for v in flat if type(v) is not str)
    ):
        values[:] = [value if type(value) is str else np.nan for value in flat]
    else:
        for position, value in enumerate(flat):
            values[position] = value if type(value) in _SIMPLE else revive(value)
    return values.reshape(stored.shape)


def taken(values: np.ndarray[Any, Any], codes: np.ndarray[Any, Any], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """`values[codes]` of `dtype`, with the missing value of that dtype for negative codes.

    Raises IndexError for codes beyond the end, and for negative ones where `dtype` has no missing value.
    """
    present = codes >= 0
    if present.all():
        return np.asarray(values[codes, ...]).astype(dtype, copy=False)
    if dtype.kind not in "fcmMO":
        raise IndexError(f"a code is negative, so a value is missing, and {dtype} has no missing value")
    out = np.empty(codes.shape, dtype)
    out[present] = values[codes[present]]
    out[~present] = np.array("NaT", dtype) if dtype.kind in "mM" else np.nan
    return out
