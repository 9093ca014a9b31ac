"""Carrying out plans, now or as Dask graphs, and with patience: any scheduler, new files and files that are there.

A `new_file` is made in a `transaction`, filled by Dask block by block, and renamed over the target at the very end;
what is done to a file that is there is in `changes`.

Tested in `tests/writing/test_new_file.py` and `tests/writing/test_writing.py`.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from typing import Any, Final

import dask
import dask.array
import dask.local
import dask.threaded
from dask.delayed import Delayed
from xarray.backends.locks import get_dask_scheduler

from ..disk.arenas import OwnRoom, Room, SharedRoom
from ..disk.transaction import Transaction
from .blocks import Values
from .changes import change, commit, delayed_change, put_aside, targets_of
from .lazy_blocks import put
from .new_file import Part, finish, parts_of, prepare, sources_of, streamed
from .plans import WritePlan
from .progress import Done, bar, nobody, watched
from .targets import USUAL, Effort, OwnNotes, SharedNotes, itemsize, waiting
from .waiting import NONE, Patience

Job = tuple[WritePlan, Transaction]
"""A plan and the transaction to carry it out in."""


@dataclass(frozen=True)
class Again:
    """What to do about a file that others change while data are computed."""

    patience: Patience = NONE
    plan: Callable[[], WritePlan] | None = None
    """Plans the one job anew, for the file as it is then."""


_ONCE: Final = Again()


def execute(
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
            begun.enter_context(transaction.begun())
        with bar(sum(_nbytes(plan) for plan, _ in jobs), title, shown=progress) as done:
            with jobs[0][1].naming_the_target() if jobs else contextlib.nullcontext():  # they are on one disk, mostly
                growing = _begun(new, effort, done)
                values = [put_aside(*job) for job in old]
                lazy = [data for each in growing for data in sources_of(each.plan, each.parts)]
                lazy += [variable.data for plan, _ in old for _, variable in streamed(plan)]
                targets = [part.target for each in growing for part in each.parts]
                targets += [target for each in values for target in targets_of(each)]
                with watched(lambda: stored_bytes(growing), done):
                    if lazy:
                        dask.compute(put(lazy, targets))
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
                dask.compute(put([variable.data for _, variable in streamed(now)], targets_of(values)))
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
    here = not any(streamed(plan) for plan, _ in jobs) or _computes_here()  # which imports distributed
    budget = effort.budget()
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


def put_structure(plan: WritePlan, transaction: Transaction, *, fsync: bool, effort: Effort = USUAL) -> None:
    """Put a new file into its place, with all but the data of Dask arrays."""
    with transaction.begun(), transaction.naming_the_target():
        prepare(plan, transaction, effort)
        if streamed(plan):
            os.replace(transaction.growing_file, transaction.new_file)
        commit(plan, transaction, fsync=fsync)


def delayed(plan: WritePlan, transaction: Transaction, *, fsync: bool, effort: Effort = USUAL) -> Write:
    """The plan as one Delayed, for any scheduler and any process: prepare, put blocks aside, commit.

    Each step can be repeated, as schedulers do when a worker dies.
    """
    transaction.look_after()
    if plan.version is not None:
        return Write(delayed_change(plan, transaction, fsync=fsync, effort=effort), [transaction])
    room = SharedRoom(transaction.folder)
    parts = parts_of(plan, transaction, room, SharedNotes(transaction.folder), effort)
    # without the Dask arrays: Dask would find them in the plan, and compute them for this step as a whole
    begun = dask.delayed(begin_delayed, pure=False)(plan.without_lazy_data(), transaction, effort)
    ready = begun
    if parts:
        targets = waiting(begun, transaction, [part.target for part in parts])
        # optimized on its own, with a copy of `begun`: if the last step asked for that as well, it would run twice
        ready = put(sources_of(plan, parts), targets)
    commit_step = dask.delayed(commit_delayed, pure=False)
    return Write(commit_step(ready, plan.without_data(), transaction, parts, effort, fsync), [transaction])


class Write(Delayed):  # type: ignore[misc]  # Dask has no types
    """The Delayed of writes, which forgets that they are done once it was computed, or is going to be.

    What tells tasks so that run again is not for who computes all anew, and is not left for ever.
    """

    __slots__ = (*Delayed.__slots__, "_transactions")

    def __init__(self, made: Delayed, transactions: Sequence[Transaction]) -> None:
        super().__init__(made.key, made.dask)
        self._transactions = tuple(transactions)

    @property
    def dask(self) -> Any:
        """The graph, for who computes it."""
        self._forget()
        return super().dask

    def compute(self, **options: Any) -> Any:
        """See Delayed."""
        result = super().compute(**options)
        self._forget()
        return result

    def _forget(self) -> None:
        for transaction in self._transactions:
            transaction.forget()

    def __del__(self) -> None:
        with contextlib.suppress(OSError, AttributeError):  # of one that was never made
            self._forget()


def begin_delayed(plan: WritePlan, transaction: Transaction, effort: Effort = USUAL) -> None:
    if transaction.is_concluded():
        return  # only the results of this graph were lost
    transaction.begin_shared()
    begin_file(plan, transaction, effort)


def begin_file(plan: WritePlan, transaction: Transaction, effort: Effort = USUAL) -> None:
    """Make the structure of a new file in a shared folder."""
    if transaction.is_decided() or os.path.exists(transaction.growing_file):
        return  # an earlier run of this step made it
    try:
        with transaction.naming_the_target():
            prepare(plan, transaction, effort, nobody, SharedRoom(transaction.folder))
    except BaseException:
        transaction.remove()
        raise


def commit_delayed(
    ready: object, plan: WritePlan, transaction: Transaction, parts: Sequence[Part], effort: Effort, fsync: bool
) -> None:
    def step() -> None:
        if not os.path.exists(transaction.new_file):
            finish(parts, transaction, plan.indexes, SharedRoom(transaction.folder), effort, again=True)
        transaction.mark_commit()
        commit(plan, transaction, fsync=fsync)

    transaction.run_last(step)
