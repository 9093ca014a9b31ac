"""Files on disk: the one HDF5 lock, which version of a file was opened, descriptors that outlive HDF5 handles.

Every HDF5 call of this project happens inside `hdf5_lock()`, and no HDF5 handle outlives it. What stays open between
calls is a read-only file descriptor, kept in xarray's own cache of open files: it pins the version of the file that
was opened, even if the path is given to another file meanwhile.
"""

from __future__ import annotations

import os
import platform
import stat
import threading
import uuid
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Self

from xarray.backends import CachingFileManager
from xarray.backends.file_manager import FILE_CACHE
from xarray.backends.locks import HDF5_LOCK

from ..errors import FileChangedError
from ..hdf5.file import File
from ..sources.local import LocalFile
from ..sources.place import Opened, Place, Version
from ..sources.url import is_url, shown

_FORK_PATIENCE: Final = 60.0
_HOST: Final = platform.node()


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
    """The same in the child; what readers keep begins anew: threads that are gone may have held its locks."""
    for manager in list(_managers):
        manager._lock = threading.Lock()
    for opened in list(_opened):
        opened.kept = {}
    _after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)


@dataclass(frozen=True)
class FileIdentity:
    """Which file, and which version of it. Equal identities mean the same bytes, as far as the system can tell."""

    size: int
    """In bytes."""
    modified: int
    """Time of the last change of the content, in nanoseconds."""
    host: str
    device: int
    inode: int
    """Device and inode mean something on `host` only."""

    @classmethod
    def of(cls, descriptor_or_path: int | str) -> Self:
        """The identity of an open descriptor, or of what a path names now."""
        status = os.stat(descriptor_or_path)
        return cls(status.st_size, status.st_mtime_ns, _HOST, status.st_dev, status.st_ino)

    def same_file(self, other: FileIdentity) -> bool:
        """Whether both are versions of one file (on two hosts: as far as size and time tell)."""
        if self.host != other.host:
            return self.same_version(other)
        return (self.device, self.inode) == (other.device, other.inode)

    def same_version(self, other: FileIdentity) -> bool:
        """Whether the content has not changed."""
        same_place = self.host != other.host or (self.device, self.inode) == (other.device, other.inode)
        return same_place and (self.size, self.modified) == (other.size, other.modified)


def checked_path(path: object) -> str:
    """The absolute path of an existing regular file.

    Raises TypeError for what is not a path on this machine, FileNotFoundError, IsADirectoryError, OSError.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"a path is needed, not {type(path).__name__}")
    text = os.fspath(path)
    if not isinstance(text, str):
        raise TypeError("a path of text is needed, not of bytes")
    if is_url(text):
        raise TypeError(f"{shown(text)}: a path on this machine is needed here, not a URL")
    absolute = os.path.abspath(os.path.expanduser(text))
    mode = os.stat(absolute).st_mode  # FileNotFoundError names the path
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{absolute}: this is a folder, not an HDF5 file")
    if not stat.S_ISREG(mode):
        raise OSError(f"{absolute}: this is not a regular file")
    return absolute


def checked_group(group: object) -> str:
    """The absolute path of a group as the user gave it. Raises ValueError for what is not text, and for `..`."""
    if group is None:
        return "/"
    if not isinstance(group, str):
        raise ValueError(f"group must be a string or None, not {type(group).__name__}")
    parts = [part for part in group.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ValueError(f"group {group!r} goes up with '..', which HDF5 does not know. Write the whole path")
    return "/" + "/".join(parts)


class Descriptor(Opened):
    """A read-only file descriptor that closes as file objects do."""

    def __init__(self, path: str, expected: FileIdentity | None) -> None:
        super().__init__(path)
        self.fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))
        if expected is not None and not FileIdentity.of(self.fd).same_file(expected):
            os.close(self.fd)
            raise FileChangedError(f"{path}: another file has taken this path since it was opened. Open it again")

    @property
    def source(self) -> LocalFile:
        """The bytes of the file, as many as there are now."""
        return LocalFile(self.fd, self.path)

    def version(self) -> FileIdentity:
        """What the file is now."""
        return FileIdentity.of(self.fd)

    def close(self) -> None:
        os.close(self.fd)


@dataclass(frozen=True)
class LocalPlace:
    """A regular file by its absolute path."""

    path: str

    def open(self, version: Version | None) -> Descriptor:
        """A descriptor. Raises FileChangedError if the path is that of another file now."""
        assert version is None or isinstance(version, FileIdentity)
        return Descriptor(self.path, version)

    def beside(self, path: str) -> LocalPlace:
        """The file at a path that counts from the folder of this one."""
        return LocalPlace(os.path.realpath(os.path.join(os.path.dirname(self.path), path)))


_opened: weakref.WeakSet[Opened] = weakref.WeakSet()
"""All that are open in this process."""


def hdf5_of(opened: Opened) -> File:
    """The objects of a file as it is now."""
    return File(opened.source)


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
    key: str = field(default_factory=lambda: uuid.uuid4().hex, repr=False)


def _open_pinned(pin: _Pin, *, mode: str) -> Opened:
    assert mode == "r"  # a manager without a mode cannot be unpickled (its sentinel is compared by identity)
    opened = pin.place.open(pin.versions[0] if pin.versions else None)
    if not pin.versions:
        pin.versions.append(opened.version())
    _opened.add(opened)
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
            with self.descriptor():
                pass

    def __repr__(self) -> str:
        return f"OpenedFile({self.path!r}, {self.identity!r})"

    @property
    def identity(self) -> Version:
        """The version that was opened."""
        return self._pin.versions[0]

    @contextmanager
    def descriptor(self) -> Iterator[Opened]:
        """The very file that was opened, not closed while the block runs.

        Raises FileChangedError if another file has the path and this process has no descriptor of the old one.
        """
        with self._manager.acquire_context() as opened:
            yield opened

    def close(self) -> None:
        """Give the descriptor back. A later read opens it again."""
        self._manager.close()
