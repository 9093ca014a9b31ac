"""What writing a dataset as a Table of PyTables will do: the table as one array of records.

Columns become the fields of a record, so that everything after the plan (blocks, schedulers, transactions) is as for
any other array. Knows xarray's conventions and the attributes of tables; writes nothing.

Tested in `tests/writing/test_table_writing.py` and `tests/writing/test_table_appending.py`.
"""

from __future__ import annotations

import itertools
import posixpath
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import dask.array
import numpy as np
import tables
from xarray import DataArray, Dataset, Variable

from ..disk.files import FileIdentity
from ..hdf5.file import File
from ..library.libhdf5 import UNLIMITED
from ..library.target_file import ArrayLayout
from ..model import attributes, frames
from ..model.attributes import EncodedAttribute
from ..model.columns import OF_COLUMN, owner_of
from ..model.forms import Form
from ..model.specs import GroupSpec, VariableSpec
from ..sources.warning import warn
from ..where.table_index import TableIndexes, describe_indexes
from . import cf_encoding, layouts
from .cf_encoding import each
from .fitting import cast
from .longer_indexes import describe_longer
from .plan import encoded_variables
from .plans import Existing, GroupPlan, LongerIndex, VariablePlan, WritePlan
from .request import WriteRequest
from .table_indexes import ColumnIndex, member_of, rows_attribute, table_attributes
from .variable_plan import enum_members, teller_of

INDEX_KINDS: Final = ("ultralight", "light", "medium", "full")
_CHUNK_BYTES: Final = 2**18
"""Of rows: a query reads whole chunks, and PyTables' own are of this size for large tables."""
_BLOCK_BYTES: Final = 2**26
"""Of rows that are in memory at once, for each thread."""


@dataclass(frozen=True)
class Column:
    """One column as it is stored."""

    name: str
    member: tuple[str, ...]
    """The names that lead to it: `a.b` is the column `b` in the nested column `a`."""
    dims: tuple[str, ...]
    dtype: np.dtype
    shape: tuple[int, ...]
    """Without the rows."""
    attributes: tuple[EncodedAttribute, ...]
    data: Any


@dataclass(frozen=True)
class StoredTable:
    """A table that is in the file."""

    spec: GroupSpec
    """It as a dataset of its columns."""
    indexes: TableIndexes
    names: int
    """How many hard links lead to it."""
    longer: Mapping[str, LongerIndex] = field(default_factory=dict)
    """Those of its indexes that can go on with more rows, by the path of the column."""


def plan_table(request: WriteRequest, existing: Existing, version: FileIdentity | None) -> WritePlan:
    """The plan for a table at `group`. Raises TypeError and ValueError for what cannot be one, naming the variable."""
    path, mode, group, append_dim = request.target, request.mode, request.group, request.append_dim
    where, encoding, unlimited_dims = f"{path}:{group}", request.encoding or {}, request.unlimited_dims
    obj = _dataset_of(request.obj, where)
    if mode == "r+":
        raise ValueError(f"{where}: mode='r+' sets values of arrays, not of tables; mode='a' replaces the table")
    parent, leaf = posixpath.split(group)
    if not leaf:
        raise ValueError(f"{path}: with layout='table', group names the table, e.g. group='/events'")
    check_place(path, parent, leaf, existing)
    row_dim, rows = _row_dim(obj, where, append_dim)
    if unlimited_dims is not None and set(unlimited_dims) - {row_dim}:
        raise ValueError(f"{where}: only the rows ({row_dim!r}) of a table can grow, and they always can")
    base = request.filter_words
    if append_dim is not None:
        obj = cf_encoding.with_seconds(obj, append_dim)
    columns, attrs = _columns(obj, path, group, encoding, base)
    record = _nested([(column.member, column) for column in columns], where)
    by_member = {column.member: column for column in columns}
    columns = [by_member[member] for member in _leaves(record)]  # nested columns stand together
    layout = layout_of(record, rows, row_dim, storage_wishes(obj, encoding, base, where), where)
    replaced = leaf in (existing[parent].tables if parent in existing else ())
    variable = VariablePlan(
        name=leaf,
        dims=(f"rows of {leaf}",),
        layout=layout,
        attributes=tuple(
            _table_attributes(columns, attrs, record, row_dim, rows, where, leave_out=teller_of(obj.encoding))
        ),
        data=rows_of(columns, record, rows, layout, where),
        action="replace" if replaced else "create",
    )
    indexes = _checked_index(request.index, columns, where)
    return WritePlan(path, mode, (GroupPlan(parent, (), (), (variable,)),), (), version, {group: indexes})


def check_place(path: str, parent: str, leaf: str, existing: Existing) -> None:
    """Raise ValueError where no table can be."""
    for name in (*parent.strip("/").split("/"), leaf):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", tables.NaturalNameWarning)
                tables.path.check_name_validity(name or "_")
        except ValueError as error:
            raise ValueError(f"{path}: {name!r} cannot be the name of a group or table: {error}") from None
        if name.startswith(("_i_", "_p_")):
            raise ValueError(f"{path}: the name {name!r} begins as only PyTables names what it hides. Rename it")
    above = parent
    while above not in existing and above != "/":
        up, name = posixpath.split(above)
        spec = existing.get(up)
        if spec is not None and any(name == posixpath.basename(other.path) for other in spec.variables):
            raise ValueError(f"{path}: {above!r} is an array, so it cannot hold a table")
        if spec is not None and name in (*spec.tables, *spec.scales, *spec.groups):
            raise ValueError(f"{path}: {above!r} is not a group of its own, so it cannot hold a table")
        above = up
    spec, node = existing.get(parent), posixpath.join(parent, leaf)
    if node in existing or (spec is not None and leaf in spec.groups):
        raise ValueError(f"{path}: {node!r} is a group; a table cannot take its name")
    if spec is not None:
        skipped = [other.reason for other in spec.skipped if other.path == node]
        if any(other.path == node or other.name == leaf for other in spec.variables) or leaf in spec.scales or skipped:
            raise ValueError(f"{path}: {node!r} is not a table, so a table cannot take its place. Choose another name")


def _dataset_of(obj: object, where: str) -> Dataset:
    if isinstance(obj, DataArray):
        return obj.to_dataset(name=obj.name or "values", promote_attrs=obj.name is None)
    if not isinstance(obj, Dataset):
        raise TypeError(f"{where}: layout='table' writes a Dataset or DataArray, not {type(obj).__name__}")
    return obj


def _row_dim(dataset: Dataset, where: str, append_dim: str | None) -> tuple[str, int]:
    """The dimension that all variables share, their first, and its length."""
    first = {name: variable.dims[0] if variable.dims else None for name, variable in dataset.variables.items()}
    if not first:
        raise ValueError(f"{where}: a table needs at least one variable")
    common = set(first.values())
    if len(common) == 1 and None not in common:
        (dim,) = common
        if append_dim not in (None, dim):
            raise ValueError(f"{where}: rows are appended along {dim!r}, not along append_dim={append_dim!r}")
        return str(dim), dataset.sizes[dim]
    shared = [dim for dim in dataset.sizes if all(dim in variable.dims for variable in dataset.variables.values())]
    told = ", ".join(f"{name!r} {variable.dims}" for name, variable in dataset.variables.items())
    way_out = (
        f"Call transpose({shared[0]!r}, ...) before"
        if shared
        else "Leave out the others with drop_vars, or write arrays (layout='arrays')"
    )
    raise ValueError(
        f"{where}: the variables of a table share their first dimension, the rows; these have {told}. {way_out}"
    )


def _columns(
    dataset: Dataset, path: str, group: str, encoding: Mapping[Any, Any], base: Mapping[str, Any]
) -> tuple[list[Column], dict[str, object]]:
    arrays = {
        name: {key: value for key, value in given.items() if key not in ("chunksizes", *layouts.COMPRESSION_KEYS)}
        if isinstance(given, Mapping)
        else given
        for name, given in encoding.items()
    }
    plain = dataset.copy(deep=False)
    for variable in plain.variables.values():  # of the table, not of each column
        for key in ("chunksizes", "contiguous", *layouts.COMPRESSION_KEYS):
            variable.encoding.pop(key, None)
    variables, attrs = encoded_variables(plain, path, group, arrays, {})
    return [_column(original, plan, f"{path}:{group}") for original, plan in variables], attrs


def _column(original: Variable, plan: VariablePlan, where: str) -> Column:
    dtype, data, noted = plan.layout.dtype, plan.data, plan.attributes
    label = f"{where}: variable {plan.name!r}"
    if dtype is None:
        raise ValueError(f"{label}: the rows of a table have a fixed length; string='fixed' stores text in them")
    if len(plan.dims) != original.ndim:
        raise ValueError(f"{label}: arrays of characters are no column; leave dtype='S1' out of its encoding")
    is_truth = any(one.name == "dtype" for one in noted) and original.dtype == bool
    if is_truth and dtype == np.int8:  # xarray's form for files without bool; a table has it
        dtype, data = np.dtype(bool), data.astype(bool)
        noted = tuple(one for one in noted if one.name != "dtype")
    if plan.layout.members:
        dtype = np.dtype(dtype, metadata={"enum": dict(plan.layout.members)})
    member = tuple(plan.name.split("."))
    return Column(plan.name, member, plan.dims, dtype, tuple(plan.layout.shape[1:]), noted, data)


def _leaves(record: np.dtype) -> Iterator[tuple[str, ...]]:
    """The paths of all fields that are no records themselves, in their order."""
    for name in record.names or ():
        if record[name].names is None:
            yield (name,)
        else:
            yield from ((name, *path) for path in _leaves(record[name]))


def _nested(members: Sequence[tuple[tuple[str, ...], Column]], where: str) -> np.dtype:
    """The type of a row: packed, columns in their order, `a.b` nested."""
    grouped: dict[str, list[tuple[tuple[str, ...], Column]]] = {}
    for path, column in members:
        grouped.setdefault(path[0], []).append((path[1:], column))
    fields: list[tuple[str, Any]] = []
    for name, inner in grouped.items():
        _check_column_name(name, inner[0][1], where)
        if len(inner) == 1 and not inner[0][0]:
            column = inner[0][1]
            fields.append((name, np.dtype((column.dtype, column.shape)) if column.shape else column.dtype))
        elif any(not rest for rest, _ in inner):
            raise ValueError(
                f"{where}: {name!r} cannot be a column and hold the columns {name + '.'!r} at once. Rename it"
            )
        else:
            fields.append((name, _nested(inner, where)))
    # built with offsets: a list of fields would drop the metadata that marks enumerations
    sizes = [np.dtype(form).itemsize for _, form in fields]
    offsets = [sum(sizes[:number]) for number in range(len(sizes))]
    return np.dtype(
        {
            "names": [name for name, _ in fields],
            "formats": [form for _, form in fields],
            "offsets": offsets,
            "itemsize": sum(sizes),
        }
    )


def _check_column_name(name: str, column: Column, where: str) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", tables.NaturalNameWarning)
            tables.path.check_name_validity(name)
    except ValueError as error:
        raise ValueError(
            f"{where}: variable {column.name!r} cannot be a column of a table: {error}. Rename it"
        ) from None


def storage_wishes(
    dataset: Dataset, encoding: Mapping[Any, Any], base: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """Chunks and filters of the whole table: what `encoding` says of any column, else `filters`, else where the data
    come from, if all columns come from the same table."""
    keys = ("chunksizes", *layouts.COMPRESSION_KEYS)
    asked: dict[str, Any] = {}
    for name, given in encoding.items():
        for key in keys:
            value = given.get(key) if isinstance(given, Mapping) else None
            if value is None:
                continue
            value = _rows_of_chunk(value) if key == "chunksizes" else value
            if asked.setdefault(key, value) != value:
                raise ValueError(
                    f"{where}: a table has one {key} for all columns; encoding asks for {asked[key]!r} and, for "
                    f"{name!r}, {value!r}"
                )
    if asked or base:
        return {**{key: value for key, value in base.items() if key in keys}, **asked}
    advice = [_advice(variable, keys) for variable in dataset.variables.values()]
    most = max(advice, key=len, default={})
    # columns of text that were read say nothing of a checksum, as text of other writers takes none
    silent = {key: most[key] for key in ("fletcher32",) if key in most}
    agree = all(
        {**(silent if "string" in variable.encoding else {}), **each} == most
        for variable, each in zip(dataset.variables.values(), advice, strict=True)
    )
    return most if agree else {}


def _advice(variable: Variable, keys: Sequence[str]) -> dict[str, Any]:
    found = layouts.advised_encoding(
        {**variable.encoding, "original_shape": variable.shape}, variable, frozenset(map(str, variable.dims))
    )
    return {key: _rows_of_chunk(found[key]) if key == "chunksizes" else found[key] for key in keys if key in found}


def _rows_of_chunk(chunksizes: Any) -> Any:
    return chunksizes[0] if isinstance(chunksizes, Sequence | np.ndarray) and len(chunksizes) else chunksizes


def layout_of(record: np.dtype, rows: int, row_dim: str, wishes: Mapping[str, Any], where: str) -> ArrayLayout:
    chunk = wishes.get("chunksizes", max(1, _CHUNK_BYTES // record.itemsize))
    bytes_of_rows = Variable((row_dim,), np.broadcast_to(np.zeros((), f"S{record.itemsize}"), (rows,)))
    planned = layouts.plan_layout(
        bytes_of_rows, {**wishes, "chunksizes": (chunk,)}, where=where, unlimited=frozenset({row_dim})
    )
    return replace(planned, dtype=record)


# -- appending ------------------------------------------------------------------------------------------------


def describe_stored(file: File, spec: GroupSpec) -> StoredTable:
    """What has to be known of a table in an open file to append to it."""
    links = file.link_count(file.resolve(spec.path).address)
    indexes = describe_indexes(file, spec.variables)
    return StoredTable(spec, indexes, links, describe_longer(file, indexes))


def plan_append(
    request: WriteRequest, existing: Existing, version: FileIdentity | None, stored: StoredTable
) -> WritePlan:
    """The plan for more rows of the table at `group`. Raises TypeError and ValueError for what does not fit it."""
    path, group, append_dim = request.target, request.group, request.append_dim
    where, (parent, leaf), table = f"{path}:{group}", posixpath.split(group), stored.spec
    dataset = _dataset_of(request.obj, where)
    row_dim, rows = _row_dim(dataset, where, append_dim)
    if frames.MARK in existing[parent].attributes:
        raise ValueError(f"{where} is part of a pandas object. Append to that: group={parent!r}, layout='pandas'")
    check_can_grow(stored, path, group)
    made_up = f"{leaf}_row"
    if table.row_dim != row_dim and table.row_dim.rstrip("_") != made_up.rstrip("_"):
        raise ValueError(
            f"{where}: append_dim={append_dim!r} does not match the name of the rows in the file, {table.row_dim!r}. "
            "Rename the dimension"
        )
    present = {str(spec.name): _as_array(spec, row_dim) for spec in table.variables}
    _check_columns(dataset, present, where)
    variables, _ = encoded_variables(dataset, path, group, request.encoding or {}, {}, present)
    by_name = {str(spec.name): spec for spec in table.variables}
    columns = [_more(_column(original, plan, where), plan, by_name[plan.name], where) for original, plan in variables]
    variable = more_rows(stored, leaf, columns, rows, where)
    asked = {each.column: each for each in _checked_index(request.index, columns, where)}
    groups = (GroupPlan(parent, (), (), (variable,)),)
    return with_indexes(WritePlan(path, "a", groups, (), version, in_parts=True), stored, group, asked, rows)


def more_rows(stored: StoredTable, leaf: str, columns: Sequence[Column], rows: int, where: str) -> VariablePlan:
    """The table in the file with `rows` more, which `columns` fill."""
    spec = stored.spec.variables[0]
    info, before = spec.info, spec.shape[0]
    record = info.datatype.dtype
    assert record is not None  # `check_can_grow`
    layout = ArrayLayout((before + rows,), record, info.maxshape, info.chunkshape, info.filters)
    return VariablePlan(
        name=leaf,
        dims=(f"rows of {leaf}",),
        layout=layout,
        attributes=(rows_attribute(before + rows),),
        data=rows_of(columns, record, rows, layout, where),
        action="put",
        start=(before,),
        stored=_as_rows(spec),
    )


def with_indexes(
    plan: WritePlan, stored: StoredTable, table: str, asked: Mapping[str, ColumnIndex], rows: int
) -> WritePlan:
    """The plan that adds `rows` to the table at the path `table`, with what becomes of its indexes.

    All of them go on if all can, and none is asked for that it has not. Else those that it has, and more, are made
    anew; so they are where more rows come than there are: only then all are sorted together.
    """
    indexes, where = stored.indexes, f"{plan.path}:{table}"
    same = all(name in indexes.usable and indexes.usable[name].kind == each.kind for name, each in asked.items())
    few = rows <= stored.spec.variables[0].shape[0]
    if few and same and indexes.usable and not indexes.unusable and set(stored.longer) == set(indexes.usable):
        return replace(plan, longer={table: tuple(stored.longer.values()) if rows else ()})
    kept = {name: ColumnIndex(name, each.kind, each.optlevel) for name, each in indexes.usable.items()}
    for name, reason in indexes.unusable.items():
        if name not in asked:
            warn(
                f"{where}: the index of column {name!r} would be out of date and is removed, not made anew: {reason}. "
                f"PyTables makes it with table.cols.{name.replace('/', '.')}.create_index()"
            )
    anew = tuple((kept | dict(asked)).values())
    return replace(plan, indexes={table: anew} if indexes.any or asked else {})


def check_can_grow(stored: StoredTable, path: str, group: str) -> None:
    """Raise ValueError for a table that cannot take rows, or whose rows would not mean what they should."""
    table, where = stored.spec, f"{path}:{group}"
    if (table.file, table.path) != (path, group):
        raise ValueError(f"{where} is a link to the table {table.path!r} of {table.file}. Append to that")
    if stored.names > 1:
        raise ValueError(
            f"{where}: the table has {stored.names} names (hard links), and PyTables keeps indexes by name, so that "
            "one of another name would be out of date. Append with the program that wrote it"
        )
    if table.skipped:
        told = "; ".join(f"{posixpath.basename(each.path)!r}: {each.reason}" for each in table.skipped)
        raise ValueError(f"{where}: not all columns of the table can be written ({told}). Write a new table")
    if not table.variables:
        raise ValueError(f"{where}: the table has no columns")
    info = table.variables[0].info
    if info.maxshape != (UNLIMITED,) or info.chunkshape is None:
        raise ValueError(
            f"{where}: the table has {(info.shape or (0,))[0]} rows and cannot grow. Read it and write it again with "
            "layout='table', which makes one that can"
        )
    if info.datatype.dtype is None or not _is_portable(info.datatype.dtype):
        reason = info.datatype.reason or "its columns are not stored in their order"
        raise ValueError(f"{where}: rows of the table cannot be written: {reason}. Write a new table")


def _is_portable(record: np.dtype) -> bool:
    """Whether blocks of such rows can be put aside in files of NumPy."""
    try:
        return bool(np.lib.format.descr_to_dtype(np.lib.format.dtype_to_descr(record)) == record)
    except ValueError:  # fields that overlap, or in another order than their names
        return False


def _as_array(spec: VariableSpec, row_dim: str) -> VariableSpec:
    """A column as if it were an array of its own, whose rows are called `row_dim`."""
    datatype = replace(spec.datatype, shape=())
    return replace(
        spec,
        info=replace(spec.info, datatype=datatype),
        dims=(row_dim, *spec.dims[1:]),
        form=Form.FIXED_TEXT if datatype.kind == "string" else spec.form,
        member=(),
        element=None,
    )


def _as_rows(column: VariableSpec) -> VariableSpec:
    """The whole table that a column is of, as an array of records."""
    info = column.info
    assert info.shape is not None  # it is a table
    assert info.datatype.dtype is not None  # `check_can_grow`
    return VariableSpec(
        file=column.file,
        path=column.path,
        name=posixpath.basename(column.path),
        info=info,
        shape=info.shape,
        dtype=info.datatype.dtype.newbyteorder("="),
        dims=column.dims[:1],
        chunks=info.chunkshape,
        base_address=column.base_address,
    )


def _check_columns(dataset: Dataset, present: Mapping[str, VariableSpec], where: str) -> None:
    """Raise ValueError if the variables are not the columns, or of a kind that would be lost in them."""
    given = set(map(str, dataset.variables))
    for names, told in (
        (set(present) - given, "lacks the columns"),
        (given - set(present), "has more than the table:"),
    ):
        if names:
            raise ValueError(
                f"{where}: what is to be appended {told} {', '.join(map(repr, sorted(names)))}. A row has all columns "
                f"of the table and no others; they are {', '.join(map(repr, present))}"
            )
    for name, variable in dataset.variables.items():
        spec = present[str(name)]
        kind, own = spec.datatype.kind, variable.dtype.kind
        if (kind == "bool" and own not in "bO") or (own == "c" and kind != "complex"):
            raise _mismatch(str(name), spec, variable.dtype, where)
        members, stored = dict(enum_members(variable, variable)), dict(spec.datatype.members)
        if members not in ({}, stored):
            raise ValueError(
                f"{where}: variable {name!r} is an enumeration of {members}, the column "
                f"{f'of {stored}' if stored else 'is none'}. Recode it, and remove dtype from its encoding"
            )


def _mismatch(name: str, spec: VariableSpec, dtype: np.dtype, where: str) -> ValueError:
    stored = spec.datatype
    return ValueError(
        f"{where}: variable {name!r}: Mismatched dtypes: the column has values of kind {stored.kind!r} and dtype "
        f"{stored.dtype}, those to append are stored as {dtype}. Convert them with astype(), or write the table anew"
    )


def _more(column: Column, plan: VariablePlan, spec: VariableSpec, where: str) -> Column:
    """Values for a column that is there, as it stores them."""
    stored = spec.datatype
    assert stored.dtype is not None  # `check_can_grow`
    if stored.kind == "string":
        fits = column.dtype.kind == "S" and column.dtype.itemsize <= stored.dtype.itemsize
    else:
        fits = column.dtype.newbyteorder("=") == stored.dtype.newbyteorder("=")
    if not fits:
        raise _mismatch(plan.name, spec, column.dtype, where)
    if column.shape != spec.shape[1:]:
        raise ValueError(
            f"{where}: variable {plan.name!r} has the shape {column.shape} in each row, the column {spec.shape[1:]}"
        )
    data = column.data
    if spec.form is Form.TIME64:
        data = each(data, spec.form.stored, f"{where}: variable {plan.name!r}", dtype=np.int64)
    return replace(column, member=spec.member, data=data)


# -- rows -----------------------------------------------------------------------------------------------------


def rows_of(columns: Sequence[Column], record: np.dtype, rows: int, layout: ArrayLayout, where: str) -> Any:
    """The table as an array of records: of Dask, cut into whole chunks, unless it is small and in memory."""
    streamed, members = any(isinstance(column.data, dask.array.Array) for column in columns), _members(columns)
    if not rows or (not streamed and rows * record.itemsize <= _BLOCK_BYTES):
        return _assembled(*(np.asarray(column.data) for column in columns), members=members, record=record, where=where)
    chunk = (layout.chunkshape or (1,))[0]
    block = max(_BLOCK_BYTES // (record.itemsize * chunk), 1) * chunk
    arguments: list[Any] = []
    labels = itertools.count(1)
    for column in columns:
        whole = dict.fromkeys(range(1, column.data.ndim), -1)
        if isinstance(column.data, dask.array.Array):
            data = column.data.rechunk(whole)
        else:
            data = dask.array.from_array(np.asarray(column.data), chunks={0: block, **whole})
        arguments += [data, (0, *itertools.islice(labels, data.ndim - 1))]
    assembled = dask.array.blockwise(
        _assembled, (0,), *arguments, concatenate=True, dtype=record, meta=np.empty(0, record),
        members=members, record=record, where=where,
    )  # fmt: skip
    return assembled.rechunk({0: _aligned(assembled.chunks[0], chunk, block)})


def _members(columns: Iterable[Column]) -> tuple[tuple[str, ...], ...]:
    return tuple(column.member for column in columns)


def _assembled(*columns: np.ndarray, members: Sequence[tuple[str, ...]], record: np.dtype, where: str) -> np.ndarray:
    """Records from their columns."""
    rows = np.zeros(len(columns[0]), record)
    for member, column in zip(members, columns, strict=True):
        place = member_of(rows, member)
        place[...] = cast(column, place.dtype, f"{where}: column {'.'.join(member)!r}")
    return rows


def _aligned(blocks: Sequence[int], chunk: int, block: int) -> tuple[int, ...]:
    """Sizes of blocks near the given ones (and near `block`, where those are far larger or smaller) in whole chunks."""
    length = sum(blocks)
    if all(size % chunk == 0 for size in blocks[:-1]) and max(blocks, default=0) <= 4 * block:
        return tuple(blocks)
    size = min(max(max(blocks), chunk), 4 * block) // chunk * chunk
    return tuple(min(size, length - start) for start in range(0, length, size))


# -- attributes -----------------------------------------------------------------------------------------------


def _table_attributes(
    columns: Sequence[Column],
    attrs: Mapping[str, object],
    record: np.dtype,
    row_dim: str,
    rows: int,
    where: str,
    *,
    leave_out: Callable[[str], None] | None,
) -> Iterable[EncodedAttribute]:
    """PyTables' own attributes of a table, the dataset's, and those of the columns under `<column>@<name>`."""
    names = {column.name for column in columns}
    yield from table_attributes(record, rows)
    for number, column in enumerate(columns):
        fill = np.zeros((), column.dtype if column.dtype.kind != "S" else "S1")
        yield EncodedAttribute(f"FIELD_{number}_FILL", fill)  # PyTables wants all of them or none

    def means_something(name: str) -> bool:
        """Whether it is the title that PyTables gives each table, or would be read as a column's."""
        return name == "TITLE" or owner_of(name, names, record.names or ())[0] is not None

    yield from attributes.encode(attrs, where=where, leave_out=leave_out, means_something=means_something)
    yield EncodedAttribute("_ARRAY_DIMENSIONS", _texts((row_dim,)), utf8=True)
    for column in columns:
        if column.shape:
            yield EncodedAttribute(f"{column.name}{OF_COLUMN}_ARRAY_DIMENSIONS", _texts(column.dims), utf8=True)
        for attribute in column.attributes:
            yield replace(attribute, name=f"{column.name}{OF_COLUMN}{attribute.name}")


def _texts(names: Sequence[str]) -> np.ndarray:
    return np.array([name.encode("utf-8", "surrogateescape") for name in names])


# -- indexes --------------------------------------------------------------------------------------------------


def _checked_index(
    index: Iterable[str] | Mapping[str, str], columns: Sequence[Column], where: str
) -> tuple[ColumnIndex, ...]:
    """The columns to index, and how. Raises ValueError for a column that PyTables cannot index."""
    if isinstance(index, str) or not isinstance(index, Iterable):
        example = index if isinstance(index, str) else "energy"
        raise TypeError(f"{where}: index must be a list of names, e.g. index=[{example!r}], not {index!r}")
    wanted = dict(index) if isinstance(index, Mapping) else dict.fromkeys(index, "medium")
    by_name = {column.name: column for column in columns}
    for name, kind in wanted.items():
        column = by_name.get(name)
        if column is None:
            raise ValueError(f"{where}: index names {name!r}; the columns are {', '.join(map(repr, by_name))}")
        if kind not in INDEX_KINDS:
            raise ValueError(f"{where}: index[{name!r}] must be one of {INDEX_KINDS}, not {kind!r}")
        if column.shape or column.dtype.kind == "c":
            what = "has more than one value in each row" if column.shape else "is complex"
            raise ValueError(f"{where}: column {name!r} {what}, so PyTables cannot index it")
    return tuple(ColumnIndex("/".join(by_name[name].member), kind) for name, kind in wanted.items())
