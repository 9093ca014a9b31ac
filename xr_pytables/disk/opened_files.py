"""Files that stay open: descriptors in xarray's own cache of open files, and the one HDF5 lock.

Every HDF5 call of this project happens inside `hdf5_lock()`, and no HDF5 handle outlives it. What stays open between
calls is a read-only file descriptor, kept in xarray's cache: it pins the version of the file that was opened, even if
the path is given to another file meanwhile. (Imported late where a file is only looked at: xarray takes longer to
import than that.)

Tested in `tests/disk/test_files.py`.
"""

from __future__ import annotations

import os
import threading
import uuid
import weakref
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Final, Self

from xarray.backends import CachingFileManager
from xarray.backends.file_manager import FILE_CACHE
from xarray.backends.locks import HDF5_LOCK

from ..sources.place import Opened, Place, Version
from .files import LocalPlace, open_now

_FORK_PATIENCE: Final = 60.0


def hdf5_lock() -> AbstractContextManager[Any]:
    """The one lock around HDF5, to be held: xarray's, because some builds share one libhdf5 with netCDF4 and h5py.

    Not re-entrant. It is the lock itself that is inside of xarray's: Ctrl-C in a function that gives a lock back would
    leave it taken, and C functions are not interrupted.
    """
    lock: AbstractContextManager[Any] = HDF5_LOCK.lock
    return lock


_held_for_fork = threading.local()


def _before_fork() -> None:
    # a child that is born while another thread is inside HDF5 finds HDF5's own mutex locked for ever; while another
    # looks at xarray's cache of open files, the lock of that
    wanted = HDF5_LOCK.lock, FILE_CACHE._lock
    _held_for_fork.locks = [lock for lock in wanted if lock.acquire(timeout=_FORK_PATIENCE)]


def _after_fork() -> None:
    """Give the locks back, in the parent."""
    held = getattr(_held_for_fork, "locks", [])
    while held:
        held.pop().release()


def _after_fork_in_child() -> None:
    """The same in the child, where threads that are gone may have held the locks of managers."""
    for manager in list(_managers):
        manager._lock = threading.Lock()
    _after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)


class _OwnManager(CachingFileManager["Opened"]):
    """For files that this package reads for itself: closes them without a word when nobody needs them any more.

    (xarray can be told to warn of files that users forgot to close; they could not close these.)
    """

    def __del__(self) -> None:
        self.close(needs_lock=False)
        if hasattr(CachingFileManager, "__del__"):  # xarray takes it away when the interpreter ends
            super().__del__()


@dataclass(frozen=True)
class _Pin:
    """Which file, and from its first opening on which version of it: what a manager of open files needs to open it."""

    place: Place = field(compare=False)
    versions: list[Version] = field(compare=False)
    open: list[Opened] = field(compare=False, default_factory=list, repr=False)
    """What is open already, until the manager has it."""
    key: str = field(default_factory=lambda: uuid.uuid4().hex, repr=False)


def _open_pinned(pin: _Pin, *, mode: str) -> Opened:
    assert mode == "r"  # a manager without a mode cannot be unpickled (its sentinel is compared by identity)
    if pin.open:
        return pin.open.pop()
    opened = open_now(pin.place, pin.versions[0] if pin.versions else None)
    if not pin.versions:
        pin.versions.append(opened.version())
    return opened


_managers: weakref.WeakSet[CachingFileManager[Opened]] = weakref.WeakSet()
"""All of this process: each has a lock of its own."""


class OpenedFile:
    """One version of one file, to be read at any time later, in this process or another.

    Pickles as place and version. Descriptors, connections and what is kept of remote files live in xarray's cache of
    open files: at most `xr.set_options(file_cache_maxsize=)` of them.
    """

    def __init__(self, place: Place | str, identity: Version | None = None, *, for_users: bool = True) -> None:
        """Without `identity` it is the version that the file has when it is opened, which is now."""
        place = LocalPlace(place) if isinstance(place, str) else place
        self.path = place.path
        self._pin = _Pin(place, [] if identity is None else [identity])
        kind = CachingFileManager if for_users else _OwnManager
        self._manager = kind(_open_pinned, self._pin, mode="r")
        _managers.add(self._manager)
        if identity is None:
            self._open()

    @classmethod
    def of(cls, place: Place, opened: Opened, identity: Version) -> Self:
        """What has been opened at a place, in the version that it had then. It is this file's from now on."""
        file = cls(place, identity)
        file._pin.open.append(opened)
        file._open()
        return file

    def _open(self) -> None:
        with self.descriptor():
            pass

    def __repr__(self) -> str:
        return f"OpenedFile({self.path!r}, {self.identity!r})"

    @property
    def identity(self) -> Version:
        """The version that was opened."""
        return self._pin.versions[0]

    def descriptor(self) -> AbstractContextManager[Opened]:
        """The very file that was opened, not closed while the block runs.

        Raises FileChangedError if another file has the path and this process has no descriptor of the old one.
        """
        opened: AbstractContextManager[Opened] = self._manager.acquire_context()
        return opened

    def close(self) -> None:
        """Give the descriptor back. A later read opens it again."""
        self._manager.close()
