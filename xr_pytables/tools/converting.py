"""From one format to another: files of PyTables, HDF5, netCDF, Zarr stores, `.npy`, `.npz`, memory maps, CSV, Parquet.

What is read is a set of groups with lazy arrays; what is written is read block by block, in threads, so memory is
needed for some blocks and not for arrays. Between formats that can hold the same, values are copied as they are stored,
with the attributes that say what they mean; `.npy` and `.npz` get the values that users see.

Tested in `tests/tools/test_converting.py` and `tests/commands/test_convert.py`.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import posixpath
import shutil
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Any, Final

import dask
import dask.array
import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from ..disk.files import FileIdentity, checked_group
from ..disk.transaction import Transaction
from ..errors import FileChangedError
from ..listing import tree
from ..sources.source import printable
from ..sources.url import is_url, shown
from ..sources.warning import warn
from ..writing.existing import look
from ..writing.placement import Mode
from ..writing.progress import bar, check_available
from ..writing.writer import to_pytables
from .opening import Groups, check_is_file, check_variables, chunks_of, is_zarr, named_alone, opened, steps
from .opening import check_zarr as check_zarr
from .opening import format_of as format_of
from .plain_arrays import Rows, chosen_names, open_csv, open_npy, open_npz, open_parquet, open_raw, write_npy, write_npz

Done = Callable[[int], None]
Bar = Callable[[int], AbstractContextManager[Done]]

SOURCES: Final = ("hdf5", "netcdf3", "zarr", "npy", "npz", "raw", "csv", "parquet")
TARGETS: Final = ("pytables", "netcdf", "zarr", "npy", "npz")
_SOURCE_ENDINGS: Final = {
    ".npy": "npy", ".npz": "npz", ".csv": "csv", ".tsv": "csv", ".txt": "csv", ".parquet": "parquet", ".pq": "parquet",
}  # fmt: skip
_TARGET_ENDINGS: Final = {
    ".h5": "pytables", ".hdf5": "pytables", ".hdf": "pytables", ".he5": "pytables", ".nc": "netcdf", ".nc4": "netcdf",
    ".cdf": "netcdf", ".zarr": "zarr", ".npy": "npy", ".npz": "npz",
}  # fmt: skip
_BLOCK: Final = 1 << 23  # bytes that are read at once by a thread
_SMALL: Final = 1 << 20  # bytes of an array that is read when it is asked for


@dataclass(frozen=True)
class Reading:
    """What is read, and which part of it."""

    path: str
    format: str | None = None
    """One of SOURCES; None: by the bytes and the ending."""
    group: str = "/"
    variables: Collection[str] | None = None
    select: Mapping[str, slice | int] = field(default_factory=dict)
    """Positions by dimension."""
    where: str | None = None
    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    offset: int = 0
    order: str = "C"
    name: str | None = None
    """Of the one array in a file that names none."""
    dims: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Writing:
    """Where things are written, and how they are stored there."""

    path: str
    format: str | None = None
    """One of TARGETS; None: by the ending."""
    group: str = "/"
    overwrite: bool = False
    chunks: Mapping[str, int] | tuple[int, ...] | None = None
    complib: str | None = None
    complevel: int | None = None
    threads: int | None = None


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    source_format: str | None = None,
    target_format: str | None = None,
    group: str = "/",
    target_group: str = "/",
    variables: Collection[str] | None = None,
    select: Mapping[str, slice | int] | None = None,
    where: str | None = None,
    chunks: Mapping[str, int] | Sequence[int] | None = None,
    complib: str | None = None,
    complevel: int | None = None,
    shape: Sequence[int] | None = None,
    dtype: str | None = None,
    offset: int = 0,
    order: str = "C",
    name: str | None = None,
    dims: Sequence[str] | None = None,
    overwrite: bool = False,
    threads: int | None = None,
    progress: bool = False,
) -> None:
    """Write what is in one file to another of another format.

    Parameters
    ----------
    source
        A file of PyTables, HDFStore, HDF5 or netCDF, a Zarr store, `.npy`, `.npz`, a table in CSV or Parquet, or a file
        of raw elements (with `dtype`, and another ending or `source_format="raw"`).
    target
        What to make: `.h5` (PyTables), `.nc` (netCDF-4), `.zarr`, `.npy` (one array) or `.npz`.
    source_format, target_format
        What they are, where the bytes or the ending do not say it: one of `hdf5`, `netcdf3`, `zarr`, `npy`, `npz`,
        `raw`, `csv`, `parquet`; one of `pytables`, `netcdf`, `zarr`, `npy`, `npz`.
    group
        The group, or the array, of the source to begin at.
    target_group
        Where in a file of PyTables to put it; then the file may be there already.
    variables
        Names of the arrays to take; their coordinates come with them, but not into `.npy` and `.npz`. Default: all.
    select
        Parts to take: slices or positions by dimension.
    where
        For a table, or a pandas object: the condition that rows must meet.
    chunks
        Elements per chunk, by dimension, or for each dimension of the one array. Default: those of the source.
    complib, complevel
        Compressor, as `to_pytables(encoding=)` has them. Default: that of the source. In `.npz`: `"zlib"`.
    shape, dtype, offset, order
        Of a file of raw elements: one length may be -1; all bytes from `offset` on are elements; `order`: `"C"`, `"F"`.
    name, dims
        Of the one array in a `.npy` file or a file of raw elements. Default: the name of the file, `dim_0` ...
    overwrite
        Replace a target that is there; with `target_group`, arrays and tables that are there.
    threads
        How many threads may work. Default: one per CPU.
    progress
        Show a bar of the bytes that are read (by tqdm, an extra: `xr-pytables[progress]`).

    Raises
    ------
    FileExistsError, IsADirectoryError
        If the target is there, or is a folder (but a Zarr store, which another one may replace).
    OSError, ValueError, TypeError, KeyError
        For a source that cannot be read, or cannot be written so. The target is as it was. Attributes that it has no
        form for are left out, with a warning.
    """
    if progress:
        check_available()
    reading = Reading(
        os.fspath(source), source_format, group, variables, dict(select or {}), where,
        None if shape is None else tuple(shape), dtype, offset, order, name, None if dims is None else tuple(dims),
    )  # fmt: skip
    wanted = dict(chunks) if isinstance(chunks, Mapping) else None if chunks is None else tuple(chunks)
    writing = Writing(os.fspath(target), target_format, target_group, overwrite, wanted, complib, complevel, threads)
    title = os.path.basename(os.fspath(target))
    run(reading, writing, bar=lambda size: bar(size, title, shown=progress))


def run(reading: Reading, writing: Writing, *, bar: Bar) -> None:
    """`convert` with any kind of bar."""
    check_variables(reading.variables)
    source, target = source_format_of(reading), target_format_of(writing)
    path = os.path.abspath(os.path.expanduser(writing.path))
    if os.path.realpath(reading.path) == os.path.realpath(path):
        raise ValueError(f"{path}: the source is the target")
    if os.path.isdir(path) and not (target == "zarr" and is_zarr(path)):
        raise IsADirectoryError(f"{path}: this is a folder" + (", and no Zarr store" if target == "zarr" else ""))
    if os.path.lexists(path) and not writing.overwrite and writing.group == "/":
        raise FileExistsError(f"{path}: it is there already; overwrite=True (--force) replaces it")
    if not os.path.isdir(os.path.dirname(path)):
        raise FileNotFoundError(f"{path}: there is no folder {os.path.dirname(path)}. Make it first")
    _check_has_effect(reading, source, writing, target)
    with ExitStack() as stack:
        contents = stack.enter_context(_contents(reading, source, raw=target not in ("npy", "npz"), beside=path))
        size = sum(variable.nbytes for group in contents.groups.values() for variable in group.variables.values())
        done = stack.enter_context(bar(size))
        settings = {"scheduler": "threads"} | ({} if writing.threads is None else {"num_workers": writing.threads})
        stack.enter_context(dask.config.set(settings))
        if target in ("npy", "npz"):
            _write_plain(contents, writing, path, target, done)
        elif target == "zarr":
            _write_zarr(contents, writing, path, done)
        else:
            _write_hdf5(contents, writing, path, target, done)


def _check_has_effect(reading: Reading, source: str, writing: Writing, target: str) -> None:
    """Raise ValueError for what is asked for and means nothing for such a source or target."""
    order = None if reading.order == "C" else reading.order
    of_raw = {"shape": reading.shape, "dtype": reading.dtype, "offset": reading.offset or None, "order": order}
    for name, value, known in (
        *((name, value, ("raw",)) for name, value in of_raw.items()),
        ("name", reading.name, ("npy", "raw")),
        ("dims", reading.dims, ("npy", "npz", "raw", "csv", "parquet")),
    ):
        if value is not None and source not in known:
            raise ValueError(
                f"{reading.path}: {name} (--{name}) is for sources of the formats {', '.join(known)}, and this one is "
                f"{source}. Leave it out, or say what the source is with source_format (--from)"
            )
    if writing.complevel is not None and target in ("npy", "npz"):
        raise ValueError(f"{writing.path}: complevel (--complevel) has no meaning for {target}. Leave it out")


def source_format_of(reading: Reading) -> str:
    """One of SOURCES. Raises ValueError for a format that is unknown, OSError for a path that is not there."""
    if reading.format is not None:
        if reading.format not in SOURCES:
            raise ValueError(f"the source's format must be one of {', '.join(SOURCES)}, not {reading.format!r}")
        if not is_url(reading.path):
            check_is_file(reading.path)
        return reading.format
    found = format_of(reading.path)
    if found:
        return {"HDF5": "hdf5", "netCDF-3": "netcdf3", "Zarr": "zarr"}[found]
    ending = os.path.splitext(reading.path)[1].lower()
    return _SOURCE_ENDINGS.get(ending, "raw")


def target_format_of(writing: Writing) -> str:
    """One of TARGETS. Raises ValueError if the ending says nothing."""
    if is_url(writing.path):
        raise ValueError(f"{shown(writing.path)}: files are converted to this machine alone. Upload the result")
    known = writing.format or _TARGET_ENDINGS.get(os.path.splitext(writing.path.rstrip("/"))[1].lower())
    if known not in TARGETS:
        raise ValueError(
            f"{writing.path}: what to write is told by the ending ({', '.join(_TARGET_ENDINGS)}), or by the target's "
            f"format (--to), one of {', '.join(TARGETS)}" + ("" if known is None else f", not {known!r}")
        )
    if writing.group != "/" and known != "pytables":
        raise ValueError(f"{writing.path}: only a file of PyTables is written into at {writing.group!r}")
    return known


# -- what is read ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Contents:
    """Groups with lazy arrays, and which of them are tables."""

    groups: Groups
    tables: frozenset[str] = frozenset()


@contextlib.contextmanager
def _contents(reading: Reading, source: str, *, raw: bool, beside: str) -> Iterator[_Contents]:
    if reading.where is not None and source != "hdf5":
        raise ValueError(f"{shown(reading.path)}: where= is for tables in HDF5 files")
    with ExitStack() as stack:
        if source in ("hdf5", "netcdf3", "zarr"):
            options = {} if reading.where is None else {"where": reading.where}
            groups = stack.enter_context(opened(reading.path, reading.group, raw=raw, **options))
            tables = _tables(reading) if source == "hdf5" else frozenset()
        else:
            if reading.group != "/":
                raise ValueError(f"{shown(reading.path)}: there are no nodes in such a file, as {reading.group!r}")
            groups, tables = _plain(reading, source, beside, stack, raw=raw)
        chosen = {path: _chosen(dataset, reading) for path, dataset in groups.items()}
        _check_called_by_text(chosen, reading)
        if reading.variables is not None:
            _check_names(reading, groups)
            chosen = {path: dataset for path, dataset in chosen.items() if dataset.variables}
        if not raw and reading.variables is not None:  # without coordinates
            chosen = {path: named_alone(dataset, reading.variables) for path, dataset in chosen.items()}
        _check_dims(reading, groups)
        yield _Contents(chosen, tables)


def _tables(reading: Reading) -> frozenset[str]:
    listed = tree(reading.path, group=reading.group)
    return frozenset(group.group for group in listed.groups if group.kind == "table")


def _chosen(dataset: xr.Dataset, reading: Reading) -> xr.Dataset:
    if reading.variables is not None:
        dataset = dataset[[name for name in dataset.variables if str(name) in reading.variables]]
    here = {dim: part for dim, part in reading.select.items() if dim in dataset.sizes}
    for dim, part in here.items():
        size = dataset.sizes[dim]
        if isinstance(part, int) and not -size <= part < size:
            raise ValueError(f"{shown(reading.path)}: dimension {dim!r} has {size} elements, and {part} is asked for")
    return dataset.isel(here) if here else dataset


def _check_called_by_text(groups: Groups, reading: Reading) -> None:
    """Raise ValueError for columns of pandas of which two have labels of the same text."""
    for path, dataset in groups.items():
        for name in dataset.variables:
            if not isinstance(name, str):
                raise ValueError(
                    f"{shown(reading.path)}:{path}: the column {name!r} cannot be called {str(name)!r}, as another one "
                    "is. Rename one of them"
                )


def _check_names(reading: Reading, groups: Groups) -> None:
    known = sorted({str(name) for dataset in groups.values() for name in dataset.variables})
    chosen_names(known, reading.variables, reading.path)


def _check_dims(reading: Reading, groups: Groups) -> None:
    for dim in reading.select:
        sizes = {str(known) for dataset in groups.values() for known in dataset.sizes}
        if dim not in sizes:
            raise ValueError(
                f"{shown(reading.path)}: there is no dimension {dim!r}; there are {', '.join(sorted(sizes))}"
            )


def _plain(reading: Reading, source: str, beside: str, stack: ExitStack, *, raw: bool) -> tuple[Groups, frozenset[str]]:
    """The arrays of a file without dimensions."""
    path = os.path.abspath(os.path.expanduser(reading.path))
    stem = reading.name or os.path.splitext(os.path.basename(path))[0]
    if source == "npy":
        return _named({stem: open_npy(path)}, reading)
    if source == "raw":
        return _named({stem: open_raw(path, reading.shape, reading.dtype, reading.offset, reading.order)}, reading)
    folder = _folder_beside(beside)
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    if source == "npz":
        return _named(open_npz(path, folder), reading)
    columns = (open_csv if source == "csv" else open_parquet)(path, folder, reading.variables)
    rows = reading.dims[0] if reading.dims else "row"
    found = _dataset({name: (column, (rows,)) for name, column in columns.items()})
    return {"/": found if raw else xr.decode_cf(found, decode_times=False)}, frozenset({"/"})


def _folder_beside(path: str) -> str:
    """A new folder, which is not shown, beside a file. What goes wrong names the file."""
    try:
        return tempfile.mkdtemp(prefix=".xr-pytables-", dir=os.path.dirname(path))
    except OSError as error:
        error.filename = path
        raise


def _named(arrays: Mapping[str, Any], reading: Reading) -> tuple[Groups, frozenset[str]]:
    """Arrays as variables: one of records is a table of its own; names with slashes are paths."""
    if reading.dims is not None and any(len(reading.dims) != len(array.shape) for array in arrays.values()):
        told = ", ".join(f"{name!r} of shape {array.shape}" for name, array in arrays.items())
        raise ValueError(f"{shown(reading.path)}: {len(reading.dims)} names of dimensions do not fit {told}")
    groups: dict[str, dict[str, Any]] = {"/": {}}
    tables = set()
    for path, array in arrays.items():
        parent, name = posixpath.split(posixpath.join("/", path))
        if array.dtype.names and len(array.shape) == 1:
            rows = (reading.dims or ("row",))[0]
            table = posixpath.join(parent, name)
            groups[table] = {column: (_Field(array, column), (rows,)) for column in array.dtype.names}
            tables.add(table)
        else:
            dims = reading.dims or tuple(f"dim_{size}" for size in array.shape)
            groups.setdefault(parent, {})[name] = (array, _distinct(dims))
    return {path: _dataset(group) for path, group in groups.items() if group or path == "/"}, frozenset(tables)


def _distinct(dims: Sequence[str]) -> tuple[str, ...]:
    """Names of which each is there once, as the engine makes them up."""
    return tuple(dim if dim not in dims[:axis] else f"{dim}_{dims[:axis].count(dim)}" for axis, dim in enumerate(dims))


@dataclass(frozen=True)
class _Field:
    """A column of an array of records."""

    array: Any
    name: str

    @property
    def dtype(self) -> np.dtype[Any]:
        fields = self.array.dtype.fields
        kind: np.dtype[Any] = fields[self.name][0]
        return kind.base

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.array.shape, *self.array.dtype.fields[self.name][0].shape)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        rows, *rest = key if isinstance(key, tuple) else (key,)
        return np.asarray(self.array[rows][self.name][(slice(None), *rest)])


class _Lazy(BackendArray):
    """An array of a plain file as xarray's lazy arrays are made of."""

    def __init__(self, array: Any) -> None:
        self.array, self.dtype, self.shape = array, array.dtype, tuple(array.shape)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self._read)

    def _read(self, key: tuple[Any, ...]) -> NDArray[Any]:
        values: NDArray[Any] = self.array[key]
        return values


def _dataset(arrays: Mapping[str, tuple[Any, tuple[str, ...]]]) -> xr.Dataset:
    variables = {}
    for name, (array, dims) in arrays.items():
        shape = tuple(array.shape)
        dims = (*dims, *(f"{name}_{axis}" for axis in range(len(shape) - len(dims))))
        data = indexing.LazilyIndexedArray(_Lazy(array))
        variables[name] = xr.Variable(dims, data, dict(getattr(array, "attrs", {})))
    return xr.Dataset(variables)


# -- arrays in blocks --------------------------------------------------------------------------------------


class _Watched:
    """A lazy variable that tells how much of it was read, for Dask."""

    def __init__(self, variable: xr.Variable, done: Done) -> None:
        self.variable, self.done = variable, done
        self.dtype, self.shape, self.ndim = variable.dtype, variable.shape, variable.ndim

    def __getitem__(self, key: Any) -> NDArray[Any]:
        values = np.asarray(self.variable[key].values)
        self.done(values.nbytes)
        return values


def _in_blocks(variable: xr.Variable, done: Done, chunks: Sequence[int] | None) -> xr.Variable:
    """A variable in blocks of whole chunks for Dask; a small one, or one of objects, in memory."""
    if variable.nbytes <= _SMALL or (variable.dtype.kind == "O" and variable.size <= _SMALL):
        values = variable.values
        if not values.size and (variable.dtype.metadata or {}).get("element_type") is str:
            values = values.astype("U1")  # else nobody knows that it is text
        done(variable.nbytes)
        return xr.Variable(variable.dims, values, variable.attrs, variable.encoding)
    cut = steps(variable.shape, tuple(chunks or chunks_of(variable)), variable.dtype.itemsize, _BLOCK)
    data = dask.array.from_array(
        _Watched(variable, done), cut, name=False, asarray=False, meta=np.empty((0,) * variable.ndim, variable.dtype)
    )
    return xr.Variable(variable.dims, data, variable.attrs, variable.encoding)


def _chunks_for(variable: xr.Variable, name: str, writing: Writing) -> tuple[int, ...] | None:
    """The chunks that are asked for a variable; None if none are."""
    wanted = writing.chunks
    if wanted is None or not variable.ndim:
        return None
    if isinstance(wanted, Mapping):
        if not any(dim in wanted for dim in variable.dims):
            return None
        whole = dict(zip(variable.dims, _stored_chunks(variable) or variable.shape, strict=True))
        return tuple(int(wanted.get(str(dim), whole[dim])) for dim in variable.dims)
    return tuple(wanted) if len(wanted) == variable.ndim else None


def _check_chunks(contents: _Contents, writing: Writing) -> None:
    wanted = writing.chunks
    arrays = [variable for dataset in contents.groups.values() for variable in dataset.variables.values()]
    if isinstance(wanted, Mapping):
        dims = {str(dim) for variable in arrays for dim in variable.dims}
        for dim in wanted:
            if dim not in dims:
                raise ValueError(f"chunks: there is no dimension {dim!r}; there are {', '.join(sorted(dims))}")
    elif wanted is not None and not any(variable.ndim == len(wanted) for variable in arrays):
        raise ValueError(f"chunks {wanted}: there is no array of {len(wanted)} dimensions")
    if wanted is not None and any(n < 1 for n in (wanted.values() if isinstance(wanted, Mapping) else wanted)):
        raise ValueError(f"chunks {wanted}: each must be 1 or more")


def _stored_chunks(variable: xr.Variable) -> tuple[int, ...] | None:
    """Chunks of the source, if it is chunked and nothing was cut out along them."""
    stored = variable.encoding.get("chunksizes") or variable.encoding.get("chunks")
    if stored is None or len(stored) != variable.ndim:
        return None
    return tuple(max(1, min(int(n), size)) if size else int(n) for n, size in zip(stored, variable.shape, strict=True))


def _like(dataset: xr.Dataset, variables: Mapping[Any, xr.Variable]) -> xr.Dataset:
    """A Dataset of other variables by the same names, of which the same are coordinates."""
    whole = xr.Dataset(variables, attrs=dataset.attrs).set_coords(list(dataset.coords))
    whole.encoding = _origin(dataset)
    return whole


def _origin(obj: xr.Dataset | xr.Variable) -> dict[str, Any]:
    """The encoding of what was read from a file, of which attributes without a form are left out with a warning.

    Of objects, the writer leaves out whole arrays then.
    """
    is_known = "source" in obj.encoding and not (isinstance(obj, xr.Variable) and obj.dtype.kind in "OV")
    return {"source": obj.encoding["source"]} if is_known else {}


def _coordinates_of(variable: xr.Variable, dataset: xr.Dataset) -> dict[str, Any]:
    """The attribute `coordinates` as the source has it, in an encoding; nothing if one of them is left out."""
    names = variable.encoding.get("coordinates")
    return {"coordinates": names} if names and all(name in dataset.variables for name in names.split()) else {}


# -- HDF5 --------------------------------------------------------------------------------------------------


def _write_hdf5(contents: _Contents, writing: Writing, path: str, target: str, done: Done) -> None:
    """A new file made beside the target and renamed; or groups in a file that is there."""
    _check_chunks(contents, writing)
    group = checked_group(writing.group)
    mode: Mode = "a" if group != "/" and os.path.exists(path) else "w" if writing.overwrite else "w-"
    tables_of = contents.tables if target == "pytables" else frozenset()
    plain = {name: dataset for name, dataset in contents.groups.items() if name not in tables_of}
    datasets = {name: _for_hdf5(dataset, writing, target, done) for name, dataset in plain.items()}
    _let_grow_together(datasets)
    tables = {name: contents.groups[name] for name in contents.groups if name in tables_of}
    if mode == "a" and not writing.overwrite:
        _check_free(datasets, tables, path, group)
    options: dict[str, Any] = {"threads": writing.threads, "align_chunks": True}
    tree = _as_tree(datasets)
    if (tree is not None and not tables) or (mode != "a" and len(contents.groups) == 1):
        _write_groups(datasets, tree, tables, path, group, mode, done, options, writing)
        return
    version, _ = look(path, mode)  # also refuses a file that somebody writes to
    with _made_beside(path, exclusive=mode == "w-", version=version) as staged:
        if mode == "a":
            shutil.copyfile(path, staged)
        options["fsync"] = False  # it is waited for when all is written
        _write_groups(datasets, tree, tables, staged, group, "a" if mode == "a" else "w", done, options, writing)


def _let_grow_together(datasets: Groups) -> None:
    """A dimension that grows in a group grows in those above it, which share it if it is as long there."""
    for path, dataset in datasets.items():
        for dim in dataset.encoding["unlimited_dims"]:
            for above, other in datasets.items():
                inside = path.startswith(posixpath.join(above, ""))
                if inside and other.sizes.get(dim) == dataset.sizes.get(dim) is not None:
                    other.encoding["unlimited_dims"] = tuple({*other.encoding["unlimited_dims"], dim})


def _check_free(datasets: Groups, tables: Groups, path: str, group: str) -> None:
    """Raise FileExistsError if the file at `path` has an array or a table in a place where one is to be."""
    listed = tree(path).groups
    there = {posixpath.join(one.group, array.name) for one in listed for array in one.arrays}
    there |= {one.group for one in listed if one.kind != "group"} | {
        node.path for one in listed for node in one.skipped
    }
    places = [(name, dataset.variables) for name, dataset in datasets.items()] + [(name, {"": None}) for name in tables]
    for name, variables in places:
        for variable in variables:
            node = posixpath.join(group, name.lstrip("/"), str(variable)).rstrip("/")
            if node in there:
                raise FileExistsError(f"{path}:{node}: it is there already; overwrite=True (--force) replaces it")


@contextlib.contextmanager
def _made_beside(path: str, *, exclusive: bool, version: FileIdentity | None = None) -> Iterator[str]:
    """A path for a new file, which takes the place of the one at `path` at the end of the block, and its permissions.

    With `exclusive` there must be none; with a `version` it must be that one still. If anything goes wrong, the file is
    as it was.
    """
    transaction = Transaction.beside(path)
    transaction.check_allowed()

    def check() -> None:
        if version is not None and not version.same_version(FileIdentity.of(transaction.target)):
            raise FileChangedError(f"{path}: the file was changed by somebody else meanwhile; it was left alone")

    with transaction.begun():
        folder = os.path.join(transaction.folder, "made")
        os.mkdir(folder)
        staged = os.path.join(folder, os.path.basename(path))
        with transaction.naming_the_target(), _called(staged, path):
            yield staged
            os.replace(staged, transaction.new_file)
            transaction.commit(fsync=True, exclusive=exclusive, check=check)


@contextlib.contextmanager
def _staged(path: str, overwrite: bool) -> Iterator[str]:
    """A path for a new folder, which takes the place of what is at `path` at the end of the block."""
    folder = _folder_beside(path)
    staged, old = os.path.join(folder, os.path.basename(path)), os.path.join(folder, "old")
    try:
        with _called(staged, path):
            yield staged
            if overwrite and os.path.lexists(path):  # there is no rename of a folder over another thing
                os.rename(path, old)
            try:
                os.rename(staged, path)
            except OSError:
                if os.path.lexists(old):
                    os.rename(old, path)
                raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _called(staged: str, path: str) -> Iterator[None]:
    """Say of `path` what errors and warnings say of `staged`, of which the user has never heard."""
    try:
        with warnings.catch_warnings(record=True) as told:
            yield
        for one in told:
            warn(str(one.message).replace(staged, path), one.category)
    except Exception as error:
        error.args = tuple(one.replace(staged, path) if isinstance(one, str) else one for one in error.args)
        if isinstance(error, OSError) and isinstance(error.filename, str):
            error.filename = error.filename.replace(staged, path)
        raise


def _as_tree(datasets: Groups) -> xr.DataTree | None:
    """The groups as one tree, in which a coordinate is that of the groups below, too; None if they are none.

    A group may have a dimension of another size than the group around it, or repeat a coordinate of it.
    """
    for path, dataset in datasets.items():
        above = path
        while above != "/":
            above = posixpath.dirname(above)
            if above in datasets and not datasets[above].xindexes.keys().isdisjoint(dataset.variables):
                return None
    try:
        return xr.DataTree.from_dict(datasets)
    except (ValueError, KeyError):
        return None


def _write_groups(
    datasets: Groups, tree: xr.DataTree | None, tables: Groups, path: str, group: str, mode: Any, done: Done,
    options: dict[str, Any], writing: Writing,
) -> None:  # fmt: skip
    if tree is not None and datasets:
        to_pytables(tree, path, mode=mode, group=group, **options)
        mode = "a"
    for name, dataset in datasets.items() if tree is None else ():
        to_pytables(dataset, path, mode=mode, group=posixpath.join(group, name.lstrip("/")), **options)
        mode = "a"
    for name, dataset in tables.items():
        rows = _for_table(dataset, done)
        place = posixpath.join(group, name.lstrip("/"))
        if place == "/":
            place = f"/{os.path.splitext(os.path.basename(path))[0]}"
        encoding = _table_encoding(rows, writing)
        to_pytables(rows, path, mode=mode, group=place, layout="table", encoding=encoding, threads=options["threads"])
        mode = "a"


def _for_hdf5(dataset: xr.Dataset, writing: Writing, target: str, done: Done) -> xr.Dataset:
    variables = {}
    for name, variable in dataset.variables.items():
        chunks = _chunks_for(variable, str(name), writing)
        stored = chunks or _stored_chunks(variable)
        if stored is None and variable.nbytes > _SMALL:
            stored = steps(variable.shape, variable.shape, variable.dtype.itemsize, _SMALL)
        block = _in_blocks(variable, done, stored)
        block.encoding = _hdf5_encoding(variable, writing, target, stored)
        block.encoding |= _coordinates_of(variable, dataset) | _origin(variable)
        variables[name] = block
    whole = _like(dataset, variables)
    whole.encoding["unlimited_dims"] = tuple(dataset.encoding.get("unlimited_dims", ()))
    return whole


def _hdf5_encoding(
    variable: xr.Variable, writing: Writing, target: str, chunks: tuple[int, ...] | None
) -> dict[str, Any]:
    source = variable.encoding
    keep = ("complib", "complevel", "shuffle", "bitshuffle", "fletcher32", "string", "ragged", "zlib")
    found = {key: source[key] for key in keep if key in source}
    if source.get("fletcher32") is False:
        del found["fletcher32"]
    if "complib" not in found and source.get("zlib"):
        found["complib"] = "zlib"
    if target == "netcdf" and str(found.get("complib", "zlib")) != "zlib":  # others need plug-ins to read it
        for key in ("complib", "complevel", "shuffle", "bitshuffle"):
            found.pop(key, None)
        found["complib"] = "zlib"
    if writing.complib is not None:
        for key in ("complevel", "shuffle", "bitshuffle", "zlib"):
            found.pop(key, None)
        found["complib"] = writing.complib
    if writing.complevel is not None:
        found["complevel"] = writing.complevel
        found.setdefault("complib", "zlib")
    if chunks is not None and variable.ndim:
        found["chunksizes"] = chunks
    if variable.dtype.kind == "O" and variable.size > _SMALL:
        found.update(string="vlen")
    return found | _no_other_fill_value(variable)


def _no_other_fill_value(variable: xr.Variable) -> dict[str, None]:
    """For the encoding of a variable: floats get none, if they have none in the source."""
    return {"_FillValue": None} if variable.dtype.kind in "fc" and "_FillValue" not in variable.attrs else {}


def _table_encoding(rows: xr.Dataset, writing: Writing) -> dict[Any, Any]:
    """Chunks and compression of a whole table: as the encoding of any column."""
    name, variable = next(iter(rows.variables.items()))
    chunks = _chunks_for(variable, str(name), writing)
    asked = {"complib": writing.complib, "complevel": writing.complevel, "chunksizes": chunks and chunks[:1]}
    if writing.complevel is not None and writing.complib is None:
        asked["complib"] = "zlib"
    found = {key: value for key, value in asked.items() if value is not None}
    return {name: found} if found else {}


def _for_table(dataset: xr.Dataset, done: Done) -> xr.Dataset:
    variables = {name: _in_blocks(variable, done, None) for name, variable in dataset.variables.items()}
    for variable in variables.values():
        variable.encoding = _coordinates_of(variable, dataset) | _origin(variable) | _no_other_fill_value(variable)
    return _like(dataset, variables)


# -- Zarr --------------------------------------------------------------------------------------------------


def _write_zarr(contents: _Contents, writing: Writing, path: str, done: Done) -> None:
    check_zarr(path)
    _check_chunks(contents, writing)
    with _staged(path, writing.overwrite) as staged:
        for number, (name, dataset) in enumerate(contents.groups.items()):
            variables, encoding = {}, {}
            for variable_name, variable in dataset.variables.items():
                lacking = _not_in_zarr(variable, str(variable_name))
                if lacking:
                    raise ValueError(
                        f"{path}: {posixpath.join(name, str(variable_name))!r} has {lacking}, for which Zarr has no "
                        "form. Leave it out (--vars)"
                    )
                chunks = _chunks_for(variable, str(variable_name), writing) or _stored_chunks(variable)
                block = _in_blocks(variable, done, chunks)
                block.encoding = _coordinates_of(variable, dataset)
                node = posixpath.join(name, str(variable_name))
                block.attrs = _zarr_attributes(variable.attrs, f"{path}:{node}")
                variables[variable_name] = block
                encoding[variable_name] = _zarr_encoding(block, chunks, writing) | _no_other_fill_value(variable)
            where = None if name == "/" else name
            mode: Any = "a" if number else "w-"
            whole = _like(dataset, variables)
            whole.attrs = _zarr_attributes(dataset.attrs, f"{path}:{name}")
            whole.to_zarr(staged, group=where, mode=mode, encoding=encoding, zarr_format=2, consolidated=False)


def _zarr_attributes(attributes: Mapping[Any, object], where: str) -> dict[Any, Any]:
    """Attributes as JSON can hold them, bytes as text if they are UTF-8. Others are left out, with a warning.

    `_FillValue` is of the type of the values, and Zarr keeps it elsewhere.
    """
    found = {}
    for name, value in attributes.items():
        try:
            found[name] = value if name == "_FillValue" else json.loads(json.dumps(_for_json(value)))
        except (TypeError, ValueError):  # of which UnicodeDecodeError is one
            kind = type(value).__name__ + (f" ({value.dtype})" if isinstance(value, np.ndarray) else "")
            warn(printable(f"{where}: attribute {name!r} of type {kind} has no form in Zarr, and is left out"))
    return found


def _for_json(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype.kind in "mMV":  # as Python has them, times may be mere numbers
            raise TypeError(f"{value.dtype} has no form in JSON")
        value = value.tolist()
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list | tuple):
        return [_for_json(one) for one in value]
    return {key: _for_json(one) for key, one in value.items()} if isinstance(value, Mapping) else value


def _not_in_zarr(variable: xr.Variable, name: str) -> str | None:
    """What a variable has that Zarr lacks; None for nothing."""
    dtype = variable.dtype
    if dtype.kind == "O" and isinstance((dtype.metadata or {}).get("vlen"), np.dtype):
        return "rows of variable length"
    if any(field[0].fields or field[0].shape for field in (dtype.fields or {}).values()):
        return "records with arrays or records in them"
    if dtype.itemsize > {"f": 8, "c": 16}.get(dtype.kind, dtype.itemsize):
        return f"numbers of the type {dtype}"
    return "a backslash in its name" if "\\" in name else None


def _zarr_encoding(block: xr.Variable, chunks: tuple[int, ...] | None, writing: Writing) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if block.ndim and chunks is not None:
        found["chunks"] = chunks
    elif block.chunks is not None:
        found["chunks"] = tuple(along[0] for along in block.chunks)
    if writing.complib is not None or writing.complevel is not None:
        found["compressors"] = _zarr_compressor(writing)
    return found


def _zarr_compressor(writing: Writing) -> Any:
    import numcodecs  # only here

    family, _, codec = (writing.complib or "blosc:zstd").partition(":")
    level = 4 if writing.complevel is None else writing.complevel
    if family in ("blosc", "blosc2"):
        return numcodecs.Blosc(codec or "blosclz", level)
    if family in ("zlib", "bzip2"):
        return numcodecs.Zlib(level) if family == "zlib" else numcodecs.BZ2(max(level, 1))
    raise ValueError(f"complib {writing.complib!r} has no form in Zarr; zlib, bzip2 and blosc:... have one")


# -- NumPy's formats ---------------------------------------------------------------------------------------


def _write_plain(contents: _Contents, writing: Writing, path: str, target: str, done: Done) -> None:
    arrays = {
        posixpath.join(group, str(name)).lstrip("/"): variable
        for group, dataset in contents.groups.items()
        for name, variable in dataset.variables.items()
    }
    if writing.chunks is not None:
        raise ValueError(f"{path}: there are no chunks in .{target} files")
    if target == "npy" and writing.complib is not None:
        raise ValueError(f"{path}: .npy files are not compressed; .npz, .h5 and .zarr are")
    if target == "npz" and writing.complib not in (None, "zlib"):
        raise ValueError(f"{path}: complib {writing.complib!r} has no form in .npz files; zlib has one")
    if target == "npy" and len(arrays) != 1:
        names = ", ".join(map(repr, arrays)) or "none"
        raise ValueError(
            f"{path}: a .npy file holds one array, and there are {names}. Choose one (--vars), or write .npz"
        )
    rows = {name: _rows(variable, f"{path}: {name!r}", done) for name, variable in arrays.items()}
    with _made_beside(path, exclusive=not writing.overwrite) as staged, open(staged, "wb") as file:
        if target == "npy":
            write_npy(file, next(iter(rows.values())))
        else:
            write_npz(file, rows, compressed=writing.complib is not None)


def _rows(variable: xr.Variable, told: str, done: Done) -> Rows:
    """A variable as blocks of whole rows."""
    chunks = chunks_of(variable)
    first = steps(variable.shape[:1], chunks[:1], math.prod(variable.shape[1:]) * variable.dtype.itemsize, _BLOCK)
    step = first[0] if first else 1
    whole = variable.shape if variable.ndim else (1,)

    def values() -> Iterator[NDArray[Any]]:
        for start in range(0, whole[0], step):
            yield np.asarray((variable[start : start + step] if variable.ndim else variable).values)

    dtype = _text_type(values, told) if variable.dtype.kind in "OT" else variable.dtype

    def blocks() -> Iterator[NDArray[Any]]:
        for block in values():
            yield block.astype(dtype)
            done(block.nbytes)

    return Rows(dtype, variable.shape, blocks)


def _text_type(values: Callable[[], Iterator[NDArray[Any]]], told: str) -> np.dtype[Any]:
    """The width of text, for which all of it is read once. Raises ValueError for other objects."""
    width, kinds = 1, set[type]()
    for block in values():
        for value in block.flat:
            kinds.add(type(value))
            width = max(width, len(value) if isinstance(value, str | bytes) else 1)
    if kinds <= {str}:
        return np.dtype(f"U{width}")
    if kinds <= {bytes}:
        return np.dtype(f"S{width}")
    names = ", ".join(sorted(kind.__name__ for kind in kinds))
    raise ValueError(
        f"{told} holds objects ({names}), which NumPy's formats keep as pickles only. Leave it out (--vars)"
    )
