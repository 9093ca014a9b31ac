"""Room in a new file that many write to at once: who takes a region owns it, and nobody writes anywhere else.

Threads of one process count in memory. Processes, on other machines perhaps, share a folder: each region that is taken
is a symbolic link in it, named by the place where the region begins, with its size and who has it as text. The links
form a chain from the end of the file's structure on. Making one is atomic and fails if there is one, on network file
systems, too; so there is no lock that a dead or frozen process could hold, and what such a process has taken is a hole
in the file and no more. Whoever finishes the file seals the chain; later claims are refused.

Knows no HDF5; what is written is the callers' business.
"""

from __future__ import annotations

import functools
import os
import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ..sources.positioned import pwrite

_ALIGNMENT: Final = 8
_PAGE: Final = 4096
"""Regions of different processes share no page: clients of network file systems write whole pages back."""
_SHARE: Final = 32
"""All that is taken ahead together is at most this part of what is taken already: holes, if nothing comes. With the
ends of pages they shall be less than a twentieth of the file."""
_SMALL_SHARE: Final = 256
_LARGEST: Final = 2**20
"""Bytes that are taken ahead at most, and the part of what is taken already, where nobody says what comes next."""
_SMALL: Final = 2**16
"""Bytes: a system call for each smaller part would cost more than to copy it."""
_CHAIN: Final = "arenas"
_SEALED: Final = "sealed"


class Room(Protocol):
    """Gives out regions of a file."""

    def take(self, nbytes: int, more: int = 0, *, certain: bool = False) -> int:
        """The first byte of a region that nobody else has and that nobody else will get. From any thread.

        `more` are the bytes that the caller expects to need soon; `certain` says that it will need so many.
        """

    def seal(self) -> int:
        """The end of what was taken. Nobody shall take more."""


class OwnRoom:
    """Room for the threads of one process, without holes."""

    def __init__(self, start: int) -> None:
        """`start` is the first free byte."""
        self._end = _aligned(start, _ALIGNMENT)
        self._lock = threading.Lock()

    def take(self, nbytes: int, more: int = 0, *, certain: bool = False) -> int:
        """See Room."""
        with self._lock:
            first = self._end
            self._end = _aligned(first + nbytes, _ALIGNMENT)
        return first

    def seal(self) -> int:
        """See Room."""
        return self._end


@dataclass(frozen=True)
class SharedRoom:
    """Room for all processes that see a folder. Pickles, and can be made before there is a file."""

    folder: str

    def begin(self, start: int) -> int:
        """Start the chain, where the first free byte of the file is, unless an earlier run of this step has.

        The place where the chain begins. To be called before others can see the file.
        """
        # a name of its own tells this chain from one of an attempt that failed and was cleared away
        text = f"{_aligned(start, _PAGE)}-{uuid.uuid4().hex}"
        try:
            os.symlink(text, self._origin)
        except FileExistsError:
            return self._chain()[0]
        except OSError as error:
            raise OSError(
                error.errno,
                f"{self.folder}: several processes can write one file only where the file system has symbolic links. "
                f"Use Dask's threads and compute=True ({error.strerror})",
            ) from error
        return _aligned(start, _PAGE)

    def take(self, nbytes: int, more: int = 0, *, certain: bool = False) -> int:
        """See Room. Raises FileNotFoundError if the file was finished or given up."""
        start, name = self._chain()
        return _holding(self.folder, name, os.getpid()).take(nbytes, start, more, certain)

    def seal(self) -> int:
        """See Room: claims are refused from now on, and each call gives the same."""
        place = _far(self.folder, self._chain()[0])
        while True:
            try:
                os.symlink(_SEALED, _link(self.folder, place))
                return place
            except FileExistsError:
                text = os.readlink(_link(self.folder, place))
                if text == _SEALED:
                    return place
                place += _size(text)

    @property
    def _origin(self) -> str:
        return os.path.join(self.folder, _CHAIN)

    def _chain(self) -> tuple[int, str]:
        start, _, name = os.readlink(self._origin).partition("-")
        return int(start), name


class _Holding:
    """What this process holds of one chain: the rest of a region, and how far the chain is known."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._known = 0
        self._first = self._last = 0  # a region that is ours and free
        self._name = uuid.uuid4().hex[:8]
        self._writers = {self._name}

    def take(self, nbytes: int, start: int, more: int, certain: bool) -> int:
        with self._lock:
            if self._first + nbytes <= self._last:
                return self._cut(self._first, nbytes, self._last)
            self._known = self._known or _far(self._folder, start)
            rest = self._last - self._first
            taken = self._known - start
            sensible = more if certain else min(more, taken // _SHARE // len(self._writers))
            ahead = max(nbytes + sensible, min(_LARGEST, taken // _SMALL_SHARE))
            if rest and self._last == self._known:  # perhaps what comes next is free: then nothing is lost
                place = self._claim_here(_aligned(ahead - rest, _PAGE))
                if place is not None:
                    return self._cut(self._first, nbytes, self._known)
            place = self._claim(_aligned(ahead, _PAGE))
            if self._known - _aligned(place + nbytes, _ALIGNMENT) < rest:
                return place  # and keep the larger rest
            return self._cut(place, nbytes, self._known)

    def _cut(self, first: int, nbytes: int, last: int) -> int:
        """The beginning of a region of ours; the rest is kept."""
        self._first, self._last = _aligned(first + nbytes, _ALIGNMENT), last
        return first

    def _claim(self, size: int) -> int:
        while (place := self._claim_here(size)) is None:
            pass
        return place

    def _claim_here(self, size: int) -> int | None:
        """Take what begins at the known end of the chain; or None, and know of one more that others have taken."""
        place = self._known
        try:
            os.symlink(f"{size}-{self._name}", _link(self._folder, place))
        except FileExistsError:
            text = os.readlink(_link(self._folder, place))
            if text == _SEALED:
                raise FileNotFoundError(f"{self._folder}: the file was finished by others; this is late") from None
            self._known = place + _size(text)
            self._writers.add(text.partition("-")[2])
            return None
        self._known = place + size
        return place


@functools.lru_cache(maxsize=16)
def _holding(folder: str, chain: str, process: int) -> _Holding:
    """By the number of the process: a child must not go on with what its parent holds."""
    return _Holding(folder)


def _size(text: str) -> int:
    return int(text.partition("-")[0])


def _link(folder: str, place: int) -> str:
    return os.path.join(folder, f"{_CHAIN}-{place}")


def _far(folder: str, start: int) -> int:
    """The last place of the chain that a look at the folder shows; `start` if nothing was taken yet."""
    prefix = f"{_CHAIN}-"
    places = (name.removeprefix(prefix) for name in os.listdir(folder) if name.startswith(prefix))
    return max(map(int, places), default=start)


def _aligned(place: int, step: int) -> int:
    return -(-place // step) * step


def write_at(descriptor: int, data: Any, offset: int) -> None:
    """Write all bytes of a contiguous buffer at an offset. Raises OSError, with a full disk say."""
    view = memoryview(data).cast("B")
    while len(view):
        count = pwrite(descriptor, view, offset)
        view, offset = view[count:], offset + count


def write_in_a_row(descriptor: int, parts: Sequence[NDArray[np.uint8]], offset: int) -> None:
    """Write parts one behind the other: small ones in one go, large ones without a copy."""
    if max(part.size for part in parts) < _SMALL:
        parts = [np.concatenate(parts)]
    for part in parts:
        write_at(descriptor, part, offset)
        offset += part.size
