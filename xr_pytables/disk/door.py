"""The one door: how a file is looked into, by whoever wants to know what it holds.

What a dead writer left is put back, what this process holds back is written, a file that another process is writing is
refused, and the version that is looked at is pinned by a descriptor.

Tested in `tests/disk/test_files.py`, `tests/disk/test_own_writers.py` and `tests/test_bad_input.py`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Final, Self

from ..hdf5.file import File
from . import journal, own_writers
from .files import FileBusyError, FileChangedError, FileIdentity, OpenedFile, hdf5_lock

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_NO_LOCKS: Final = frozenset({"FALSE", "0"})


class Visit:
    """The files that one opening looks into, each in the version that it has at first sight.

    Leaving the block closes those that were not taken over by `opened`.
    """

    def __init__(self) -> None:
        self._descriptors = ExitStack()
        self._files: dict[str, File] = {}
        self._opened: dict[str, OpenedFile] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._descriptors.close()
        for file in self._opened.values():
            file.close()

    def file(self, path: str) -> File:
        """The file at an absolute path; each is opened once.

        Raises FileBusyError, NeedsRecoveryError, FileChangedError and what the system and `File` raise.
        """
        if path not in self._files:
            journal.check(path)
            own = _flushed(path)
            opened = self._opened[path] = OpenedFile(path, FileIdentity.of(path))
            descriptor = self._descriptors.enter_context(opened.descriptor())
            if not own:
                check_no_writer(descriptor.fd, path)
            self._files[path] = descriptor.hdf5()
        return self._files[path]

    def size_of(self, path: str) -> int:
        """The size in bytes of a file without a format at an absolute path, which is pinned as the others are."""
        if path not in self._opened:
            opened = self._opened[path] = OpenedFile(path, FileIdentity.of(path))
            self._descriptors.enter_context(opened.descriptor())
        return self._opened[path].identity.size

    def changed(self) -> str | None:
        """The path of a file that somebody has written to since it was opened here; None if there is none."""
        for path, opened in self._opened.items():
            with opened.descriptor() as descriptor:
                if not FileIdentity.of(descriptor.fd).same_version(opened.identity):
                    return path
        return None

    def opened(self) -> Mapping[str, OpenedFile]:
        """The files by path, which are the caller's from now on: to be read at any time, and to be closed."""
        found, self._opened = self._opened, {}
        return found

    def check_unchanged(self) -> None:
        """Raise FileChangedError if somebody has written to one of the files meanwhile."""
        path = self.changed()
        if path is not None:
            raise FileChangedError(f"{path}: the file changes while it is opened")


def _flushed(path: str) -> bool:
    """Whether this process has the file open for writing; what it held back is on the disk then."""
    if not own_writers.may_write():
        return False
    with hdf5_lock():
        return own_writers.flush(path)


def check_no_writer(descriptor: int, path: str) -> None:
    """Raise FileBusyError if another program has the file open for writing: HDF5 locks such a file (`flock`).

    What is in it until it is closed may be half of a change.
    """
    if fcntl is None or os.environ.get("HDF5_USE_FILE_LOCKING", "").upper() in _NO_LOCKS:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise FileBusyError(f"{path}: another process has this file open for writing. Close it there first") from None
    except OSError:  # a file system without locks
        return
    fcntl.flock(descriptor, fcntl.LOCK_UN)
