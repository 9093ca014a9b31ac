"""Writing xarray objects to HDF5: plan, then execute.

`plan` says what will be written and refuses what cannot be. Execution makes the new file in a `transaction`, streams
the data of Dask arrays into it block by block, and renames it over the target at the very end.
"""

from __future__ import annotations

import contextlib
import math
import os
import posixpath
import shutil
import uuid
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from typing import TYPE_CHECKING, Any, Literal, overload

import dask
import dask.array
import dask.local
import dask.threaded
import numpy as np
import tables
from dask.delayed import Delayed
from xarray import DataArray, Dataset, DataTree
from xarray.backends.locks import get_dask_scheduler

from .files import FileBusyError, FileChangedError, FileIdentity, checked_group, checked_path, hdf5_lock
from .layouts import GROWING_CHUNK
from .libhdf5 import UNLIMITED
from .nodes import GroupSpec, NodeReader, ReadOptions
from .plan import MODES, DimensionPlan, GroupPlan, Mode, VariablePlan, WritePlan, plan_write
from .safe_file import SafeFile
from .target_file import ArrayLayout, TargetFile, filter_available
from .transaction import Transaction

if TYPE_CHECKING:
    from tables import Filters

_SLAB_BYTES = 64 * 2**20
_Obj = Dataset | DataArray | DataTree
_Unlimited = Iterable[Hashable] | Mapping[str, Iterable[Hashable]] | None


@overload
def to_pytables(
    obj: _Obj, path: str | os.PathLike[str], *, mode: Mode | None = ..., group: str = ...,
    encoding: Mapping[Any, Any] | None = ..., filters: Filters | None = ..., unlimited_dims: _Unlimited = ...,
    append_dim: Hashable | None = ..., region: Mapping[str, slice] | Literal["auto"] | None = ...,
    write_inherited_coords: bool = ..., compute: Literal[True] = ..., fsync: bool = ...,
) -> None: ...  # fmt: skip


@overload
def to_pytables(
    obj: _Obj, path: str | os.PathLike[str], *, mode: Mode | None = ..., group: str = ...,
    encoding: Mapping[Any, Any] | None = ..., filters: Filters | None = ..., unlimited_dims: _Unlimited = ...,
    append_dim: Hashable | None = ..., region: Mapping[str, slice] | Literal["auto"] | None = ...,
    write_inherited_coords: bool = ..., compute: bool, fsync: bool = ...,
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
    region: Mapping[str, slice] | Literal["auto"] | None = None,
    write_inherited_coords: bool = False,
    compute: bool = True,
    fsync: bool = True,
) -> Delayed | None:
    """Write a Dataset, DataArray or DataTree to an HDF5 file that PyTables, netCDF4, h5netcdf and h5py can read.

    All is checked before the disk is touched. The new version of the file is made beside `path` and renamed over it
    at the end: an error, a killed process or a full disk leaves the file as it was. That needs room for both.

    Parameters
    ----------
    obj
        What to write. Dask arrays are computed and written block by block; nothing is loaded whole.
    path
        The file. Its folder must exist.
    mode
        `"w"` (default) replaces the file; `"w-"` or `"x"` refuses if it exists; `"a"` adds groups and variables to
        it, and replaces variables of the same name; `"r+"` sets values of variables that are there, of the same shape.
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
    append_dim, region
        Not implemented yet.
    write_inherited_coords
        For a DataTree: whether to repeat coordinates of the parent in each child.
    compute
        False returns a Delayed; nothing is on disk until it is computed, nor at `path` until that has succeeded.
    fsync
        Whether to wait until the file is on the disk before it replaces the old one. Without it a power failure
        (not a crash of the process) can leave an empty file.

    Raises
    ------
    TypeError, ValueError
        For what cannot be written, naming file, group and variable. The disk was not touched.
    FileExistsError
        With `"w-"` or `"x"`.
    FileNotFoundError
        With `"r+"` if there is no file, or if the folder is missing.
    FileBusyError
        If this or another process has the file open for writing.
    """
    if append_dim is not None or region is not None:
        raise NotImplementedError(
            "append_dim and region are not implemented yet. Write the whole dataset with mode='w', or the piece to a "
            "group of its own with mode='a'"
        )
    chosen: Mode = "w" if mode is None else mode
    if chosen not in MODES:
        raise ValueError(f"mode must be one of {', '.join(map(repr, MODES))}, not {mode!r}")
    target = os.path.abspath(os.path.expanduser(os.fspath(path)))
    group = checked_group(group)
    transaction = Transaction.beside(target)
    transaction.check_folder()
    version, existing = _existing(target, chosen)
    plan = plan_write(
        obj,
        target,
        mode=chosen,
        group=group,
        encoding=encoding,
        filters=filters,
        unlimited_dims=unlimited_dims,
        write_inherited_coords=write_inherited_coords,
        existing=existing,
        version=version,
    )
    _check_filters(plan)
    if compute:
        execute(plan, transaction, fsync=fsync)
        return None
    return delayed(plan, transaction, fsync=fsync)


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
    _check_not_busy(path)
    if mode == "w":
        return None, {}
    version = FileIdentity.of(path)
    options = ReadOptions(external_links="never", pandas_objects=False)
    with hdf5_lock(), SafeFile(path) as file, NodeReader(file, options) as reader:
        return version, {spec.path: spec for _, spec in reader.tree("/") if spec.file == path and not spec.row_dim}


def _check_not_busy(path: str) -> None:
    """Raise FileBusyError if anybody is writing to the file through HDF5."""
    with hdf5_lock():
        for handle in list(tables.file._open_files.handlers):
            if handle.mode != "r" and _leads_to(handle, path):
                raise FileBusyError(
                    f"{path}: this process has the file open with tables.open_file(..., {handle.mode!r})"
                )
        try:
            SafeFile(path).close()
        except BlockingIOError as error:
            raise FileBusyError(str(error)) from None
        except OSError:
            pass  # not an HDF5 file: mode="w" replaces it, the other modes say what is wrong with it


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


def execute(plan: WritePlan, transaction: Transaction, *, fsync: bool) -> None:
    """Carry out the plan now. On any error the target is as it was and nothing else is left."""
    owner = transaction.begin()
    try:
        prepare(plan, transaction)
        streamed = _streamed(plan)
        if streamed and not _computes_here():
            targets = _spool_targets(streamed, transaction)
            dask.array.store([data for *_, data in streamed], targets, lock=False)
            unspool(transaction, targets)
        elif streamed:
            with _kept_open(transaction.new_file) as file:
                direct = [DirectTarget(file, path, layout) for path, layout, _ in streamed]
                dask.array.store([data for *_, data in streamed], direct, lock=False)
        _commit(plan, transaction, fsync=fsync)
    finally:
        transaction.end(owner)


def _commit(plan: WritePlan, transaction: Transaction, *, fsync: bool) -> None:
    transaction.commit(fsync=fsync, exclusive=plan.makes_file, check=lambda: _check_unchanged(plan, transaction))


def _check_unchanged(plan: WritePlan, transaction: Transaction) -> None:
    """Raise FileChangedError if the file is not the version that the plan is about: that one's data would be lost."""
    if plan.version is None:
        return
    if not os.path.exists(transaction.target) or not plan.version.same_version(FileIdentity.of(transaction.target)):
        raise FileChangedError(
            f"{transaction.target}: the file was changed or removed by somebody else since this write was planned; "
            "it was left alone. Call to_pytables again"
        )


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


def delayed(plan: WritePlan, transaction: Transaction, *, fsync: bool) -> Delayed:
    """The plan as one Delayed, for any scheduler and any process: prepare, put blocks aside, commit.

    Each step can be repeated, as schedulers do when a worker dies.
    """
    streamed = _streamed(plan)
    begun = dask.delayed(_begin_delayed, pure=False)(plan, transaction)
    ready = begun
    targets = _spool_targets(streamed, transaction)
    if streamed:
        waiting = [dask.delayed(_second, pure=False)(begun, target) for target in targets]
        # optimized on its own, with a copy of `begun`: if the last step asked for that as well, it would run twice
        ready = dask.array.store([data for *_, data in streamed], waiting, lock=False, compute=False)
    finish = dask.delayed(_commit_delayed, pure=False)
    result: Delayed = finish(ready, plan.without_data(), transaction, targets, fsync)
    return result


def _second(first: object, second: SpoolTarget) -> SpoolTarget:
    """`second`, once `first` is done."""
    return second


def _begin_delayed(plan: WritePlan, transaction: Transaction) -> None:
    transaction.begin_shared()
    if os.path.exists(transaction.new_file):
        return  # an earlier run of this step made it
    try:
        prepare(plan, transaction)
    except BaseException:
        transaction.remove()
        raise


def _commit_delayed(
    ready: object, plan: WritePlan, transaction: Transaction, targets: Sequence[SpoolTarget], fsync: bool
) -> None:
    if not os.path.exists(transaction.folder):
        return  # the first run of this step succeeded, and its worker died before it could say so
    try:
        unspool(transaction, targets)
        _commit(plan, transaction, fsync=fsync)
    except BaseException:
        transaction.abandon()
        raise
    transaction.remove()


_Stream = tuple[str, ArrayLayout, dask.array.Array]


def _streamed(plan: WritePlan) -> list[_Stream]:
    """Path, layout and data of the variables that Dask computes."""
    return [
        (posixpath.join(group.path, variable.name), variable.layout, variable.data)
        for group, variable in plan
        if _is_dask(variable)
    ]


def _spool_targets(streamed: Sequence[_Stream], transaction: Transaction) -> list[SpoolTarget]:
    return [SpoolTarget.of(transaction, path, layout, number) for number, (path, layout, _) in enumerate(streamed)]


def _is_dask(variable: VariablePlan) -> bool:
    return isinstance(variable.data, dask.array.Array)


def prepare(plan: WritePlan, transaction: Transaction) -> None:
    """Make the new file with everything but the data of Dask arrays; it takes its name when it is whole."""
    making = os.path.join(transaction.folder, f"making-{uuid.uuid4().hex[:8]}.h5")
    _check_unchanged(plan, transaction)
    if plan.makes_file and os.path.lexists(transaction.target):
        raise FileExistsError(f"{transaction.target}: somebody made this file meanwhile; it was left alone")
    if plan.version is not None:
        shutil.copyfile(transaction.target, making)
    with hdf5_lock(), TargetFile(making, create=plan.version is None) as file:
        _write_metadata(file, plan)
    with _kept_open(making) as file:
        for group, variable in plan:
            if not _is_dask(variable):
                _write_in_slabs(file, posixpath.join(group.path, variable.name), variable)
    os.replace(making, transaction.new_file)


@contextlib.contextmanager
def _kept_open(path: str) -> Iterator[TargetFile]:
    """A file of the transaction, open. Whoever uses it takes the lock for each use; it is free in between."""
    with hdf5_lock():
        file = TargetFile(path, create=False)
    try:
        yield file
    except BaseException:
        with hdf5_lock(), contextlib.suppress(OSError):  # what went wrong first counts
            file.close()
        raise
    with hdf5_lock():
        file.close()


def _write_metadata(file: TargetFile, plan: WritePlan) -> None:
    """Everything but values. `r+` leaves all of it as it is."""
    if plan.mode == "r+":
        return
    for group in plan.groups:
        _write_group(file, group)
    for group, variable in plan:  # when all scales exist
        if not variable.is_coordinate:
            file.attach_scales(posixpath.join(group.path, variable.name), variable.scales, variable.numbers)
    for attachment in plan.attachments:
        file.attach_scales(attachment.path, attachment.scales, attachment.numbers)


def _write_in_slabs(file: TargetFile, path: str, variable: VariablePlan) -> None:
    """Values that are in memory already: a slab at a time, so that the lock is free in between."""
    values = np.asarray(variable.data)
    if not values.ndim:
        with hdf5_lock():
            file.write(path, (), values)
        return
    rows = _slab_rows(values, variable.layout.chunkshape)
    for start in range(0, len(values), rows):
        with hdf5_lock():
            file.write(path, (start,) + (0,) * (values.ndim - 1), values[start : start + rows])


def _slab_rows(values: np.ndarray, chunkshape: tuple[int, ...] | None) -> int:
    """How many rows to write at once: whole chunks, as HDF5 would encode one that is cut several times."""
    step = chunkshape[0] if chunkshape else 1
    rows = _SLAB_BYTES // max(values[:1].nbytes, 1)
    return max(step, rows // step * step)


def _write_group(file: TargetFile, group: GroupPlan) -> None:
    """The group, its dimensions, and its arrays without values."""
    file.require_group(group.path)
    file.write_attributes(group.path, group.attributes)
    for name in group.removed:
        file.remove(posixpath.join(group.path, name))
    values_of = {variable.name: variable for variable in group.variables if variable.is_coordinate}
    for dimension in group.dimensions:
        if dimension.name not in values_of:
            path = posixpath.join(group.path, dimension.name)
            file.create_array(path, _empty_scale(dimension))
            file.mark_scale(path, number=dimension.number, coordinate=False, size=dimension.size)
    for variable in group.variables:
        path = posixpath.join(group.path, variable.name)
        if variable.action == "set values":
            file.remove_attributes(path, file.user_attributes(path))
        else:
            if variable.action == "replace":
                file.remove(path)
            file.create_array(path, variable.layout)
        file.write_attributes(path, variable.attributes)
        if variable.is_coordinate and variable.action != "set values":
            number = variable.numbers[0] if variable.numbers else None
            file.mark_scale(path, number=number, coordinate=True, size=variable.layout.shape[0])


def _empty_scale(dimension: DimensionPlan) -> ArrayLayout:
    """An array that stands for a dimension without values; nothing of it is ever allocated."""
    if not dimension.unlimited:
        return ArrayLayout((dimension.size,), np.dtype("f4"))
    return ArrayLayout((dimension.size,), np.dtype("f4"), maxshape=(UNLIMITED,), chunkshape=(GROWING_CHUNK,))


# -- where Dask puts its blocks ----------------------------------------------------------------------------


class DirectTarget:
    """Takes blocks in the process that has the new file open, one at a time."""

    def __init__(self, file: TargetFile, path: str, layout: ArrayLayout) -> None:
        self._file = file
        self._path = path
        self.shape, self.dtype, self.ndim = layout.shape, layout.dtype, len(layout.shape)

    def __setitem__(self, key: tuple[slice, ...], block: np.ndarray) -> None:
        values = np.asarray(block)
        with hdf5_lock():
            self._file.write(self._path, _start(key), values)


@dataclass(frozen=True)
class SpoolTarget:
    """Takes blocks in any process: each becomes a file of the transaction, named after its place.

    A block that is stored twice, because its worker died or was slow, has the same name and the same content.
    """

    folder: str
    path: str
    number: int
    shape: tuple[int, ...]
    is_text: bool
    dtype: Any

    @classmethod
    def of(cls, transaction: Transaction, path: str, layout: ArrayLayout, number: int) -> SpoolTarget:
        """The target for the array at `path`, the `number`-th of the transaction."""
        return cls(
            transaction.folder, path, number, layout.shape, layout.dtype is None, layout.dtype or np.dtype(object)
        )

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def _name(self, start: Sequence[int]) -> str:
        return "-".join(["block", str(self.number), *map(str, start)]) + ".npy"

    def __setitem__(self, key: tuple[slice, ...], block: np.ndarray) -> None:
        values = np.asarray(block)
        if not values.size:
            return  # it would have the name of the block that begins where it does
        name = os.path.join(self.folder, self._name(_start(key)))
        making = f"{name}.{uuid.uuid4().hex[:8]}"
        # opening fails if the folder is not there: this worker does not see the file system, or the job is over
        with open(making, "xb") as file:
            for array in _lengths_and_bytes(values) if self.is_text else (values,):
                np.lib.format.write_array(file, array, allow_pickle=False)
        os.replace(making, name)

    def read(self, start: Sequence[int]) -> np.ndarray:
        """The block that was stored at `start`."""
        with open(os.path.join(self.folder, self._name(start)), "rb") as file:
            values = np.lib.format.read_array(file, allow_pickle=False)
            if not self.is_text:
                return values
            return _texts(values, np.lib.format.read_array(file, allow_pickle=False))


def _lengths_and_bytes(texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Texts as the length of each in bytes, in their shape, and the UTF-8 of all in one."""
    encoded = [str(text).encode("utf-8", "surrogateescape") for text in texts.reshape(-1)]
    lengths = np.array([len(data) for data in encoded], "i8").reshape(texts.shape)
    return lengths, np.frombuffer(b"".join(encoded), "u1")


def _texts(lengths: np.ndarray, data: np.ndarray) -> np.ndarray:
    """The reverse of `_lengths_and_bytes`."""
    texts = np.empty(lengths.shape, object)
    ends = np.cumsum(lengths.reshape(-1)).tolist()
    for number, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        texts.reshape(-1)[number] = data[start:end].tobytes().decode("utf-8", "surrogateescape")
    return texts


def _stored_blocks(folder: str) -> dict[int, list[tuple[int, ...]]]:
    """Where the blocks that were put aside begin, in order, by the number of their target."""
    found: dict[int, list[tuple[int, ...]]] = {}
    for name in os.listdir(folder):
        if name.startswith("block-") and name.endswith(".npy"):
            number, *start = map(int, name.removeprefix("block-").removesuffix(".npy").split("-"))
            found.setdefault(number, []).append(tuple(start))
    return {number: sorted(starts) for number, starts in found.items()}


def _start(key: tuple[slice, ...]) -> tuple[int, ...]:
    return tuple(int(part.start or 0) for part in key)


def unspool(transaction: Transaction, targets: Sequence[SpoolTarget]) -> None:
    """Write the blocks that were put aside into the new file. Raises OSError if one is missing."""
    if not targets:
        return
    blocks = _stored_blocks(transaction.folder)
    with _kept_open(transaction.new_file) as file:
        for target in targets:
            written = 0
            for start in blocks.get(target.number, []):
                values = target.read(start)
                with hdf5_lock():
                    file.write(target.path, start, values)
                written += values.size
            expected = math.prod(target.shape)
            if written != expected:
                raise OSError(
                    f"{transaction.target}:{target.path}: only {written} of {expected} elements were stored; the file "
                    "was not replaced. Every worker must see the folder of the file"
                )
