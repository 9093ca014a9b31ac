"""Writing xarray objects to HDF5: plan, then execute.

A `request` is what the caller wants; `plan`, `table_plan` and `frame_plan` say what will be written and refuse what
cannot be; `execution` does it.

Tested in `tests/writing/test_writing.py`.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

import numpy as np
import pandas as pd
import tables
from dask.delayed import Delayed
from xarray import DataArray, Dataset, DataTree

from ..disk.opened_files import hdf5_lock
from ..disk.transaction import Transaction
from ..library.target_file import filter_available
from ..sources.url import is_url, local_path
from ..sources.warning import warn
from .execution import Again, Job, delayed, execute, put_structure
from .existing import check_frame_alone, look, look_at_frame, look_at_table
from .frame_plan import is_object, plan_frame, plan_longer_frame
from .other_chunks import check_dask, in_dask
from .placement import Mode, checked_append_dim, chosen_mode
from .plan import filled_with_nan_by_default, plan_write, warn_of_missing_chunks
from .plans import WritePlan
from .progress import check_available
from .request import MODES, Layout, WriteRequest
from .table_plan import plan_append, plan_table
from .targets import Effort
from .upload import uploaded
from .waiting import Patience

if TYPE_CHECKING:
    from tables import Filters

_Obj: TypeAlias = Dataset | DataArray | DataTree | pd.DataFrame | pd.Series
_Index = Iterable[str] | Mapping[str, str]
_Names = bool | Iterable[Hashable]
_Region = Mapping[str, slice | Literal["auto"]] | Literal["auto"] | None
_Unlimited = Iterable[Hashable] | Mapping[str, Iterable[Hashable]] | None


@overload
def to_pytables(
    obj: _Obj, path: str | os.PathLike[str], mode: Mode | None = ..., *, group: str = ...,
    encoding: Mapping[Any, Any] | None = ..., filters: Filters | None = ..., unlimited_dims: _Unlimited = ...,
    append_dim: Hashable | None = ..., region: _Region = ...,
    safe_chunks: bool = ..., align_chunks: bool = ..., write_empty_chunks: bool = ..., checksums: bool = ...,
    write_inherited_coords: bool = ..., layout: Layout = ..., index: _Index = ..., data_columns: _Names = ...,
    compute: Literal[True] = ..., structure_first: Literal[False] = ..., fsync: bool = ..., threads: int | None = ...,
    wait: float = ..., progress: bool = ..., storage_options: Mapping[str, Any] | None = ...,
) -> None: ...  # fmt: skip


@overload
def to_pytables(
    obj: _Obj, path: str | os.PathLike[str], mode: Mode | None = ..., *, group: str = ...,
    encoding: Mapping[Any, Any] | None = ..., filters: Filters | None = ..., unlimited_dims: _Unlimited = ...,
    append_dim: Hashable | None = ..., region: _Region = ...,
    safe_chunks: bool = ..., align_chunks: bool = ..., write_empty_chunks: bool = ..., checksums: bool = ...,
    write_inherited_coords: bool = ..., layout: Layout = ..., index: _Index = ..., data_columns: _Names = ...,
    compute: bool, structure_first: bool = ..., fsync: bool = ..., threads: int | None = ..., wait: float = ...,
    progress: bool = ...,
    storage_options: Mapping[str, Any] | None = ...,
) -> Delayed | None: ...  # fmt: skip


def to_pytables(
    obj: _Obj,
    path: str | os.PathLike[str],
    mode: Mode | None = None,
    *,
    group: str = "/",
    encoding: Mapping[Any, Any] | None = None,
    filters: Filters | None = None,
    unlimited_dims: _Unlimited = None,
    append_dim: Hashable | None = None,
    region: _Region = None,
    safe_chunks: bool = True,
    align_chunks: bool = False,
    write_empty_chunks: bool = True,
    checksums: bool = True,
    write_inherited_coords: bool = False,
    layout: Layout = "arrays",
    index: _Index = (),
    data_columns: _Names = (),
    compute: bool = True,
    structure_first: bool = False,
    fsync: bool = True,
    threads: int | None = None,
    wait: float = 0,
    progress: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> Delayed | None:
    """Write a Dataset, DataArray or DataTree to an HDF5 file that PyTables, netCDF4, h5netcdf and h5py can read.

    With `layout="pandas"` also a DataFrame or Series: to an object that `pd.read_hdf` reads.

    All is checked before the disk is touched. The new version of the file is made beside `path` and renamed over it
    at the end; or a large file is changed in place, inside a journal. An error, a killed process or a full disk leaves
    the file as it was.

    Parameters
    ----------
    obj
        What to write. Dask arrays are computed and written block by block; nothing is loaded whole. Chunked arrays of
        others (cubed) are computed by those into files beside `path` first.
    path
        The file. Its folder must exist. Or a URL of an object store (S3, Google, Azure): the file is written to a
        temporary folder on this machine, and uploaded when it is whole.
    mode
        `"w"` (default) replaces the file; `"w-"` or `"x"` refuses if it exists; `"a"` (default with `append_dim`) adds
        groups and variables to it, and replaces variables of the same name; `"r+"` (default with `region`) sets values
        of variables that are there, of the same shape.
    group
        Path of the group to write to; missing groups are made.
    encoding
        By variable (for a DataTree: by group, then by variable), e.g. `{"t": {"complib": "blosc:zstd", "complevel":
        5, "chunksizes": (1, 180, 360), "dtype": "int16", "scale_factor": 0.01}}`. Keys: `dtype`, `chunksizes`
        (elements), `contiguous`, `complib`, `complevel`, `shuffle`, `bitshuffle`, `fletcher32` (on by default),
        `zlib`, `least_significant_digit`, `string` (`"fixed"` or `"vlen"`), and those of CF. An unknown key is an
        error here; in a variable's own `encoding` it is ignored.
    filters
        A `tables.Filters` for all variables that `encoding` does not name.
    unlimited_dims
        Dimensions that shall be able to grow; PyTables sees an EArray. For a DataTree: by group. Default: what
        `obj.encoding["unlimited_dims"]` says.
    append_dim
        The dimension to append along: arrays in the file that have it grow. A missing file or group is made. With
        `layout="table"` or `"pandas"` the rows: they go behind those that the table has, whose indexes go on
        or are made anew.
    region
        Which part of the arrays in the file to write: slices by dimension, `"auto"` for a dimension or for all to find
        them by coordinates.
    safe_chunks
        Refuse (ValueError) a Dask array of which two blocks share a chunk that `encoding` asks for. Chunks that nobody
        asked for never conflict: they follow the blocks, or the borders of the blocks are moved. False puts the pieces
        of shared chunks together in the end: right, but slow.
    align_chunks
        Move the borders of the blocks to those of the chunks that `encoding` asks for, too.
    write_empty_chunks
        False leaves chunks that hold nothing but the fill value out of new arrays: they take no room, and read as if
        they were there. The fill value of floats is NaN, unless `encoding` has `{"_FillValue": None}`: then it is zero.
    checksums
        False writes no checksums in any new array, for programs that cannot read them.
    write_inherited_coords
        For a DataTree: whether to repeat coordinates of the parent in each child.
    layout
        `"arrays"` writes an array for each variable. `"table"` writes one Table of PyTables at the path `group`, with
        a column for each variable; they share their first dimension, the rows. `"pandas"` writes an object of pandas'
        HDFStore at the path `group`, in the table format: a DataFrame (a Series of a DataArray), whose index is the
        coordinate of the one dimension.
    index
        With `layout="table"`: names of columns that get an index, for faster queries; or a dict of names to kinds of
        PyTables' indexes (`"full"`, `"medium"` ...).
    data_columns
        With `layout="pandas"`: names of columns that pandas and `where=` can search by an index, as the index of the
        object always can; True for all.
    compute
        False returns a Delayed; nothing is on disk until it is computed, nor at `path` until that has succeeded.
    structure_first
        With `compute=False`: put a new file at `path` now, where there must be none, with all but the data of Dask
        arrays, which read as fill values. The Delayed writes them into it; or any process writes parts, with `region`
        and `wait`.
    fsync
        Whether to wait until the file is on the disk before it replaces the old one. Without it a power failure
        (not a crash of the process) can leave an empty file.
    threads
        How many threads of a process may encode chunks at once, Dask's own included. Default: one per CPU.
    wait
        For how many seconds to wait and try again while another process writes to the file. Values that Dask computes
        are computed once, before that; once more if there was no file, and somebody else has made it meanwhile.
    progress
        Show a bar with the bytes that are written and their rate (by tqdm, an extra: `xr-pytables[progress]`). Dask's
        own callbacks, such as `dask.diagnostics.ProgressBar`, work as well.
    storage_options
        For a URL: what its file system needs to know, as in `xr.open_dataset`.

    Raises
    ------
    TypeError, ValueError
        For what cannot be written, naming file, group and variable. The disk was not touched.
    FileExistsError
        With `"w-"` or `"x"`.
    FileNotFoundError
        With `"r+"` if there is no file, or if the folder is missing.
    PermissionError
        If the file, or its folder, may not be written to.
    FileBusyError
        If this or another process has the file open for writing, or is changing it, for longer than `wait`.
    KeyError
        With `region="auto"`, if the file lacks a value of a coordinate.
    """
    effort = Effort(threads, write_empty_chunks)
    if progress and not compute:
        raise ValueError(
            "progress=True is about a write that happens now; with compute=False use dask.diagnostics.ProgressBar or "
            "dask.distributed.progress when you compute it"
        )
    if structure_first and compute:
        raise ValueError("structure_first=True is about compute=False: a write that happens now leaves no part out")
    if progress:
        check_available()
    if mode is not None and mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(map(repr, MODES))}, not {mode!r}")
    if isinstance(path, str):
        path = local_path(path) or path
    if isinstance(path, str) and is_url(path):
        wanted = chosen_mode(mode, append_dim, region)
        with uploaded(path, mode=wanted, compute=compute, options=storage_options) as local:
            to_pytables(
                obj, local, group=group, encoding=encoding, filters=filters, unlimited_dims=unlimited_dims,
                safe_chunks=safe_chunks, align_chunks=align_chunks, write_empty_chunks=write_empty_chunks,
                checksums=checksums, write_inherited_coords=write_inherited_coords, layout=layout, index=index,
                data_columns=data_columns,
                fsync=False, threads=threads, progress=progress,
            )  # fmt: skip
        return None
    if storage_options:
        raise ValueError("storage_options has no effect on a path on this machine")
    if wait and not compute:
        raise ValueError("wait= is about a write that happens now, not with compute=False")
    if not compute:
        check_dask(obj)
    if not write_empty_chunks and layout == "arrays":
        _tell_what_is_empty(obj, encoding)
    patience = Patience.of(wait)
    request = WriteRequest(
        obj,
        path,
        mode=chosen_mode(mode, append_dim, region),
        group=group,
        encoding=encoding,
        filters=filters,
        unlimited_dims=unlimited_dims,
        append_dim=None if append_dim is None else checked_append_dim(append_dim),
        region=region,
        safe_chunks=safe_chunks,
        align_chunks=align_chunks,
        checksums=checksums,
        write_inherited_coords=write_inherited_coords,
        layout=layout,
        index=index,
        data_columns=data_columns,
    )
    obj, others = in_dask(obj, request.target)
    request = replace(request, obj=obj)
    if structure_first:
        _check_is_new(request)
        structure, transaction = planned(request)
        warn_of_missing_chunks(structure, lambda variable: not isinstance(variable.data, np.ndarray))
        put_structure(structure, transaction, fsync=fsync, effort=effort)
        request = request.for_its_values()
    plan, transaction = patience.go_through(lambda: planned(request))
    if not compute:
        return delayed(plan, transaction, fsync=fsync, effort=effort)
    again = Again(patience, lambda: planned(request)[0])

    def carry_out(job: Job) -> None:
        title = os.path.basename(job[0].path)
        execute([job], title, fsync=fsync, effort=effort, progress=progress, again=again)

    with others.computed():
        try:
            carry_out((plan, transaction))
        except FileExistsError:
            if not wait or plan.mode != "a" or plan.version is not None or not os.path.lexists(request.target):
                raise
            # somebody else has made the file meanwhile: now it is one to change
            carry_out(patience.go_through(lambda: planned(request)))
    return None


def _check_is_new(request: WriteRequest) -> None:
    """Raise ValueError, or FileExistsError, where the structure of a file cannot be there before the data."""
    if request.layout != "arrays" or request.mode not in ("w", "w-", "x"):
        raise ValueError(
            f"{request.target}: structure_first=True makes a new file of arrays, with mode 'w', 'w-' or 'x', not with "
            f"mode={request.mode!r} and layout={request.layout!r}. Without it the structure comes with the values"
        )
    if os.path.lexists(request.target):
        raise FileExistsError(
            f"{request.target}: structure_first=True takes the place of no file: the old values would be gone before "
            "the new ones are there. Remove it first, or choose another name"
        )


def _tell_what_is_empty(obj: _Obj, encoding: Mapping[Any, Any] | None) -> None:
    """Warn that chunks of zeros are no empty chunks of floats, whose fill value is NaN unless somebody says another."""
    names = filled_with_nan_by_default(obj, encoding)
    if names:
        warn(
            f"write_empty_chunks=False leaves out chunks of NaN, and none of zeros, of {', '.join(map(repr, names))}: "
            "NaN is the fill value of floats unless encoding says another. {'_FillValue': None} makes it zero and "
            "{'_FillValue': np.nan} says that NaN is meant"
        )


def planned(request: WriteRequest) -> Job:
    """The plan for one file, and where to carry it out. Nothing is written; raises what `to_pytables` raises."""
    transaction = Transaction.beside(request.target)
    transaction.check_folder()
    version, existing = look(request.target, request.mode)
    transaction.check_allowed()
    parent, leaf = posixpath.split(request.group)
    if request.layout == "arrays":
        plan = plan_write(request, existing, version)
    elif request.layout == "pandas":
        if request.append_dim is not None and is_object(existing.get(request.group)):
            plan = plan_longer_frame(request, version, look_at_frame(request.target, request.group))
        else:
            if request.mode == "a" and is_object(existing.get(request.group)):
                check_frame_alone(request.target, request.group)
            plan = plan_frame(request, existing, version)
    elif request.append_dim is not None and parent in existing and leaf in existing[parent].tables:
        plan = plan_append(request, existing, version, look_at_table(request.target, request.group))
    else:
        plan = plan_table(request, existing, version)
    _check_filters(plan)
    return plan if request.checksums else plan.without_checksums(), transaction


def _check_filters(plan: WritePlan) -> None:
    """Raise ValueError for a compressor that this build lacks; PyTables would silently take another one."""
    with hdf5_lock():
        for group, variable in plan:
            kept = variable.stored if variable.action in ("set values", "put", "keep") else None
            for step in (variable.layout if kept is None else kept.info).filters.filters:
                if variable.action != "keep" and not filter_available(step.id):
                    raise ValueError(
                        f"{plan.path}:{posixpath.join(group.path, variable.name)}: the compressor {step.name!r} is not "
                        f"part of this build of PyTables ({tables.__version__}). Choose another complib"
                        f"{'' if kept is None else ' in encoding, with mode=a alone: that makes the array anew'}"
                    )
