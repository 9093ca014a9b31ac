"""Rows of a table that meet a condition: candidates from PyTables' indexes, then the condition on decoded blocks.

The file is not opened with PyTables, whose `Table.where` would unpickle attributes on the way: columns are read as lazy
arrays read them, in parallel and past HDF5 where possible, and numexpr computes the condition. An index only narrows
down where to look, so a damaged or outdated one never adds a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from xarray.core import indexing

from ..arrays.leaf_arrays import PyTablesArray
from ..arrays.table_arrays import ColumnArray, open_array
from ..chunks import memory
from ..disk.opened_files import OpenedFile
from ..hdf5.conversion import without_padding
from ..hdf5.file import File
from ..model.forms import Form, time64_seconds
from ..model.leaves import is_implausible, native
from ..model.specs import GroupSpec, VariableSpec
from .conditions import AllOf, AnyOf, Comparison, Condition, Indexable, comparisons, compile_condition, numexpr_dtype
from .frame_queries import as_stored
from .spellings import with_timestamps
from .table_index import IndexSearch, IndexSpec, UnusableIndexError, combined, describe_index
from .time_queries import with_numbers

_BATCH_BYTES: Final = 32 * 2**20
"""Decoded rows of one step through the table."""
_CANDIDATES: Final = 1 << 20
"""Rows of one step through rows that an index names."""
_MOST_CANDIDATES: Final = 1 << 26
_FEW: Final = 16
"""An index is used if it leaves at most this fraction of the rows; beyond it most chunks are touched anyway."""


@dataclass(frozen=True)
class RowQuery:
    """Which rows of a table the user asks for, unchecked."""

    where: str | None = None
    condvars: Mapping[str, object] | None = None
    start: int | None = None
    stop: int | None = None
    step: int | None = None

    def __bool__(self) -> bool:
        return self != RowQuery()


@dataclass(frozen=True)
class TableQuery:
    """A checked query of one table, and the indexes that can help."""

    columns: Mapping[str, VariableSpec] = field(repr=False)
    """The columns that the condition needs."""
    rows: range
    """Among which to look."""
    condition: Condition | None = None
    indexes: Mapping[str, IndexSpec] = field(default_factory=dict)
    not_used: Mapping[str, str] = field(default_factory=dict)
    """Why a column that is compared with a constant has no usable index."""


@dataclass(frozen=True, eq=False)
class FoundRows:
    """The answer to a query, and how it came about."""

    rows: NDArray[np.int64]
    """Ascending."""
    looked_at: int
    """Rows for which the condition was computed."""
    used: tuple[str, ...] = ()
    """Columns whose indexes narrowed the search down."""


def plan_query(table: GroupSpec, query: RowQuery, file: File) -> TableQuery:
    """Check a query against the columns of a table, and find the indexes for it; reads headers only.

    Raises ValueError and TypeError for what does not fit.
    """
    if not table.row_dim and not table.is_pandas_object:
        inside = {"tables": table.tables, "groups": table.groups}
        told = [f"its {what} are {', '.join(map(repr, names))}" for what, names in inside.items() if names]
        raise ValueError(
            f"{table.label} is not a table, so where, condvars, start, stop and step cannot apply; "
            + ("; ".join(told) or "it has no tables either")
        )
    if query.condvars is not None and query.where is None:
        raise ValueError("condvars gives values to names in where, and there is no where")
    length = table.variables[0].shape[0] if table.variables else 0
    rows = _range(query, length)
    if query.where is None:
        return TableQuery({}, rows)
    variables, where, condvars = table.variables, query.where, query.condvars
    try:
        where, condvars = with_timestamps(where, condvars)
    except ValueError as error:
        raise ValueError(f"{table.label}: where={query.where!r}: {error}") from None
    if table.is_pandas_object:
        variables, where, condvars = as_stored(table, where, condvars, written=query.where)
    by_name = {str(spec.name): spec for spec in variables}
    try:
        where, condvars = with_numbers(where, condvars, by_name)
        condition = compile_condition(where, {name: _dtype(spec) for name, spec in by_name.items()}, condvars)
    except ValueError as error:
        raise ValueError(f"{table.label}: {error}") from None
    indexes: dict[str, IndexSpec] = {}
    not_used: dict[str, str] = {}
    for name in dict.fromkeys(comparison.column for comparison in comparisons(condition.indexable)):
        try:
            spec = by_name[name]
            if spec.item:
                raise UnusableIndexError("it is part of a column of several values")
            indexes[name] = describe_index(file, spec, spec.member[0])
        except UnusableIndexError as reason:
            not_used[name] = str(reason)
    return TableQuery({name: by_name[name] for name in condition.columns}, rows, condition, indexes, not_used)


def _range(query: RowQuery, length: int) -> range:
    for name, value in (("start", query.start), ("stop", query.stop), ("step", query.step)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | np.integer)):
            raise TypeError(f"{name} must be an integer or None, not {value!r}")
    if query.step is not None and query.step < 1:
        raise ValueError(f"step must be positive, not {query.step}")
    return range(length)[query.start : query.stop : query.step]


def _dtype(spec: VariableSpec) -> np.dtype[Any] | str:
    """The type of a column in conditions, or why it cannot be in one."""
    if len(spec.member) > 1:
        return "it is nested"
    if len(spec.shape) > 1:
        return "it has more than one value in each row"
    if spec.form is Form.TIME64:
        return np.dtype("f8")
    if spec.form is Form.TEXT:
        return "it is text of variable length"
    stored = spec.datatype.dtype
    assert stored is not None  # else it is variable-length text
    target = numexpr_dtype(stored.newbyteorder("="))
    return target if isinstance(target, str) else stored.newbyteorder("=")


def find_rows(query: TableQuery, file: OpenedFile, *, threads: int | None = None) -> FoundRows:
    """The rows that meet the query."""
    condition, rows = query.condition, query.rows
    if condition is None or not rows:
        return FoundRows(np.arange(rows.start, rows.stop, rows.step), 0)
    arrays = [_column_array(file, query.columns[name], threads) for name in condition.columns]
    candidates = _candidates(query, file, threads)
    spec = arrays[0].spec
    if candidates is None and is_implausible(len(rows) * spec.info.datatype.itemsize, file.identity.size):
        raise ValueError(
            f"{spec.label}: a file of {file.identity.size} bytes is said to have {len(rows)} rows. Nobody can look at "
            "all of them: say with start= and stop= which ones"
        )
    if candidates is not None:
        try:
            return _among(candidates, query, arrays)
        except UnusableIndexError:  # it contradicts the table, so nobody knows what else it lacks
            pass
    return _among(None, query, arrays)


def _among(candidates: NDArray[np.int64] | None, query: TableQuery, arrays: Sequence[ColumnArray]) -> FoundRows:
    """The rows that meet the condition: of those that indexes named, or of all.

    Raises UnusableIndexError if an index named a row whose value it cannot have found.
    """
    condition, met, looked_at = query.condition, [np.empty(0, np.int64)], 0
    assert condition is not None
    promised = _promised(query) if candidates is not None else []
    for some in _batches(query.rows, candidates, arrays[0].spec):
        numbers = np.arange(some.start, some.stop, some.step) if isinstance(some, slice) else some
        columns = _read(arrays, some, len(numbers))
        for place, comparison, indexed in promised:
            if not comparison.is_met_by(columns[place])[numbers < indexed].all():
                raise UnusableIndexError(f"the index of {comparison.column!r} names rows with other values")
        met.append(numbers[condition.evaluate(columns)])
        looked_at += len(numbers)
    used = tuple(query.indexes) if candidates is not None else ()
    return FoundRows(np.concatenate(met), looked_at, used)


def _promised(query: TableQuery) -> list[tuple[int, Comparison, int]]:
    """What full indexes say of each row that they name: the place of a column, the comparison that it meets, and how
    many rows are indexed."""
    assert query.condition is not None
    found = []
    for part in _all_of(query.condition.indexable):
        index = query.indexes.get(part.column) if isinstance(part, Comparison) else None
        if isinstance(part, Comparison) and index is not None and index.bucket == index.reduction == 1:
            found.append((query.condition.columns.index(part.column), part, index.rows))
    return found


def _column_array(file: OpenedFile, spec: VariableSpec, threads: int | None) -> ColumnArray:
    array = open_array(file, spec, threads=threads)
    assert isinstance(array, ColumnArray)  # it is one of a table
    return array


def _batches(
    rows: range, candidates: NDArray[np.int64] | None, spec: VariableSpec
) -> Iterator[slice | NDArray[np.int64]]:
    """The rows to look at, in steps that need little memory; whole chunks where there are no candidates."""
    if candidates is not None:
        among = candidates[(candidates >= rows.start) & (candidates < rows.stop)]
        among = among[(among - rows.start) % rows.step == 0]
        for begin in range(0, len(among), _CANDIDATES):
            yield among[begin : begin + _CANDIDATES]
        return
    size = spec.info.datatype.stored_size
    chunk = spec.info.chunkshape[0] if spec.info.chunkshape else 1
    length = max(_BATCH_BYTES // (size * chunk), 1) * chunk
    begin = rows.start
    while begin < rows.stop:
        end = min((begin // length + 1) * length, rows.stop)
        chosen = rows[(begin - rows.start) // rows.step : -(-(end - rows.start) // rows.step)]
        if chosen:
            yield slice(chosen.start, chosen.stop, chosen.step)
        begin = rows.start + -(-(end - rows.start) // rows.step) * rows.step


def _read(arrays: Sequence[ColumnArray], rows: slice | NDArray[np.int64], count: int) -> list[NDArray[Any]]:
    """The columns of these rows, decoded together."""
    outs = [memory.empty((count,), array.stored_dtype()) for array in arrays]
    arrays[0].read_rows(rows, [array.wanted(out) for array, out in zip(arrays, outs, strict=True)])
    return [_as_compared(native(out, array.spec.datatype), array.spec) for array, out in zip(arrays, outs, strict=True)]


def _as_compared(stored: NDArray[Any], spec: VariableSpec) -> NDArray[Any]:
    """Stored values as conditions see them: PyTables takes times as seconds."""
    if spec.form is not Form.TIME64:
        return without_padding(stored, spec.datatype)
    return time64_seconds(stored)


def _all_of(part: Indexable) -> Iterator[Comparison | AnyOf]:
    """The parts of a conjunction, however it is nested."""
    if isinstance(part, AllOf):
        for inner in part.parts:
            yield from _all_of(inner)
    elif part is not None:
        yield part


# -- candidates -----------------------------------------------------------------------------------------------


def _candidates(query: TableQuery, file: OpenedFile, threads: int | None) -> NDArray[np.int64] | None:
    """Rows among which all are that meet the condition, found in indexes; None for the whole table."""
    if not query.indexes or query.condition is None:
        return None
    length = next(iter(query.columns.values())).shape[0]

    def read(spec: VariableSpec, key: tuple[Any, ...]) -> NDArray[Any]:
        return PyTablesArray(file, spec, threads=threads)[indexing.BasicIndexer(key)]

    searches = {name: IndexSearch(spec, length, read) for name, spec in query.indexes.items()}

    limit = min(max(length // _FEW, 1024), _MOST_CANDIDATES)

    def rows_of(part: Indexable) -> NDArray[np.int64] | None:
        if isinstance(part, AnyOf):
            return combined([rows_of(inner) for inner in part.parts], every=False)
        together: dict[str, list[Comparison]] = {}
        others = []
        for one in _all_of(part):
            if isinstance(one, Comparison):
                together.setdefault(one.column, []).append(one)
            else:
                others.append(rows_of(one))
        known = [searches[name].rows(those, limit) for name, those in together.items() if name in searches]
        return combined([*known, *others], every=True)

    try:
        return rows_of(query.condition.indexable)
    except (UnusableIndexError, OSError):  # a damaged index costs time, not rows
        return None
