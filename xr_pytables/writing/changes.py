"""Changing a file that is there: values are put aside first, then all changes are made at once, in place or in a copy.

Which arrays there are and what becomes of them is in the plan. A large file is changed in place, inside a `journal`; a
small one, or one of which the journal would be large, in a copy that replaces it.

Tested in `tests/disk/test_journal.py` and `tests/writing/test_kills.py`.
"""

from __future__ import annotations

import contextlib
import math
import os
import posixpath
import shutil
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import dask
import dask.array
import numpy as np
import tables
from dask.delayed import Delayed

from ..arrays.leaf_arrays import storage_of
from ..disk.files import FileIdentity
from ..disk.journal import Journal, exclusive, is_supported
from ..disk.opened_files import hdf5_lock
from ..disk.transaction import Transaction
from ..errors import FileChangedError, FormatError, HDF5Error, NoLocksError
from ..hdf5.file import File
from ..library.moved_references import holders
from ..library.target_file import TargetFile, planned_storage, why_not_encode
from ..sources.local import LocalFile
from ..sources.positioned import pread
from ..sources.source import Source
from . import chunk_writer
from .blocks import BlockTarget, InMemory, PutAside, Values
from .chunk_writer import ArrayChange, ReadBytes, plan_change, plan_new
from .extents import Ranges, other_ranges, others, raw_extents, remember, together, without
from .lazy_blocks import put
from .longer_indexes import with_longer_indexes
from .plans import VariablePlan, WritePlan
from .progress import Done, nobody
from .structure import write_structure
from .table_indexes import create_indexes
from .targets import USUAL, Effort, kept_open, waiting

SMALL_FILE: Final = 4 * 2**20
"""Bytes: a smaller file is changed in a copy that replaces it."""
LARGEST_SHARE: Final = 0.3
"""Of a file that a journal would have to save; above it, a copy is less work."""


def delayed_change(plan: WritePlan, transaction: Transaction, *, fsync: bool, effort: Effort = USUAL) -> Delayed:
    """The plan as one Delayed: put blocks aside, then make all changes in one step. Each step can be repeated."""
    values = put_aside(plan, transaction)
    lazy = [variable.data for _, variable in plan if _is_lazy(variable)]
    begun = dask.delayed(_begin_delayed, pure=False)(plan.without_data(), transaction)
    ready = begun
    if lazy:
        ready = put(lazy, waiting(begun, transaction, targets_of(values)))
    finish = dask.delayed(_change_delayed, pure=False)
    result: Delayed = finish(ready, _Whole(plan.without_lazy_data(), transaction, values, fsync, effort))
    return result


def _begin_delayed(plan: WritePlan, transaction: Transaction) -> None:
    if transaction.is_committed():
        return  # only the results of this graph were lost
    check_unchanged(plan, transaction)
    transaction.begin_shared()


def _is_lazy(variable: VariablePlan) -> bool:
    return isinstance(variable.data, dask.array.Array)


def targets_of(values: Mapping[str, Values]) -> list[BlockTarget]:
    """Where the blocks of Dask arrays go, in the order of the plan."""
    return [each.target for each in values.values() if isinstance(each, PutAside)]


def put_aside(plan: WritePlan, transaction: Transaction) -> dict[str, Values]:
    """The values of a plan by the path of the array: those in memory, and those that Dask shall put into files."""
    found: dict[str, Values] = {}
    for number, (group, variable) in enumerate(plan):
        path, data = posixpath.join(group.path, variable.name), variable.data
        if _is_lazy(variable):
            dtype = np.dtype(object) if variable.layout.dtype is None else variable.layout.dtype
            target = BlockTarget(transaction.folder, number, data.shape, dtype, f"{transaction.target}:{path}")
            found[path] = PutAside(target, data.chunks)
        else:
            found[path] = InMemory(np.asarray(data))
    return found


@dataclass(frozen=True)
class _Whole:
    """What the last step of a delayed change needs to know. (Dask looks into lists and dicts, not into this.)"""

    plan: WritePlan
    transaction: Transaction
    values: Mapping[str, Values]
    fsync: bool
    effort: Effort


def _change_delayed(ready: object, whole: _Whole) -> None:
    whole.transaction.run_last(
        lambda: change(whole.plan, whole.transaction, whole.values, fsync=whole.fsync, effort=whole.effort)
    )


def change(
    plan: WritePlan,
    transaction: Transaction,
    values: Mapping[str, Values],
    *,
    fsync: bool,
    effort: Effort = USUAL,
    done: Done = nobody,
) -> None:
    """Make the changes of the plan to a file that is there, all at once: in place with a journal, or in a copy."""
    _check_complete(transaction, values)
    check_unchanged(plan, transaction)
    with open(transaction.target, "rb") as old:
        source = LocalFile(old.fileno(), transaction.target)
        try:
            plan, values = with_longer_indexes(plan, values, source, transaction.folder)
            changes = _planned_changes(plan, values, source)
            saved = _what_to_save(plan, source, changes, FileIdentity.of(old.fileno()))
        except FormatError:
            check_unchanged(plan, transaction)  # somebody else was changing the file while it was looked at
            raise
        work = _Work(plan, values, changes, effort, done)
        if saved is not None:
            with contextlib.suppress(NoLocksError):
                _uninterrupted(lambda stop: _change_in_place(work.until(stop), transaction, saved, fsync=fsync))
                return
        try:
            _change_copy(work, transaction, old.fileno(), fsync=fsync)
        except OSError:
            check_unchanged(plan, transaction)  # what was copied may be half of somebody else's change
            raise


@dataclass(frozen=True)
class _Work:
    """All that is to be done to one file."""

    plan: WritePlan
    values: Mapping[str, Values]
    """By path of the array, as `changes`."""
    changes: Mapping[str, ArrayChange]
    """Of the arrays whose chunks are written here, and not by HDF5."""
    effort: Effort
    done: Done

    def until(self, stop: threading.Event) -> _Work:
        """The same, given up between two chunks once `stop` is set."""

        def done(size: int) -> None:
            if stop.is_set():
                raise KeyboardInterrupt
            self.done(size)

        return replace(self, done=done)


def _uninterrupted(step: Callable[[threading.Event], None]) -> None:
    """Run a step in a thread of its own, and wait for it. If Ctrl-C comes, the step is told to stop.

    In the main thread, it could end any function: between getting a handle from HDF5 and keeping it, say. Nobody could
    close that, so that the file stays open, and half changed, until the process ends.
    """
    stop, ended, failures = threading.Event(), threading.Event(), list[BaseException]()

    def run() -> None:
        try:
            step(stop)
        except BaseException as error:
            failures.append(error)
        finally:
            ended.set()

    thread, interrupted = threading.Thread(target=run), False
    try:
        thread.start()
    except KeyboardInterrupt:
        if thread not in threading.enumerate():
            raise
        interrupted = True
    while not ended.is_set():
        try:
            if interrupted:
                stop.set()
            ended.wait()
        except KeyboardInterrupt:
            interrupted = True
    if failures:
        raise failures[0]
    if interrupted:
        raise KeyboardInterrupt


def _change_copy(work: _Work, transaction: Transaction, old: int, *, fsync: bool) -> None:
    making = os.path.join(transaction.folder, f"making-{uuid.uuid4().hex[:8]}.h5")
    shutil.copyfile(transaction.target, making)
    with kept_open(making) as file:
        _apply(work, file, lambda offset, count: pread(old, count, offset))
    with hdf5_lock():
        create_indexes(making, transaction.folder, work.plan.indexes, ours_alone=False)
    os.replace(making, transaction.new_file)
    transaction.mark_commit()
    commit(work.plan, transaction, fsync=fsync)


@dataclass(frozen=True)
class _ToSave:
    """What a journal must save so that a file can be changed in place."""

    ranges: Ranges
    others: Ranges | None
    """Those of them that are neither raw data nor chunk trees; None if some arrays are changed as a whole."""


def _change_in_place(work: _Work, transaction: Transaction, saved: _ToSave, *, fsync: bool) -> None:
    journal = Journal.begin(
        transaction.target,
        saved.ranges,
        fsync=fsync,
        check=lambda: check_unchanged(work.plan, transaction),
        room=sum(each.least_growth() for each in work.changes.values()),
    )
    try:
        opened = kept_open(transaction.target, keep=journal.size)
        file = opened.__enter__()
    except BaseException:
        journal.discard()
        raise
    try:
        with contextlib.ExitStack() as stack:
            stack.push(opened)
            _apply(work, file, journal.read)
        if saved.others is not None and all(each.action not in ("create", "replace") for _, each in work.plan):
            _remember_others(transaction.target, work.changes.values(), saved.others, journal.size)
        journal.commit(keep_as=transaction.commit_mark)
    except BaseException:
        journal.roll_back()
        raise


def _remember_others(target: str, changes: Iterable[ArrayChange], others: Ranges, size: int) -> None:
    """Say what may always change in the changed file, which had `size` bytes, so that the next append need not look."""
    with open(target, "rb") as raw:
        file, changed = File(LocalFile(raw.fileno(), target)), list(changes)
        file.prefetch([change.storage.header for change in changed])
        given_up = [extent for change in changed for extent in change.rewritten()]
        written = [extent for change in changed for extent in change.written(file)]
        end = file.source.size  # HDF5 cuts off what is free there
        now = together(others, given_up, [(size, max(end - size, 0))])
        remember(FileIdentity.of(raw.fileno()), without(now, [*written, (end, max(size - end, 0))]))


def _what_to_save(
    plan: WritePlan, source: Source, changes: Mapping[str, ArrayChange], identity: FileIdentity
) -> _ToSave | None:
    """What a journal must save so that the file can be changed in place; None where a copy is less work."""
    size = source.size
    if size < SMALL_FILE or not is_supported() or plan.indexes:  # PyTables makes indexes, in a file of its own
        return None
    if any(variable.is_table and not plan.in_parts for _, variable in plan):  # indexes of the old table go with it
        return None
    changed = {address for group in plan.groups for address in group.given_up}
    changed |= {
        variable.stored.info.address
        for group, variable in plan
        if variable.stored and posixpath.join(group.path, variable.name) not in changes and variable.action != "keep"
    }
    if any(group.removed for group in plan.groups) or any(variable.action == "replace" for _, variable in plan):
        changed |= {holder.address for holder in holders(File(source)) if holder.in_values}
    changed |= _allocated(source, [path for group in plan.groups for path, _ in group.grown])
    touched = [extent for each in changes.values() for extent in each.touched()]
    if changed:
        places = {offset for offset, _ in touched}
        saved = _ToSave(others(size, raw_extents(File(source)), changed=changed, rewritten=places), None)
    else:
        ranges = other_ranges(source, identity)
        saved = _ToSave(together(ranges, touched), ranges)
    return saved if sum(count for _, count in saved.ranges) <= LARGEST_SHARE * size else None


def _allocated(source: Source, scales: Sequence[str]) -> set[int]:
    """Addresses of those of the scales without values for which other programs had HDF5 store chunks all the same."""
    found = set()
    for path in scales:
        file = File(source)
        info = file.dataset(file.resolve(path).address)
        if info.offset is not None or (info.index is not None and info.index.address is not None):
            found.add(info.address)
    return found


def _check_complete(transaction: Transaction, values: Mapping[str, Values]) -> None:
    for path, each in values.items():
        if isinstance(each, PutAside) and (missing := each.missing()):
            raise OSError(
                f"{transaction.target}:{path}: {missing} of {math.prod(each.shape)} elements were not stored; the file "
                "was left as it was. Every worker must see the folder of the file"
            )


def _planned_changes(plan: WritePlan, values: Mapping[str, Values], source: Source) -> dict[str, ArrayChange]:
    """What happens to the chunks of arrays in the file, by path; without those that HDF5 has to write."""
    found = {}
    for group, variable in plan:
        path, spec = posixpath.join(group.path, variable.name), variable.stored
        if (
            spec is None
            or variable.action not in ("put", "set values")
            or why_not_encode(spec.info)
            or spec.info.shape is None
        ):
            continue
        storage = replace(storage_of(spec), shape=spec.info.shape)
        start = variable.start or (0,) * len(storage.shape)
        found[path] = plan_change(source, spec.info, storage, variable.layout.shape, start, values[path].shape)
    return found


def _apply(work: _Work, file: TargetFile, before: ReadBytes) -> None:
    """Change the file, in which nothing is lost if this fails: it is a copy, or there is a journal."""
    with hdf5_lock(), _named(work.plan.path):
        write_structure(file, work.plan)
    for group, variable in work.plan:
        if variable.action != "keep":
            path = posixpath.join(group.path, variable.name)
            with _named(f"{work.plan.path}:{path}"):
                _put(work, file, before, path, variable)


@contextlib.contextmanager
def _named(what: str) -> Iterator[None]:
    """Say where it is that HDF5 cannot change: of a newer version, perhaps. For a full disk there are other words."""
    try:
        yield
    except HDF5Error as error:
        if error.errno is not None:
            raise
        raise HDF5Error(
            f"{what}: the HDF5 of PyTables ({tables.hdf5_version}) cannot change it: {error}. The file was left as it "
            "was. Write to a new file"
        ) from None


def _put(work: _Work, file: TargetFile, before: ReadBytes, path: str, variable: VariablePlan) -> None:
    """Put the values of a variable into the array at `path`."""
    planned, values = work.changes.get(path), work.values[path]
    is_new = variable.action in ("create", "replace")
    if planned is None and is_new:
        storage = planned_storage(variable.layout)
        planned = None if storage is None else plan_new(storage)
    if planned is not None:
        chunk_writer.write(
            file,
            path,
            planned,
            values,
            before=before,
            lock=hdf5_lock,
            threads=work.effort.threads,
            leave_out=is_new and not work.effort.write_empty_chunks,
            done=work.done,
        )
    else:
        start = variable.start or (0,) * len(variable.layout.shape)
        chunk_writer.write_through_hdf5(
            file, path, variable.layout.shape, start, values, lock=hdf5_lock, done=work.done
        )


def commit(plan: WritePlan, transaction: Transaction, *, fsync: bool) -> None:
    alone = exclusive(transaction.target) if os.path.exists(transaction.target) else contextlib.nullcontext()
    with alone:
        transaction.commit(fsync=fsync, exclusive=plan.makes_file, check=lambda: check_unchanged(plan, transaction))


def check_unchanged(plan: WritePlan, transaction: Transaction) -> None:
    """Raise FileChangedError if the file is not the version that the plan is about: that one's data would be lost.

    Raises PermissionError if it may not be written to any more.
    """
    transaction.check_allowed()
    if plan.version is None:
        return
    if not os.path.exists(transaction.target) or not plan.version.same_version(FileIdentity.of(transaction.target)):
        raise FileChangedError(
            f"{transaction.target}: the file was changed or removed by somebody else since this write was planned; "
            "it was left alone. Call to_pytables again"
        )
