"""Writing xarray objects to HDF5: plan, then execute.

`plan` says what will be written and refuses what cannot be. A `new_file` is made in a `transaction`, filled by Dask
block by block, and renamed over the target at the very end; what is done to a file that is there is in `changes`.

Tested in `tests/writing/test_writing.py`.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import os
import posixpath
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from typing import TYPE_CHECKING, Any, Final, Literal, overload
from urllib.parse import urlsplit
from urllib.request import url2pathname

import dask
import dask.array
import dask.local
import dask.threaded
import tables
from dask.delayed import Delayed
from xarray import DataArray, Dataset, DataTree
from xarray.backends.locks import get_dask_scheduler

from ..disk.arenas import OwnRoom, Room, SharedRoom
from ..disk.door import Visit, check_no_writer
from ..disk.files import FileBusyError, FileIdentity, checked_group, checked_path, hdf5_lock
from ..disk.journal import check_for_writing
from ..disk.transaction import Transaction
from ..library.target_file import filter_available
from ..model.nodes import GroupSpec, NodeReader, ReadOptions
from ..sources.url import is_url
from . import words
from .blocks import Values
from .changes import change, commit, delayed_change, put_aside, targets_of
from .layouts import asks_for_checksums
from .new_file import Part, finish, parts_of, prepare, streamed
from .placement import Mode, checked_append_dim, chosen_mode
from .plan import MODES, BlockRules, WritePlan, plan_write
from .progress import Done, bar, check_available, nobody, watched
from .table_plan import StoredTable, describe_stored, plan_append, plan_table
from .targets import USUAL, Effort, OwnNotes, SharedNotes, itemsize, waiting
from .upload import uploaded
from .waiting import NONE, Patience

if TYPE_CHECKING:
    from tables import Filters

_Obj = Dataset | DataArray | DataTree
Layout = Literal["arrays", "table"]
_Index = Iterable[str] | Mapping[str, str]
_Region = Mapping[str, slice | Literal["auto"]] | Literal["auto"] | None
_Unlimited = Iterable[Hashable] | Mapping[str, Iterable[Hashable]] | None


@overload
def to_pytables(
    obj: _Obj, path: str | os.PathLike[str], mode: Mode | None = ..., *, group: str = ...,
    encoding: Mapping[Any, Any] | None = ..., filters: Filters | None = ..., unlimited_dims: _Unlimited = ...,
    append_dim: Hashable | None = ..., region: _Region = ...,
    safe_chunks: bool = ..., align_chunks: bool = ..., write_empty_chunks: bool = ..., checksums: bool = ...,
    write_inherited_coords: bool = ..., layout: Layout = ..., index: _Index = ..., compute: Literal[True] = ...,
    fsync: bool = ..., threads: int | None = ..., wait: float = ..., progress: bool = ...,
    storage_options: Mapping[str, Any] | None = ...,
) -> None: ...  # fmt: skip


@overload
def to_pytables(
    obj: _Obj, path: str | os.PathLike[str], mode: Mode | None = ..., *, group: str = ...,
    encoding: Mapping[Any, Any] | None = ..., filters: Filters | None = ..., unlimited_dims: _Unlimited = ...,
    append_dim: Hashable | None = ..., region: _Region = ...,
    safe_chunks: bool = ..., align_chunks: bool = ..., write_empty_chunks: bool = ..., checksums: bool = ...,
    write_inherited_coords: bool = ..., layout: Layout = ..., index: _Index = ..., compute: bool, fsync: bool = ...,
    threads: int | None = ..., wait: float = ..., progress: bool = ...,
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
    compute: bool = True,
    fsync: bool = True,
    threads: int | None = None,
    wait: float = 0,
    progress: bool = False,
    storage_options: Mapping[str, Any] | None = None,
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
        `layout="table"` the rows: they go behind those that the table has, whose indexes are made anew.
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
        they were there.
    checksums
        False writes no checksums in any new array, for programs that cannot read them.
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
    wait
        For how many seconds to wait and try again while another process writes to the file. Values that Dask computes
        are computed once, before that.
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
    if progress:
        check_available()
    if mode is not None and mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(map(repr, MODES))}, not {mode!r}")
    if isinstance(path, str) and path.startswith("file://"):
        path = url2pathname(urlsplit(path).path)
    if isinstance(path, str) and is_url(path):
        wanted = chosen_mode(mode, append_dim, region)
        with uploaded(path, mode=wanted, compute=compute, options=storage_options) as local:
            to_pytables(
                obj, local, group=group, encoding=encoding, filters=filters, unlimited_dims=unlimited_dims,
                safe_chunks=safe_chunks, align_chunks=align_chunks, write_empty_chunks=write_empty_chunks,
                checksums=checksums, write_inherited_coords=write_inherited_coords, layout=layout, index=index,
                fsync=False, threads=threads, progress=progress,
            )  # fmt: skip
        return None
    if storage_options:
        raise ValueError("storage_options has no effect on a path on this machine")
    if wait and not compute:
        raise ValueError("wait= is about a write that happens now, not with compute=False")
    patience = Patience.of(wait)
    plan_now = functools.partial(
        planned,
        obj,
        path,
        mode=chosen_mode(mode, append_dim, region),
        group=group,
        encoding=encoding,
        filters=filters,
        unlimited_dims=unlimited_dims,
        write_inherited_coords=write_inherited_coords,
        blocks=BlockRules(safe_chunks, align_chunks),
        checksums=checksums,
        layout=layout,
        index=index,
        append_dim=None if append_dim is None else checked_append_dim(append_dim),
        region=region,
    )
    plan, transaction = patience.go_through(plan_now)
    if not compute:
        return delayed(plan, transaction, fsync=fsync, effort=effort)
    again = Again(patience, lambda: plan_now()[0])
    title = os.path.basename(plan.path)
    execute_all([(plan, transaction)], title, fsync=fsync, effort=effort, progress=progress, again=again)
    return None


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
    checksums: bool = True,
    layout: Layout = "arrays",
    index: _Index = (),
    append_dim: str | None = None,
    region: _Region = None,
) -> Job:
    """The plan for one file, and where to carry it out. Nothing is written; raises what `to_pytables` raises."""
    if not checksums and (asks_for_checksums(encoding or {}) or getattr(filters, "fletcher32", False)):
        raise ValueError("checksums=False writes none in any array, but encoding or filters ask for fletcher32")
    if layout not in ("arrays", "table"):
        raise ValueError(f"layout must be 'arrays' or 'table', not {layout!r}")
    if index and layout != "table":
        raise ValueError("only the columns of a table can have an index: index needs layout='table'")
    target = os.path.abspath(os.path.expanduser(os.fspath(path)))
    group = checked_group(group)
    encoding = _in_our_words(obj, encoding, f"{target}:{group}")
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
            return _checked(table, checksums), transaction
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
        return _checked(table, checksums), transaction
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
    return _checked(plan, checksums), transaction


def _in_our_words(obj: object, encoding: Mapping[Any, Any] | None, where: str) -> Mapping[Any, Any] | None:
    """`encoding=` in our own words, that of a DataTree group by group. What is no mapping is left to who checks it."""
    if not isinstance(encoding, Mapping):
        return encoding
    if isinstance(obj, DataTree):
        return {key: _in_our_words(None, value, f"{where}: group {key!r}") for key, value in encoding.items()}
    found = {}
    for name, asked in encoding.items():
        label = f"{where}: variable {name!r}"
        found[name] = words.in_our_words(asked, label) if isinstance(asked, Mapping) else asked
        if isinstance(asked, Mapping):
            words.check_dtype(asked, label)
    return found


def _checked(plan: WritePlan, checksums: bool) -> WritePlan:
    _check_filters(plan)
    return plan if checksums else plan.without_checksums()


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


@dataclass(frozen=True)
class Again:
    """What to do about a file that others change while data are computed."""

    patience: Patience = NONE
    plan: Callable[[], WritePlan] | None = None
    """Plans the one job anew, for the file as it is then."""


_ONCE: Final = Again()


def execute_all(
    jobs: Sequence[Job],
    title: str,
    *,
    fsync: bool,
    effort: Effort = USUAL,
    progress: bool = False,
    again: Again = _ONCE,
) -> None:
    """Carry out plans for different files, of which Dask computes all data at once.

    No target is replaced or changed before all data are computed. `title` is that of the bar.
    """
    new = [job for job in jobs if job[0].version is None]
    old = [job for job in jobs if job[0].version is not None]
    with contextlib.ExitStack() as begun:
        for _, transaction in jobs:
            begun.callback(transaction.end, transaction.begin())
        with bar(sum(_nbytes(plan) for plan, _ in jobs), title, shown=progress) as done:
            with jobs[0][1].naming_the_target() if jobs else contextlib.nullcontext():  # they are on one disk, mostly
                growing = _begun(new, effort, done)
                values = [put_aside(*job) for job in old]
                lazy = [variable.data for job in (*new, *old) for _, variable in streamed(job[0])]
                targets = [part.target for each in growing for part in each.parts]
                targets += [target for each in values for target in targets_of(each)]
                with watched(lambda: stored_bytes(growing), done):
                    if lazy:
                        dask.array.store(lazy, targets, lock=False)
            for each in growing:
                with each.transaction.naming_the_target():
                    finish(each.parts, each.transaction, each.plan.indexes, each.room, effort, done)
            for (plan, transaction), each_of in zip(old, values, strict=True):
                with transaction.naming_the_target():
                    _change(plan, transaction, each_of, again, fsync=fsync, effort=effort, done=done)
        for plan, transaction in new:
            with transaction.naming_the_target():
                again.patience.go_through(functools.partial(commit, plan, transaction, fsync=fsync))


def _change(
    plan: WritePlan,
    transaction: Transaction,
    values: Mapping[str, Values],
    again: Again,
    *,
    fsync: bool,
    effort: Effort,
    done: Done,
) -> None:
    """Change a file that is there; if others have changed it since the plan was made, by a new plan."""
    stored = plan
    plans = iter([plan])

    def step() -> None:
        nonlocal stored, values
        now = next(plans, None)
        if now is None:
            assert again.plan is not None  # there is no second time without
            now = again.plan()
            values = put_aside(now, transaction)
            if _lazy_names(now) != _lazy_names(stored):  # what is in the file is a part of the data
                dask.array.store([variable.data for _, variable in streamed(now)], targets_of(values), lock=False)
                stored = now
        change(now, transaction, values, fsync=fsync, effort=effort, done=done)

    again.patience.go_through(step)


def _lazy_names(plan: WritePlan) -> list[tuple[str, str]]:
    return [(path, variable.data.name) for path, variable in streamed(plan)]


def stored_bytes(growing: Iterable[_Growing]) -> int:
    """How many bytes of data other processes have written so far."""
    total = 0
    for each in growing:
        by_number = {part.target.number: part for part in each.parts}
        for number, start in SharedNotes(each.transaction.folder).places():
            part = by_number[number]
            sides = (dict(zip(itertools.accumulate(sizes, initial=0), sizes, strict=False)) for sizes in part.blocks)
            lengths = (side[first] for side, first in zip(sides, start, strict=True))
            total += math.prod(lengths) * part.target.dtype.itemsize
    return total


def _nbytes(plan: WritePlan) -> int:
    return sum(math.prod(variable.data.shape) * itemsize(variable.layout.dtype) for _, variable in plan)


@dataclass(frozen=True, eq=False)
class _Growing:
    """A new file to which blocks are being written."""

    plan: WritePlan
    transaction: Transaction
    room: Room
    parts: list[Part]


def _begun(jobs: Sequence[Job], effort: Effort, done: Done) -> list[_Growing]:
    """Make the new files with all that is in memory; those that Dask has to fill."""
    here, budget = _computes_here(), effort.budget()
    found = []
    for plan, transaction in jobs:
        shared = None if here else SharedRoom(transaction.folder)
        prepare(plan, transaction, effort, done, shared)
        if not streamed(plan):
            continue
        room: Room
        if shared is None:
            room = OwnRoom(os.path.getsize(transaction.growing_file))
            parts = parts_of(
                plan, transaction, room, OwnNotes(), effort, threads=effort.threads, budget=budget, done=done
            )
        else:
            room = shared
            parts = parts_of(plan, transaction, room, SharedNotes(transaction.folder), effort)
        found.append(_Growing(plan, transaction, room, parts))
    return found


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
    if plan.version is not None:
        return delayed_change(plan, transaction, fsync=fsync, effort=effort)
    room = SharedRoom(transaction.folder)
    parts = parts_of(plan, transaction, room, SharedNotes(transaction.folder), effort)
    # without the Dask arrays: Dask would find them in the plan, and compute them for this step as a whole
    begun = dask.delayed(_begin_delayed, pure=False)(plan.without_lazy_data(), transaction, effort)
    ready = begun
    if parts:
        arrays = [variable.data for _, variable in streamed(plan)]
        targets = waiting(begun, transaction, [part.target for part in parts])
        # optimized on its own, with a copy of `begun`: if the last step asked for that as well, it would run twice
        ready = dask.array.store(arrays, targets, lock=False, compute=False)
    commit_step = dask.delayed(_commit_delayed, pure=False)
    result: Delayed = commit_step(ready, plan.without_data(), transaction, parts, effort, fsync)
    return result


def _begin_delayed(plan: WritePlan, transaction: Transaction, effort: Effort = USUAL) -> None:
    transaction.begin_shared()
    if os.path.exists(transaction.new_file) or os.path.exists(transaction.growing_file):
        return  # an earlier run of this step made it
    try:
        with transaction.naming_the_target():
            prepare(plan, transaction, effort, nobody, SharedRoom(transaction.folder))
    except BaseException:
        transaction.remove()
        raise


def _commit_delayed(
    ready: object, plan: WritePlan, transaction: Transaction, parts: Sequence[Part], effort: Effort, fsync: bool
) -> None:
    if not os.path.exists(transaction.folder):
        return  # the first run of this step succeeded, and its worker died before it could say so
    try:
        with transaction.naming_the_target():
            if not transaction.is_committed():
                if not os.path.exists(transaction.new_file):
                    finish(parts, transaction, plan.indexes, SharedRoom(transaction.folder), effort, again=True)
                transaction.mark_commit()
                commit(plan, transaction, fsync=fsync)
    except BaseException:
        transaction.abandon()
        raise
    transaction.remove()
