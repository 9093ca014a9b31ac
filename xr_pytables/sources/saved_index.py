"""The bytes that describe an object, saved, so that opening it again asks for nothing but whether it is still the same.

What is saved are the very bytes that were read while a file was described, and where they lie: whoever reads the format
finds them as if they came from the object. So a saved index is trusted no more than a file is.

Tested in `tests/test_indexes.py`.
"""

from __future__ import annotations

import base64
import binascii
import functools
import json
import os
import zlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ..errors import FileChangedError
from .disk_cache import KeptBlocks
from .place import Opened, Version
from .ranges import merged
from .read_ahead import Windows
from .remote import PROBE, Client, ObjectVersion, Remote, RemotePlace, Transfer
from .source import WritableBuffer, flat_view
from .url import local_argument

FORMAT: Final = "xr_pytables index 1"
"""What a file of indexes says that it is."""
_LARGEST: Final = 1 << 30  # bytes of an index that are believed


def find_index(where: object, name: str) -> SavedIndex:
    """The index of the file that messages call `name`: in a file of JSON, or in what such a file says.

    Of a file with one index it is that, whatever the file was called when it was made. Raises ValueError for what holds
    no such index, and what reading a file raises.
    """
    if isinstance(where, str | os.PathLike):
        path = local_argument(where, "index (or what json.load finds in its file)")
        status = os.stat(path)
        label, found = path, _parsed(path, status.st_mtime_ns, status.st_size)
    elif isinstance(where, Mapping):
        label, found = "index", where
    else:
        raise TypeError(f"index must be a path, or what the file there holds, not {type(where).__name__}")
    files = found.get("files") if isinstance(found, Mapping) and found.get("format") == FORMAT else None
    if not isinstance(files, Mapping):
        raise ValueError(f"{label}: this is no index as xr_pytables.save_index writes it")
    one = files.get(name, next(iter(files.values())) if len(files) == 1 else None)
    if one is None:
        raise ValueError(f"{label}: this has no index of {name}")
    try:
        return SavedIndex.of(one)
    except ValueError as error:
        raise ValueError(f"{label}: the index of {name} cannot be used: {error}. Save it again") from None


@functools.lru_cache(maxsize=4)
def _parsed(path: str, modified: int, size: int) -> object:
    """What a file of JSON holds, in the version that was last changed at that time."""
    with open(path, encoding="utf-8") as file:
        try:
            return json.load(file)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: this is no JSON: {error}") from None


@dataclass(frozen=True, eq=False)
class SavedIndex:
    """Parts of one version of an object."""

    version: ObjectVersion
    ranges: tuple[tuple[int, int], ...]
    """(offset, count), ascending, without overlaps."""
    data: bytes = field(repr=False)
    """The bytes of all of them, one behind the other."""

    def __post_init__(self) -> None:
        end = 0
        for offset, count in self.ranges:
            if offset < end or count < 0:
                raise ValueError("its parts overlap")
            end = offset + count
        if end > self.version.size or sum(count for _, count in self.ranges) != len(self.data):
            raise ValueError("its parts do not fit its bytes, or the size of the file")

    def as_dict(self) -> dict[str, Any]:
        """The index as what JSON can hold."""
        version = self.version
        return {
            "size": version.size,
            "tag": version.tag,
            "version": version.number,
            "modified": version.modified,
            "ranges": [number for extent in self.ranges for number in extent],
            "data": base64.b64encode(zlib.compress(self.data, 9)).decode("ascii"),
        }

    @classmethod
    def of(cls, found: object) -> SavedIndex:
        """The index that `as_dict` gave. Raises ValueError for anything else."""
        if not isinstance(found, Mapping):
            raise ValueError("it is no object of JSON")
        words = [found.get(key) for key in ("tag", "version", "modified", "data")]
        size, numbers = found.get("size"), found.get("ranges")
        if not isinstance(size, int) or not isinstance(numbers, list) or len(numbers) % 2:
            raise ValueError("it has no size, or no ranges")
        if not all(type(number) is int and 0 <= number <= size for number in numbers):
            raise ValueError("its ranges are no positions in the file")
        tag, version, modified, text = (word if isinstance(word, str) else "" for word in words)
        if not (tag + version + modified).isprintable():  # they become headers of requests
            raise ValueError("its version has control characters")
        expected = sum(numbers[1::2])
        if expected > _LARGEST:
            raise ValueError(f"it claims to have {expected} bytes")
        try:
            decoder = zlib.decompressobj()
            data = decoder.decompress(base64.b64decode(text, validate=True), expected + 1)
        except (zlib.error, binascii.Error, ValueError) as error:
            raise ValueError(f"its bytes cannot be decoded: {error}") from None
        ranges = tuple(zip(numbers[::2], numbers[1::2], strict=True))
        return cls(ObjectVersion(size, tag, version, modified), ranges, data)


class Recorder(Remote):
    """An object of which it is noted what is read."""

    exact = True
    """Nothing is read for the sake of what lies beside it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._noted = set[tuple[int, int]]()

    def read(self, offset: int, count: int) -> bytes:
        self._noted.add((offset, count))
        return super().read(offset, count)

    def read_into(self, buffer: WritableBuffer, offset: int) -> int:
        count = super().read_into(buffer, offset)
        self._noted.add((offset, count))
        return count

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        self._noted.update(ranges)
        return super().read_many(ranges)

    def arriving(
        self, ranges: Sequence[tuple[int, int]], windows: Windows | None = None
    ) -> Iterator[tuple[int, memoryview]]:
        self._noted.update(ranges)
        return super().arriving(ranges, None)

    def index(self, others: Sequence[Recorder] = ()) -> SavedIndex:
        """What was read until now, by others of the same version too."""
        noted = self._noted.union(*(other._noted for other in others))
        runs = merged(sorted((offset, count) for offset, count in noted if count), 0, self.size)
        data = [super(Recorder, self).read(run.offset, run.count) for run in runs]
        return SavedIndex(self.version, tuple((run.offset, run.count) for run in runs), b"".join(data))


class Indexed(Remote):
    """An object of which some parts are known already."""

    exact = True

    def __init__(
        self, index: SavedIndex, client: Client, name: str, transfer: Transfer, kept: KeptBlocks | None
    ) -> None:
        super().__init__(client, name, index.version, transfer, kept=kept)
        self._starts = [offset for offset, _ in index.ranges]
        self._parts, at, view = list[memoryview](), 0, memoryview(index.data)
        for _, count in index.ranges:
            self._parts.append(view[at : at + count])
            at += count

    def known(self, offset: int, count: int) -> memoryview | None:
        """The bytes of a range, if all of it is known."""
        number = bisect_right(self._starts, offset) - 1
        if number < 0:
            return None
        start = offset - self._starts[number]
        found = self._parts[number][start : start + count]
        return found if len(found) == count else None

    def read(self, offset: int, count: int) -> bytes:
        found = self.known(offset, count)
        return super().read(offset, count) if found is None else bytes(found)

    def read_into(self, buffer: WritableBuffer, offset: int) -> int:
        view = flat_view(buffer)
        found = self.known(offset, len(view))
        if found is None:
            return super().read_into(buffer, offset)
        view[:] = found
        return len(view)

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        found = [self.known(*extent) for extent in ranges]
        missing = [extent for extent, part in zip(ranges, found, strict=True) if part is None]
        others = iter(super().read_many(missing))
        return [next(others) if part is None else bytes(part) for part in found]

    def arriving(
        self, ranges: Sequence[tuple[int, int]], windows: Windows | None = None
    ) -> Iterator[tuple[int, memoryview]]:
        found = {number: part for number, extent in enumerate(ranges) if (part := self.known(*extent)) is not None}
        if not found:
            return super().arriving(ranges, windows)
        rest = [number for number in range(len(ranges)) if number not in found]
        others = super().arriving([ranges[number] for number in rest], windows)
        return (pair for pairs in (found.items(), ((rest[i], data) for i, data in others)) for pair in pairs)


@dataclass(frozen=True)
class IndexedPlace(RemotePlace):
    """An object with its saved index."""

    index: SavedIndex | None = field(default=None, compare=False)

    @classmethod
    def by(cls, place: RemotePlace, index: SavedIndex) -> IndexedPlace:
        return cls(place.target, place.path, place.transfer, index)

    def made(self, client: Client, version: ObjectVersion, head: bytes = b"") -> Remote:
        assert self.index is not None
        return Indexed(self.index, client, self.path, self.transfer, self.kept(version))

    def open(self, version: Version | None) -> Opened:
        """One small request tells whether the object is still the one of which the index was made."""
        assert self.index is not None
        if version is None:
            try:
                source = Remote(self.target.client(), self.path, self.index.version, self.transfer)
                source.ask(0, min(PROBE, source.size))
            except FileChangedError as error:
                raise FileChangedError(f"{error}. The index is of another version: save it again") from None
        return super().open(self.index.version)


@dataclass(frozen=True)
class RecordedPlace(RemotePlace):
    """An object of which an index is made."""

    recorders: list[Recorder] = field(default_factory=list, compare=False)

    def made(self, client: Client, version: ObjectVersion, head: bytes = b"") -> Remote:
        recorder = Recorder(client, self.path, version, self.transfer, head=head, kept=self.kept(version))
        self.recorders.append(recorder)
        return recorder
