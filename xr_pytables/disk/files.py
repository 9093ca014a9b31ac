"""Files on disk: which version of a file was opened, and descriptors of it."""

from __future__ import annotations

import os
import platform
import stat
import weakref
from dataclasses import dataclass
from typing import Final, Self

from ..errors import FileChangedError
from ..hdf5.file import File
from ..sources.local import LocalFile
from ..sources.place import Opened, Place, Version
from ..sources.source import named
from ..sources.url import is_url, shown

_HOST: Final = platform.node()


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
        try:
            if expected is not None and not self.version().same_file(expected):
                raise FileChangedError(f"{path}: another file has taken this path since it was opened. Open it again")
        except BaseException:
            os.close(self.fd)
            raise

    @property
    def source(self) -> LocalFile:
        """The bytes of the file, as many as there are now."""
        return LocalFile(self.fd, self.path)

    def version(self) -> FileIdentity:
        """What the file is now."""
        try:
            return FileIdentity.of(self.fd)
        except OSError as error:
            raise named(error, self.path) from None

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


def open_now(place: Place, version: Version | None = None) -> Opened:
    """The file at a place, in a version or in the one that it has now. Raises FileChangedError and OSError."""
    opened = place.open(version)
    _opened.add(opened)
    return opened


def _after_fork_in_child() -> None:
    """What readers keep begins anew in a child: threads that are gone may have held its locks."""
    for opened in list(_opened):
        opened.kept = {}


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def hdf5_of(opened: Opened) -> File:
    """The objects of a file as it is now."""
    return File(opened.source)
