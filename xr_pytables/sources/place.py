"""Where a file is: what gives its bytes, now or later, in this process or another.

A place is a plain value with one verb, `open`. It pickles if what it names can be reached from elsewhere, and never
shows credentials. Whatever can be opened is one: a local path (`files.LocalPlace`), an object behind a network
(`remote.RemotePlace`), bytes, a file object.

Tested in `tests/disk/test_door.py`.
"""

from __future__ import annotations

import threading
import uuid
import weakref
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import BinaryIO, NoReturn, Protocol, Self

from .buffer import Buffer
from .file_object import FileObject
from .source import Source


class Version(Protocol):
    """Which version of a file. Equal ones mean the same bytes, as far as can be told. Pickles."""

    @property
    def size(self) -> int:
        """In bytes."""

    def same_version(self, other: Self) -> bool:
        """Whether the content has not changed."""

    def __hash__(self) -> int:
        """Caches have it in their keys."""


class Opened(ABC):
    """One version of a file, ready to be read, and what readers keep as long as it is open."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.kept: dict[str, object] = {}
        """By path of a node. Readers in several threads use `dict.setdefault`, which is atomic."""

    @property
    @abstractmethod
    def source(self) -> Source:
        """The bytes of the file, as many as there are now."""

    @abstractmethod
    def version(self) -> Version:
        """The version that the file has now."""

    @property
    def failure(self) -> OSError | None:
        """What went wrong when bytes were asked for last, where whoever asked may have passed over it."""
        return None

    @abstractmethod
    def close(self) -> None:
        """Give back what belongs to the system."""


class Place(Protocol):
    """Names a file. Hashable, equal if it names the same in the same way."""

    @property
    def path(self) -> str:
        """What messages and `encoding["source"]` call it. Has no credentials."""

    def open(self, version: Version | None) -> Opened:
        """The file in this version, or in the one that it has now. Raises FileChangedError and OSError."""

    def beside(self, path: str) -> Place:
        """The file at the path that an external link of this one gives. FileNotFoundError where there can be none."""


@dataclass(frozen=True)
class Whole:
    """The version of bytes that never change."""

    size: int

    def same_version(self, other: Whole) -> bool:
        return self == other


class _InMemory(Opened):
    """A source that needs no closing."""

    def __init__(self, source: Source) -> None:
        super().__init__(source.path)
        self._source = source

    @property
    def source(self) -> Source:
        return self._source

    def version(self) -> Whole:
        return Whole(self._source.size)

    def close(self) -> None:
        pass


def _no_links(path: str, what: str) -> NoReturn:
    raise FileNotFoundError(f"{path}: the file is {what}, which has nothing beside it")


@dataclass(frozen=True)
class BytesPlace:
    """Bytes in memory. Pickles with all of them."""

    data: bytes | bytearray | memoryview = field(repr=False, compare=False)
    path: str = "<bytes>"
    key: str = field(default_factory=lambda: uuid.uuid4().hex, repr=False)
    """Tells it from others."""

    def open(self, version: Version | None) -> Opened:
        return _InMemory(Buffer(self.data, self.path))

    def beside(self, path: str) -> Place:
        _no_links(self.path, "bytes in memory")

    def __reduce__(self) -> tuple[type[BytesPlace], tuple[bytes, str, str]]:
        return BytesPlace, (bytes(self.data), self.path, self.key)


_finding = threading.Lock()
_locks: weakref.WeakValueDictionary[int, threading.Lock] = weakref.WeakValueDictionary()
"""By `id` of file objects: whoever has a lock keeps its file object alive."""


@dataclass(frozen=True)
class FileObjectPlace:
    """A seekable file object opened in binary mode. Its position moves; it has to stay open, and cannot be pickled."""

    file: BinaryIO = field(repr=False, compare=False)
    path: str
    key: str = field(default_factory=lambda: uuid.uuid4().hex, repr=False)
    _lock: threading.Lock = field(init=False, repr=False, compare=False)
    """One for all places with this file object: they share its position."""

    def __post_init__(self) -> None:
        with _finding:
            object.__setattr__(self, "_lock", _locks.setdefault(id(self.file), threading.Lock()))

    def open(self, version: Version | None) -> Opened:
        return _InMemory(FileObject(self.file, self.path, lock=self._lock))

    def beside(self, path: str) -> Place:
        _no_links(self.path, "a file object")

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{self.path}: a {type(self.file).__name__} cannot be sent to another process, and so nothing that reads "
            "from it. Open the file by its path or URL"
        )
