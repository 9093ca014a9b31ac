"""The one door: how a file is looked into, by whoever wants to know what it holds.

What a dead writer left is put back, what this process holds back is written, a file that another process is writing is
refused, and the version that is looked at is pinned by a descriptor.

Tested in `tests/disk/test_door.py`, `tests/disk/test_files.py`, `tests/disk/test_own_writers.py` and
`tests/test_bad_input.py`.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping
from dataclasses import replace
from mmap import mmap
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from ..errors import FileBusyError, FileChangedError, RemoteError
from ..hdf5.file import File
from ..sources.disk_cache import MOST, DiskCache
from ..sources.file_object import naming_the_object
from ..sources.place import BytesPlace, FileObjectPlace, Opened, Place, Version
from ..sources.remote import RemotePlace, Transfer
from ..sources.source import printable
from ..sources.url import is_url, local_argument, local_path
from . import journal, own_writers
from .files import Descriptor, LocalPlace, checked_group, checked_path, hdf5_of, open_now
from .open_nodes import is_open_node, place_of_node

if TYPE_CHECKING:
    from .opened_files import OpenedFile

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_TRANSFER: Final = Transfer()
_NO_LOCKS: Final = frozenset({"FALSE", "0"})


def located(what: object, group: object, **options: Any) -> tuple[Place, str]:
    """Where the file is that a user names, and the group in it: `place_of`, and open objects of PyTables.

    For those `group` counts from the node.
    """
    if not is_open_node(what):
        return place_of(what, **options), checked_group(group)
    if options.get("store") is not None:
        raise TypeError("with store= a path in that store is needed, not an open object of PyTables")
    _refuse_options(options.get("storage_options"), "an open object of PyTables")
    return place_of_node(what, group)


def place_of(
    what: object,
    *,
    storage_options: Mapping[str, Any] | None = None,
    store: object = None,
    index: object = None,
    transfer: Transfer = _TRANSFER,
) -> Place:
    """Where the file is that a user names: a path, a URL, bytes, a file object, a path in an obstore store.

    With `index` that of an object, as `saved_index.find_index` takes it.

    Raises TypeError for what names no file, ValueError for options that have no effect on it; FileNotFoundError and
    IsADirectoryError for a path.
    """
    if not isinstance(storage_options, Mapping | None):
        raise TypeError(f"storage_options must be a dict, not {type(storage_options).__name__}")
    place = _place_of(what, storage_options, store, transfer)
    if index is None:
        return place
    if not isinstance(place, RemotePlace):
        raise ValueError(f"index has no effect on {place.path}: it is for files in object stores")
    from ..sources.saved_index import IndexedPlace, find_index  # late, as few files have one

    return IndexedPlace.by(place, find_index(index, place.path))


def _place_of(what: object, storage_options: Mapping[str, Any] | None, store: object, transfer: Transfer) -> Place:
    if isinstance(what, RemotePlace):
        return what
    if store is not None:
        if not isinstance(what, str):
            raise TypeError(f"with store= a path in that store is needed, not {type(what).__name__}")
        from ..sources.obstore_objects import StoreTarget  # late, as what follows: most files are on this machine

        _refuse_options(storage_options, "a file in a store, which has options of its own")
        return RemotePlace.of(StoreTarget(store, what), transfer)
    filesystem, path = getattr(what, "fs", None), getattr(what, "path", None)
    if filesystem is not None and isinstance(path, str):  # a file object of fsspec, or a path of universal_pathlib
        _refuse_options(storage_options, "a file object, which has options of its own")
        if getattr(what, "compression", None):
            raise TypeError(
                f"{path}: a file that is compressed as a whole cannot be read here and there. Unpack it first"
            )
        if "file" in type(filesystem).protocol:
            return LocalPlace(checked_path(path))
        from ..sources.filesystems import FilesystemTarget

        return RemotePlace.of(FilesystemTarget(filesystem, path), transfer)
    text = os.fspath(what) if isinstance(what, str | os.PathLike) else None
    if isinstance(text, str) and is_url(text):
        if (local := local_path(text)) is not None:
            _refuse_options(storage_options, "a file on this machine")
            return LocalPlace(checked_path(local))
        from ..sources.filesystems import UrlTarget

        return RemotePlace.of(UrlTarget(text, dict(storage_options or {})), transfer)
    _refuse_options(storage_options, "what is no URL")
    if isinstance(what, bytes | bytearray | memoryview | mmap):
        return BytesPlace(memoryview(what) if isinstance(what, mmap) else what)
    if isinstance(what, io.BytesIO):
        with naming_the_object("<BytesIO>"):
            return BytesPlace(what.getvalue(), "<BytesIO>")
    if hasattr(what, "read") and hasattr(what, "seek"):
        return _place_of_file_object(what)
    return LocalPlace(checked_path(what))


def checked_transfer(
    concurrency: object = None,
    gap: object = None,
    timeout: object = None,
    cache_dir: object = None,
    cache_bytes: object = None,
) -> Transfer:
    """How to ask for bytes; None leaves what is usual. Raises ValueError, naming the argument."""
    given: dict[str, Any] = {}
    for name, value, least in (("concurrency", concurrency, 1), ("gap", gap, 0), ("cache_bytes", cache_bytes, 1)):
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name} must be an integer of at least {least}, not {value!r}")
        given[name] = value
    if timeout is not None:
        if not isinstance(timeout, int | float) or isinstance(timeout, bool) or not 0 < timeout < math.inf:
            raise ValueError(f"timeout must be a number of seconds above 0, not {timeout!r}")
        given["timeout"] = float(timeout)
    most = given.pop("cache_bytes", MOST)
    if cache_dir is not None:
        folder = os.fspath(cache_dir) if isinstance(cache_dir, os.PathLike) else cache_dir
        if not isinstance(folder, str) or not folder or "\0" in folder:
            raise ValueError(f"cache_dir must be the path of a folder, not {cache_dir!r}")
        given["cache"] = DiskCache(local_argument(folder, "cache_dir"), most)
    elif cache_bytes is not None:
        raise ValueError("cache_bytes has no effect without cache_dir")
    return replace(_TRANSFER, **given)


def _refuse_options(options: Mapping[str, Any] | None, what: str) -> None:
    if options:
        raise ValueError(f"storage_options has no effect on {what}")


def _place_of_file_object(file: Any) -> Place:
    """A file that has a path of its own is opened by that, so that threads need not share its position."""
    name = getattr(file, "name", None)
    try:
        plain = isinstance(getattr(file, "file", file), io.BufferedReader | io.BufferedRandom | io.FileIO)
        if plain and isinstance(name, str | os.PathLike) and os.path.samestat(os.fstat(file.fileno()), os.stat(name)):
            return LocalPlace(checked_path(name))
    except (OSError, ValueError, AttributeError, TypeError):
        pass
    label = printable(name) if isinstance(name, str) else f"<{type(file).__name__}>"
    with naming_the_object(label):
        nothing = file.read(0)
    if not isinstance(nothing, bytes):
        raise TypeError(f"a file object opened in binary mode is needed: open({name!r}, 'rb')")
    return FileObjectPlace(file, label)


class Visit:
    """The files that one opening looks into, each in the version that it has at first sight.

    Leaving the block closes those that were not taken over by `opened`.
    """

    def __init__(self) -> None:
        self._files: dict[str, File] = {}
        self._opened: dict[str, tuple[Opened, Version]] = {}
        self._places: dict[str, Place] = {}
        self._failure: RemoteError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for opened, _ in self._opened.values():
            opened.close()

    def file(self, place: Place | str) -> File:
        """The file at a place, or at an absolute path; each is opened once.

        Raises FileBusyError, NeedsRecoveryError, FileChangedError, RemoteError and what the system and `File` raise.
        """
        if isinstance(place, str):
            place = LocalPlace(place)
        path = place.path
        key = os.path.realpath(path) if isinstance(place, LocalPlace) else path
        if key not in self._files:
            try:
                self._files[key] = self._first_look(place)
            except RemoteError as error:
                self._failure = error
                raise
        return self._files[key]

    def _first_look(self, place: Place) -> File:
        path, local = place.path, isinstance(place, LocalPlace)
        if local:
            journal.check(path)
        own = local and _flushed(path)
        opened, _ = self._open(place)
        if isinstance(opened, Descriptor) and not own:
            check_no_writer(opened.fd, path)
        return hdf5_of(opened)

    def _open(self, place: Place) -> tuple[Opened, Version]:
        """What is open at a place, once for all who ask: links to a file without sense, raw data in one with sense."""
        if place.path not in self._opened:
            self._places[place.path] = place
            opened = open_now(place)
            try:
                self._opened[place.path] = opened, opened.version()
            except BaseException:
                opened.close()
                raise
        return self._opened[place.path]

    def linked(self, path: str, target: str) -> File:
        """The file to which an external link leads: `target` as it stands in the file that was opened as `path`.

        Raises OSError if it is nowhere.
        """
        return self.file(self._beside(path, target))

    def raw(self, path: str, target: str) -> tuple[str, int]:
        """Path and size in bytes of a file without a format, named and pinned as those of `linked`."""
        place = self._beside(path, target)
        return place.path, self._open(place)[1].size

    def _beside(self, path: str, target: str) -> Place:
        """Where the file is that the one opened as `path` names. Raises FileNotFoundError if there is none."""
        place = self._places[path].beside(target)
        if isinstance(place, LocalPlace) and not os.path.isfile(place.path):
            raise FileNotFoundError(f"there is no file {printable(place.path)}")
        return place

    def changed(self) -> str | None:
        """The path of a file that somebody has written to since it was opened here; None if there is none.

        Raises RemoteError if bytes of a file could not be had: what was made of it may be without them.
        """
        if self._failure is not None:
            raise self._failure
        for path, (opened, version) in self._opened.items():
            if isinstance(opened.failure, RemoteError):
                raise opened.failure
            if opened.failure is not None or not opened.version().same_version(version):
                return path
        return None

    def opened(self) -> Mapping[str, OpenedFile]:
        """The files by path, which are the caller's from now on: to be read at any time, and to be closed."""
        from .opened_files import OpenedFile  # late, as is said there

        return {path: OpenedFile.of(self._places[path], *self._opened.pop(path)) for path in [*self._opened]}

    def check_unchanged(self) -> None:
        """Raise FileChangedError if somebody has written to one of the files meanwhile."""
        path = self.changed()
        if path is not None:
            raise FileChangedError(f"{path}: the file changes while it is opened")


def _flushed(path: str) -> bool:
    """Whether this process has the file open for writing; what it held back is on the disk then."""
    if not own_writers.may_write():
        return False
    from .opened_files import hdf5_lock  # late, as is said there

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
