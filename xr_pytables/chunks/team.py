"""Who does the work: the calling thread, helped by one pool of threads for the whole process.

Knows tasks and threads, nothing of what the tasks are. `reading` decodes with it, the writer encodes with it.

Tested in `tests/chunks/test_reading_chunks.py`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, TypeVar

from .codecs import Workspace
from .cpus import usable_cpus as usable_cpus

_T = TypeVar("_T")

_KEPT_BYTES: Final = 1 << 23
"""Larger scratch buffers are not kept from one read to the next."""


_LONG_STEP: Final = 50e-6
"""Seconds: steps of half as much are not done sooner by two threads, steps of twice as much are."""
_LONG_WAIT: Final = 5e-4
"""Seconds that a task waited: no page cache is as slow."""


class _Team:
    """The helper threads of the process, and how many threads (callers included) are decoding right now."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.busy = 0
        self.pool: ThreadPoolExecutor | None = None

    def enter(self) -> None:
        with self.lock:
            self.busy += 1

    def leave(self) -> None:
        with self.lock:
            self.busy -= 1

    def ask(self, count: int, work: Callable[[], None]) -> list[Future[None]]:
        """Up to `count` helpers for `work`, as many as there are CPUs without work."""
        with self.lock:
            count = min(count, usable_cpus() - self.busy - 1)  # the caller is about to begin
            if count > 0 and self.pool is None:
                self.pool = ThreadPoolExecutor(usable_cpus(), thread_name_prefix="xr_pytables")
            pool = self.pool
        if pool is None:
            return []
        try:
            return [pool.submit(work) for _ in range(count)]
        except RuntimeError:  # the interpreter is shutting down: the caller does it alone
            return []


_team = _Team()


def _renew_team() -> None:
    """After a fork: the threads of the pool are gone, and the lock may have been held by one of them."""
    global _team
    _team = _Team()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_team)


_own = threading.local()  # `workspace`: that of the running thread, which goes with it


def _taken_workspace() -> Workspace:
    """The scratch memory that the running thread used last: one task of Dask reads one chunk, and fresh memory for
    each would cost more than to decode it."""
    workspace: Workspace = _own.__dict__.pop("workspace", None) or Workspace()
    return workspace


class _Job:
    """Tasks that several threads take from one iterator until it ends, one of them fails, or they are not needed."""

    def __init__(self, tasks: Iterator[Any], work: Callable[[Any, Workspace], None], team: _Team) -> None:
        self.tasks = tasks
        self.work = work
        self.team = team
        self.lock = threading.Lock()  # an iterator may be a generator, which two threads cannot enter
        self.failure: BaseException | None = None

    def drain(self, *, helps: bool) -> None:
        workspace = _taken_workspace()
        self.team.enter()
        try:
            # a helper goes when other callers came: each of them works itself
            while self.failure is None and not (helps and self.team.busy > usable_cpus()):
                with self.lock:
                    task = next(self.tasks, self)
                if task is self:
                    return
                self.work(task, workspace)
        except BaseException as error:
            self.failure = self.failure or error
        finally:
            self.team.leave()
            workspace.trim(_KEPT_BYTES)
            _own.workspace = workspace

    def help(self) -> None:
        self.drain(helps=True)


def run(
    tasks: Iterator[_T],
    work: Callable[[_T, Workspace], None],
    threads: int | None,
    *,
    count: int,
    workspace: Workspace | None = None,
) -> None:
    """Do `work` on each task (there are `count`), in the calling thread and up to `threads` - 1 helpers.

    The caller never waits for a helper that has not begun, so callers that are pool threads themselves (of Dask, say)
    cannot block each other. With `workspace` this is a part of a task: the calling thread does it with that scratch
    memory. The first exception ends the others after their current task and is raised here.
    """
    if workspace is not None:
        for task in tasks:
            work(task, workspace)
        return
    if threads is not None and threads < 1:
        raise ValueError(f"threads must be 1 or more, not {threads}")
    team = _team
    job = _Job(tasks, work, team)
    helpers = team.ask(min(threads or count, count) - 1, job.help)
    job.drain(helps=False)
    for helper in helpers:
        if not helper.cancel():
            helper.result()
    if job.failure is not None:
        raise job.failure


def helpers_pay(task: _T, work: Callable[[_T, Workspace], None], parts: int) -> bool:
    """Do one task in the calling thread, and tell whether helpers are worth having for others of its kind.

    It has `parts` steps, between which a thread holds the GIL. Where they are short, threads spend more time on handing
    that over than they gain; where the task waited, for a disk or a network, others can go on meanwhile.
    """
    began, worked = time.perf_counter(), time.thread_time()
    run(iter([task]), work, 1, count=1)
    taken = time.perf_counter() - began
    waited = taken - (time.thread_time() - worked)
    return taken > _LONG_STEP * parts or waited > _LONG_WAIT
