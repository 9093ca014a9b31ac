"""Writing xarray objects to HDF5: plan, then execute.

`plan` says what will be written and refuses what cannot be. Execution makes the new file in a `transaction`, streams
the data of Dask arrays into it block by block, and renames it over the target at the very end.

Tested in `tests/writing/test_writing.py`.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import posixpath
import shutil
import uuid
from collections.abc import Hashable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from multiprocessing.pool import ThreadPool
from typing import TYPE_CHECKING, Any, Final, Literal, overload

import dask
import dask.array
import dask.local
import dask.threaded
import numpy as np
import tables
from dask.delayed import Delayed
from xarray import DataArray, Dataset, DataTree
from xarray.backends.locks import get_dask_scheduler

from ..disk.door import Visit, check_no_writer
from ..disk.files import FileBusyError, FileIdentity, checked_group, checked_path, hdf5_lock
from ..disk.journal import check_for_writing
from ..disk.transaction import Transaction
from ..library.target_file import TargetFile, filter_available, planned_storage
from ..model.attributes import are_large
from ..model.nodes import GroupSpec, NodeReader, ReadOptions
from .alignment import Blocks
from .changes import change_now, changes_file, check_unchanged, commit, delayed_change
from .placement import Mode, checked_append_dim, chosen_mode
from .plan import MODES, BlockRules, GroupPlan, VariablePlan, WritePlan, plan_write
from .progress import Done, bar, check_available, nobody, watched
from .structure import write_structure
from .table_indexes import create_indexes
from .table_plan import StoredTable, describe_stored, plan_append, plan_table
from .targets import USUAL, DirectTarget, Effort, SpoolTarget, itemsize, kept_open, stored_bytes, unspool

if TYPE_CHECKING:
    from tables import Filters

_Obj = Dataset | DataArray | DataTree
Layout = Literal["arrays", "table"]
_Index = Iterable[str] | Mapping[str, str]
_Region = Mapping[str, slice | Literal["auto"]] | Literal["auto"] | None
_Unlimited = Iterable[Hashable] | Mapping[str, Iterable[Hashable]] | None


@overload
def to_pytables(
    obj: _Obj, path: str | os.PathLike[str], *, mode: Mode | None = ..., group: str = ...,
    encoding: Mapping[Any, Any] | None = ..., filters: Filters | None = ..., unlimited_dims: _Unlimited = ...,
    append_dim: Hashable | None = ..., region: _Region = ...,
    safe_chunks: bool = ..., align_chunks: bool = ..., write_empty_chunks: bool = ...,
    write_inherited_coords: bool = ..., layout: Layout = ..., index: _Index = ..., compute: Literal[True] = ...,
    fsync: bool = ..., threads: int | None = ..., progress: bool = ...,
) -> None: ...  # fmt: skip


@overload
def to_pytables(
    obj: _Obj, path: str | os.PathLike[str], *, mode: Mode | None = ..., group: str = ...,
    encoding: Mapping[Any, Any] | None = ..., filters: Filters | None = ..., unlimited_dims: _Unlimited = ...,
    append_dim: Hashable | None = ..., region: _Region = ...,
    safe_chunks: bool = ..., align_chunks: bool = ..., write_empty_chunks: bool = ...,
    write_inherited_coords: bool = ..., layout: Layout = ..., index: _Index = ..., compute: bool, fsync: bool = ...,
    threads: int | None = ..., progress: bool = ...,
) -> Delayed | None: ...  # fmt: skip


def to_pytables(
    obj: _Obj,
    path: str | os.PathLike[str],
    *,
    mode: Mode | None = None,
    group: str = "/",
    encoding: Mapping[Any, Any] | None = None,
    filters: Filters | None = None,
    unlimited_dims: _Unlimited = None,
    append_dim: Hashable | None = None,
    region: _Region = None,
    safe_chunks: bool = True,
    align_chunks: bool = False,
    write_empty_chunks: bool = True,
    write_inherited_coords: bool = False,
    layout: Layout = "arrays",
    index: _Index = (),
    compute: bool = True,
    fsync: bool = True,
    threads: int | None = None,
    progress: bool = False,
) -> Delayed | None:
    """Write a Dataset, DataArray or DataTree to an HDF5 file that PyTables, netCDF4, h5netcdf and h5py can read.

    All is checked before the disk is touched. The new version of the file is made beside `path` and renamed over it
    at the end; or a large file is changed in place, inside a journal. An error, a killed process or a full disk leaves
    the file as it was.

    Parameters
    ----------
    obj
        What to write. Dask arrays are computed and written block by block; nothing is loaded whole.
    path
        The file. Its folder must exist.
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
        `layout="table"` the rows: they go behind those that the table has, whose indexes are made anew.
    region
        Which part of the arrays in the file to write: slices by dimension, `"auto"` for a dimension or for all to find
        them by coordinates.
    safe_chunks
        Refuse (ValueError) a Dask array of which two blocks share a chunk that `encoding` asks for. Chunks that nobody
        asked for never conflict: they follow the blocks, or the borders of the blocks are moved. False writes shared
        chunks piece by piece through HDF5: right, but slow.
    align_chunks
        Move the borders of the blocks to those of the chunks that `encoding` asks for, too.
    write_empty_chunks
        False leaves chunks that hold nothing but the fill value out of new arrays: they take no room, and read as if
        they were there.
    write_inherited_coords
        For a DataTree: whether to repeat coordinates of the parent in each child.
    layout
        `"arrays"` writes an array for each variable. `"table"` writes one Table of PyTables at the path `group`, with
        a column for each variable; they share their first dimension, the rows.
    index
        With `layout="table"`: names of columns that get an index, for faster queries; or a dict of names to kinds of
        PyTables' indexes (`"full"`, `"medium"` ...).
    compute
        False returns a Delayed; nothing is on disk until it is computed, nor at `path` until that has succeeded.
    fsync
        Whether to wait until the file is on the disk before it replaces the old one. Without it a power failure
        (not a crash of the process) can leave an empty file.
    threads
        How many threads of a process may encode chunks at once, Dask's own included. Default: one per CPU.
    progress
        Show a bar with the bytes that are written and their rate (by tqdm, an extra: `xr-pytables[progress]`). Dask's
        own callbacks, such as `dask.diagnostics.ProgressBar`, work as well.

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
        If this or another process has the file open for writing, or is changing it.
    KeyError
        With `region="auto"`, if the file lacks a value of a coordinate.
    """
    effort = Effort(threads, write_empty_chunks)
    if progress and not compute:
        raise ValueError(
            "progress=True is about a write that happens now; with compute=False use dask.diagnostics.ProgressBar or "
            "dask.distributed.progress when you compute it"
        )
    if progress:
        check_available()
    if mode is not None and mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(map(repr, MODES))}, not {mode!r}")
    plan, transaction = planned(
        obj,
        path,
        mode=chosen_mode(mode, append_dim, region),
        group=group,
        encoding=encoding,
        filters=filters,
        unlimited_dims=unlimited_dims,
        write_inherited_coords=write_inherited_coords,
        blocks=BlockRules(safe_chunks, align_chunks),
        layout=layout,
        index=index,
        append_dim=None if append_dim is None else checked_append_dim(append_dim),
        region=region,
    )
    if compute:
        execute(plan, transaction, fsync=fsync, effort=effort, progress=progress)
        return None
    return delayed(plan, transaction, fsync=fsync, effort=effort)


def planned(
    obj: _Obj,
    path: str | os.PathLike[str],
    *,
    mode: Mode,
    group: str,
    encoding: Mapping[Any, Any] | None,
    filters: Filters | None,
    unlimited_dims: _Unlimited,
    write_inherited_coords: bool,
    blocks: BlockRules,
    layout: Layout = "arrays",
    index: _Index = (),
    append_dim: str | None = None,
    region: _Region = None,
) -> Job:
    """The plan for one file, and where to carry it out. Nothing is written; raises what `to_pytables` raises."""
    if layout not in ("arrays", "table"):
        raise ValueError(f"layout must be 'arrays' or 'table', not {layout!r}")
    if index and layout != "table":
        raise ValueError("only the columns of a table can have an index: index needs layout='table'")
    target = os.path.abspath(os.path.expanduser(os.fspath(path)))
    group = checked_group(group)
    transaction = Transaction.beside(target)
    transaction.check_folder()
    if layout == "table" and region is not None:
        raise NotImplementedError(
            f"{target}: region cannot change rows of a table. Change them with plain PyTables (Table.modify_rows), or "
            "write the whole table again; append_dim appends rows"
        )
    version, existing = _existing(target, mode)
    transaction.check_allowed()
    if layout == "table":
        parent, leaf = posixpath.split(group)
        if append_dim is not None and parent in existing and leaf in existing[parent].tables:
            table = plan_append(
                obj,
                target,
                append_dim=append_dim,
                group=group,
                encoding=encoding,
                index=index,
                existing=existing,
                version=version,
                stored=_stored_table(target, group),
            )
            _check_filters(table)
            return table, transaction
        table = plan_table(
            obj,
            target,
            mode=mode,
            group=group,
            encoding=encoding,
            filters=filters,
            unlimited_dims=unlimited_dims,
            index=index,
            existing=existing,
            version=version,
            append_dim=append_dim,
        )
        _check_filters(table)
        return table, transaction
    plan = plan_write(
        obj,
        target,
        mode=mode,
        group=group,
        encoding=encoding,
        filters=filters,
        unlimited_dims=unlimited_dims,
        write_inherited_coords=write_inherited_coords,
        existing=existing,
        version=version,
        blocks=blocks,
        append_dim=append_dim,
        region=region,
    )
    _check_filters(plan)
    return plan, transaction


# -- what is there already ---------------------------------------------------------------------------------


def _existing(path: str, mode: Mode) -> tuple[FileIdentity | None, dict[str, GroupSpec]]:
    """The version of the file that will be changed and its groups; None and nothing if the file is made anew.

    Raises for what the mode does not allow.
    """
    if mode in ("w-", "x") and os.path.lexists(path):
        raise FileExistsError(f"{path}: the file already exists. mode='w' replaces it, mode='a' adds to it")
    if not os.path.exists(path):
        if mode == "r+":
            raise FileNotFoundError(f"{path}: there is no such file, and mode='r+' only changes existing variables")
        return None, {}
    checked_path(path)
    check_for_writing(path)
    _check_not_busy(path)
    if mode == "w":
        return None, {}
    version = FileIdentity.of(path)
    with Visit() as visit:
        reader = NodeReader(visit.file(path), _AS_STORED, visit.linked)
        found = {spec.path: spec for _, spec in reader.tree("/") if spec.file == path and not spec.row_dim}
        visit.check_unchanged()
    return version, found


_AS_STORED: Final = ReadOptions(external_links="never", pandas_objects=False)


def _stored_table(path: str, group: str) -> StoredTable:
    with Visit() as visit:
        file = visit.file(path)
        return describe_stored(file, NodeReader(file, _AS_STORED, visit.linked).dataset(group))


def _check_not_busy(path: str) -> None:
    """Raise FileBusyError if anybody is writing to the file through HDF5."""
    with hdf5_lock():
        for handle in list(tables.file._open_files.handlers):
            if handle.mode != "r" and _leads_to(handle, path):
                raise FileBusyError(
                    f"{path}: this process has the file open with tables.open_file(..., {handle.mode!r})"
                )
    with open(path, "rb") as file:
        check_no_writer(file.fileno(), path)


def _leads_to(handle: tables.File, path: str) -> bool:
    """Whether a file that PyTables has open is the one at `path`, whatever name it was opened by."""
    try:
        return os.path.samestat(os.fstat(handle.fileno()), os.stat(path))
    except (OSError, ValueError, tables.HDF5ExtError):  # a driver without a descriptor
        return bool(os.path.abspath(handle.filename) == path)


def _check_filters(plan: WritePlan) -> None:
    """Raise ValueError for a compressor that this build lacks; PyTables would silently take another one."""
    with hdf5_lock():
        for group, variable in plan:
            for step in variable.layout.filters.filters:
                if not filter_available(step.id):
                    raise ValueError(
                        f"{plan.path}:{posixpath.join(group.path, variable.name)}: the compressor {step.name!r} is not "
                        f"part of this build of PyTables ({tables.__version__}). Choose another complib"
                    )


# -- execution ---------------------------------------------------------------------------------------------


Job = tuple[WritePlan, Transaction]
"""A plan and the transaction to carry it out in."""


def execute(
    plan: WritePlan, transaction: Transaction, *, fsync: bool, effort: Effort = USUAL, progress: bool = False
) -> None:
    """Carry out the plan now. On any error the target is as it was and nothing else is left."""
    if changes_file(plan):
        change_now(plan, transaction, fsync=fsync, effort=effort, progress=progress)
        return
    execute_all([(plan, transaction)], os.path.basename(plan.path), fsync=fsync, effort=effort, progress=progress)


def execute_all(
    jobs: Sequence[Job], title: str, *, fsync: bool, effort: Effort = USUAL, progress: bool = False
) -> None:
    """Carry out plans for different files, of which Dask computes all data at once.

    No target is replaced before the new versions of all are whole. `title` is that of the bar.
    """
    with contextlib.ExitStack() as begun:
        for _, transaction in jobs:
            begun.callback(transaction.end, transaction.begin())
        layouts = [variable.layout for plan, _ in jobs for _, variable in plan]
        size = sum(math.prod(layout.shape) * itemsize(layout.dtype) for layout in layouts)
        with bar(size, title, shown=progress) as done:
            for plan, transaction in jobs:
                with transaction.naming_the_target():
                    prepare(plan, transaction, effort, done)
            with jobs[0][1].naming_the_target() if jobs else contextlib.nullcontext():  # they are on one disk, mostly
                _stream([job for job in jobs if _streamed(job[0])], effort, done)
        for plan, transaction in jobs:
            with transaction.naming_the_target():
                _commit(plan, transaction, fsync=fsync)


def _stream(jobs: Sequence[Job], effort: Effort, done: Done) -> None:
    """Compute Dask arrays into the new files: straight, if that happens in this process, else through segments."""
    arrays = [variable.data for plan, _ in jobs for _, variable in _streamed(plan)]
    if not arrays:
        return
    if _computes_here():
        budget = effort.budget()
        with contextlib.ExitStack() as files:
            direct = []
            for plan, transaction in jobs:
                file = files.enter_context(kept_open(transaction.new_file))
                direct += [_direct_target(file, *each, effort, budget, done) for each in _streamed(plan)]
            dask.array.store(arrays, direct, lock=False)
        return
    spooled = [
        _with_storage_in_file(transaction.new_file, _spool_targets(_streamed(plan), transaction, effort))
        for plan, transaction in jobs
    ]
    together = list(itertools.chain.from_iterable(spooled))
    with watched(lambda: stored_bytes(together), done):
        dask.array.store(arrays, [target for target, _ in together], lock=False)
    for (_, transaction), each in zip(jobs, spooled, strict=True):
        unspool(transaction.new_file, transaction.target, each)


def _commit(plan: WritePlan, transaction: Transaction, *, fsync: bool) -> None:
    if any(plan.indexes.values()):
        with hdf5_lock():
            create_indexes(transaction.new_file, transaction.folder, plan.indexes, ours_alone=plan.version is None)
    commit(plan, transaction, fsync=fsync)


def _computes_here() -> bool:
    """Whether Dask will compute in threads of this process, which can share an open file."""
    pool, scheduler = dask.config.get("pool", None), dask.config.get("scheduler", None)
    if pool is not None and not isinstance(pool, ThreadPool | ThreadPoolExecutor):
        return False
    if isinstance(scheduler, Executor):
        return isinstance(scheduler, ThreadPoolExecutor)
    if callable(scheduler) and scheduler not in (dask.threaded.get, dask.local.get_sync):
        return False  # who knows
    return get_dask_scheduler() == "threaded"


def delayed(plan: WritePlan, transaction: Transaction, *, fsync: bool, effort: Effort = USUAL) -> Delayed:
    """The plan as one Delayed, for any scheduler and any process: prepare, put blocks aside, commit.

    Each step can be repeated, as schedulers do when a worker dies.
    """
    if changes_file(plan):
        return delayed_change(plan, transaction, fsync=fsync, effort=effort)
    streamed = _streamed(plan)
    begun = dask.delayed(_begin_delayed, pure=False)(plan, transaction, effort)
    ready = begun
    spooled = _spool_targets(streamed, transaction, effort)
    if streamed:
        waiting = [dask.delayed(_second, pure=False)(begun, target) for target, _ in spooled]
        # optimized on its own, with a copy of `begun`: if the last step asked for that as well, it would run twice
        ready = dask.array.store([variable.data for _, variable in streamed], waiting, lock=False, compute=False)
    finish = dask.delayed(_commit_delayed, pure=False)
    result: Delayed = finish(ready, plan.without_data(), transaction, spooled, fsync)
    return result


def _second(first: object, second: SpoolTarget) -> SpoolTarget:
    """`second`, once `first` is done."""
    return second


def _begin_delayed(plan: WritePlan, transaction: Transaction, effort: Effort = USUAL) -> None:
    transaction.begin_shared()
    if os.path.exists(transaction.new_file):
        return  # an earlier run of this step made it
    try:
        with transaction.naming_the_target():
            prepare(plan, transaction, effort)
    except BaseException:
        transaction.remove()
        raise


def _commit_delayed(
    ready: object,
    plan: WritePlan,
    transaction: Transaction,
    spooled: Sequence[tuple[SpoolTarget, Blocks]],
    fsync: bool,
) -> None:
    if not os.path.exists(transaction.folder):
        return  # the first run of this step succeeded, and its worker died before it could say so
    try:
        with transaction.naming_the_target():
            _fill_and_commit(plan, transaction, spooled, fsync)
    except BaseException:
        transaction.abandon()
        raise
    transaction.remove()


def _fill_and_commit(
    plan: WritePlan, transaction: Transaction, spooled: Sequence[tuple[SpoolTarget, Blocks]], fsync: bool
) -> None:
    if spooled:
        # a run of this step that died may have left its file in any state: fill a copy
        filling = os.path.join(transaction.folder, f"filling-{uuid.uuid4().hex[:8]}.h5")
        shutil.copyfile(transaction.new_file, filling)
        unspool(filling, transaction.target, spooled)
        os.replace(filling, transaction.new_file)
    _commit(plan, transaction, fsync=fsync)


_Stream = tuple[GroupPlan, VariablePlan]


def _streamed(plan: WritePlan) -> list[_Stream]:
    """The variables that Dask computes, each with its group."""
    return [(group, variable) for group, variable in plan if _is_dask(variable)]


def _direct_target(
    file: TargetFile,
    group: GroupPlan,
    variable: VariablePlan,
    effort: Effort,
    budget: AbstractContextManager[Any],
    done: Done,
) -> DirectTarget:
    new = variable.action != "set values"
    path, layout = _path(group, variable), variable.layout
    return DirectTarget(file, path, layout, new=new, effort=effort, budget=budget, done=done)


def _spool_targets(
    streamed: Sequence[_Stream], transaction: Transaction, effort: Effort = USUAL
) -> list[tuple[SpoolTarget, Blocks]]:
    """Where workers put the blocks of each array, and the blocks that must be there in the end."""
    found = []
    for number, (group, variable) in enumerate(streamed):
        path, new, layout = _path(group, variable), variable.action != "set values", variable.layout
        # an array that is there may have other filters than a new one: values are put aside as they are
        storage = planned_storage(layout) if new else None
        dtype = layout.dtype or np.dtype(object)
        target = SpoolTarget(transaction.folder, path, number, layout.shape, dtype, storage, effort, new)
        found.append((target, variable.data.chunks))
    return found


def _path(group: GroupPlan, variable: VariablePlan) -> str:
    return posixpath.join(group.path, variable.name)


def _with_storage_in_file(path: str, spooled: Sequence[tuple[SpoolTarget, Blocks]]) -> list[tuple[SpoolTarget, Blocks]]:
    """Targets that know how the arrays in the file at `path` are stored, so that workers can encode."""
    with hdf5_lock(), TargetFile(path, create=False) as file:
        return [(replace(target, storage=file.chunk_storage(target.path)), blocks) for target, blocks in spooled]


def _is_dask(variable: VariablePlan) -> bool:
    return isinstance(variable.data, dask.array.Array)


def prepare(plan: WritePlan, transaction: Transaction, effort: Effort = USUAL, done: Done = nobody) -> None:
    """Make the new file with everything but the data of Dask arrays; it takes its name when it is whole."""
    making = os.path.join(transaction.folder, f"making-{uuid.uuid4().hex[:8]}.h5")
    check_unchanged(plan, transaction)
    if plan.makes_file and os.path.lexists(transaction.target):
        raise FileExistsError(f"{transaction.target}: somebody made this file meanwhile; it was left alone")
    if plan.version is not None:
        shutil.copyfile(transaction.target, making)
    large = any(are_large(group.attributes) for group in plan.groups if group.path == "/")
    with hdf5_lock(), TargetFile(making, create=plan.version is None, large_attributes=large) as file:
        write_structure(file, plan)
    with kept_open(making) as file:
        budget = effort.budget()
        for group, variable in plan:
            if not _is_dask(variable):
                values = np.asarray(variable.data)
                _direct_target(file, group, variable, effort, budget, done).write_all(values)
    os.replace(making, transaction.new_file)
