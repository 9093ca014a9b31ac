"""Bytes of objects behind a network, kept on disk for the next time: only in a folder that a user names for it.

`FOLDER/xr-pytables-blocks/<object>/<version>/<first block>-<number of blocks>` has blocks side by side, then a checksum
of each of them. Nothing is looked into, counted or removed but regular files and folders with names of just this form.
Files are written beside their place and renamed, so that processes share a folder without a lock: what is missing, cut
off, or does not have its checksum is asked for again. Which object and version they are of is in the names of the
folders, as a digest. When there is too much, the files that were used longest ago go.

Tested in `tests/sources/test_disk_cache.py`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import struct
import uuid
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from .positioned import BINARY, pread

BLOCK: Final = 1 << 16
"""Bytes that are kept, or not, together."""
MOST: Final = 10 << 30
"""Bytes that a folder holds, if the user does not say."""
_SHARE: Final = 16  # one in so many bytes of the most is written before anybody looks how much there is
_BLOCKS: Final = "xr-pytables-blocks"
_DIGEST: Final = re.compile(r"[0-9a-f]{40}")
_NAME: Final = re.compile(r"(0|[1-9][0-9]*)-([1-9][0-9]*)")
_BESIDE: Final = re.compile(r"\.[0-9a-f]{32}")
"""What a file is called until it is whole."""
_SUM: Final = struct.Struct("<I")
_written: dict[str, int] = {}
"""Bytes that this process has written to each folder since it looked how much there is."""


@dataclass(frozen=True)
class DiskCache:
    """A folder for blocks, about `most` bytes of them."""

    folder: str
    """An absolute path."""
    most: int = MOST

    @property
    def blocks(self) -> str:
        """The folder in it that has nothing but blocks."""
        return os.path.join(self.folder, _BLOCKS)

    def prepare(self) -> None:
        """Make the folders. Raises PermissionError for one that others own or may enter, other OSErrors."""
        for folder in (self.folder, self.blocks):
            try:
                os.makedirs(folder, mode=0o700, exist_ok=True)
                status = os.stat(folder)
            except OSError as error:
                reason = f"cache_dir must be a folder, or a path where one can be made ({error.strerror}). Name another"
                raise OSError(error.errno, reason, folder) from error
            if hasattr(os, "getuid") and (status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077):
                raise PermissionError(
                    f"{folder}: what is kept of files must belong to this user (it belongs to {status.st_uid}), and "
                    f"nobody else may enter (the mode is {stat.S_IMODE(status.st_mode):o}, expected 700). Name another "
                    "folder as cache_dir, or one that is not there yet"
                )

    def knows(self, key: str) -> bool:
        """Whether something may be kept of an object."""
        return os.path.isdir(os.path.join(self.blocks, _digest(key)))

    def of(self, key: str, version: Sequence[str], size: int) -> KeptBlocks | None:
        """What is kept of a version of an object of `size` bytes; None if nothing tells it from others."""
        if not any(version):
            return None
        return KeptBlocks(self, os.path.join(self.blocks, _digest(key), _digest(repr([size, *version]))), size)

    def note(self, count: int) -> None:
        """Bytes were written: look, now and then, whether they are too many."""
        written = _written.get(self.folder, self.most) + count
        if written * _SHARE >= self.most:
            written = 0
            self._tidy()
        _written[self.folder] = written

    def _tidy(self) -> None:
        found = sorted(_files(self.blocks, 2))
        total = sum(size for _, size, _ in found)
        for _, size, path in found:
            if total <= self.most:
                break
            with contextlib.suppress(OSError):  # another process was there first
                os.unlink(path)
                for folder in (os.path.dirname(path), os.path.dirname(os.path.dirname(path))):
                    os.rmdir(folder)
            total -= size


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:40]


def _files(folder: str, depth: int) -> Iterator[tuple[float, int, str]]:
    """(time of the last use, bytes, path) of all files of blocks that lie so many folders deeper."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if depth:
                    if _DIGEST.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                        yield from _files(entry.path, depth - 1)
                elif _is_ours(entry):
                    status = entry.stat(follow_symlinks=False)
                    yield status.st_mtime, status.st_size, entry.path
    except OSError:  # it has gone meanwhile
        return


def _is_ours(entry: os.DirEntry[str]) -> bool:
    """Whether a file is one of blocks, or was to become one."""
    named = _NAME.fullmatch(entry.name) or _BESIDE.fullmatch(entry.name)
    return named is not None and entry.is_file(follow_symlinks=False)


class KeptBlocks:
    """The blocks of one version of an object. Safe from several threads and processes."""

    def __init__(self, cache: DiskCache, folder: str, size: int) -> None:
        self._cache, self._folder, self._size = cache, folder, size
        self._where: dict[int, str] | None = None
        """The file that has a block, by number."""
        self._used = set[str]()

    def read(self, blocks: range) -> dict[int, bytes]:
        """Those of the blocks that are kept, by number."""
        where = self._listed()
        found = dict[int, bytes]()
        for number in blocks:
            if number not in found and number in where:
                found.update(self._of_file(where[number], range(number, blocks.stop)))
        return found

    def write(self, first: int, data: bytes) -> None:
        """Keep whole blocks (the last of the object may be shorter). What does not work is left undone."""
        pieces = [data[at : at + BLOCK] for at in range(0, len(data), BLOCK)]
        name = f"{first}-{len(pieces)}"
        whole = b"".join([data, *(_SUM.pack(zlib.crc32(piece)) for piece in pieces)])
        path = os.path.join(self._folder, name)
        if len(whole) > self._cache.most:
            return
        beside = os.path.join(self._folder, f".{uuid.uuid4().hex}")
        try:
            for folder in (self._cache.blocks, os.path.dirname(self._folder), self._folder):
                os.makedirs(folder, mode=0o700, exist_ok=True)
            with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | BINARY, 0o600), "wb") as file:
                file.write(whole)
            os.replace(beside, path)
        except OSError:  # the disk is full, or somebody has tidied up
            with contextlib.suppress(OSError):
                os.unlink(beside)
            return
        self._listed().update(dict.fromkeys(range(first, first + len(pieces)), name))
        self._cache.note(len(whole))

    def _listed(self) -> dict[int, str]:
        if self._where is None:
            self._where = {}
            with contextlib.suppress(OSError), os.scandir(self._folder) as entries:
                for entry in entries:
                    if _is_ours(entry):  # opening a pipe would wait for ever
                        self._where.update(dict.fromkeys(self._extent(entry.name), entry.name))
        return self._where

    def _of_file(self, name: str, blocks: range) -> dict[int, bytes]:
        """The blocks that a file has from the first of `blocks` on; a file in which one is wrong is removed."""
        path = os.path.join(self._folder, name)
        extent = self._extent(name)
        begin, stop = extent.start, min(extent.stop, blocks.stop)
        wanted = range(blocks.start, stop)
        sums_at = min(extent.stop * BLOCK, self._size) - begin * BLOCK
        low, high = (wanted.start - begin) * BLOCK, min((stop - begin) * BLOCK, sums_at)
        try:
            with open(path, "rb", buffering=0) as file:
                data = pread(file.fileno(), high - low, low)
                sums = pread(file.fileno(), _SUM.size * len(wanted), sums_at + _SUM.size * (wanted.start - begin))
            if name not in self._used:
                self._used.add(name)
                os.utime(path)
        except OSError:  # removed by whoever tidied up
            data = sums = b""
        found = {number: data[at : at + BLOCK] for number, at in zip(wanted, range(0, high - low, BLOCK), strict=True)}
        if b"".join(_SUM.pack(zlib.crc32(piece)) for piece in found.values()) == sums:
            return found
        self._where = {number: other for number, other in self._listed().items() if other != name}
        with contextlib.suppress(OSError):
            os.unlink(path)
        return {}

    def _extent(self, name: str) -> range:
        """The blocks that the name of a file says; none for a file of something else, or beyond the object."""
        found = _NAME.fullmatch(name)
        extent = range(int(found[1]), int(found[1]) + int(found[2])) if found else range(0)
        return extent if extent.stop <= -(-self._size // BLOCK) else range(0)
