"""Bytes that are in memory already: `bytes`, a memoryview, an `mmap`.

Tested in `tests/sources/test_sources.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from mmap import mmap

from .source import WritableBuffer, flat_view, in_range, printable


class Buffer:
    """A buffer as a file; it must not change as long as it is read."""

    def __init__(self, data: bytes | bytearray | memoryview | mmap, name: str = "<bytes>") -> None:
        self._view = memoryview(data).cast("B").toreadonly()
        self.path, self.name = name, printable(name)
        self.size = len(self._view)

    def read(self, offset: int, count: int) -> bytes:
        in_range(self, offset, count)
        return bytes(self._view[offset : offset + count])

    def read_into(self, buffer: WritableBuffer, offset: int) -> int:
        view, found = flat_view(buffer), self._view[offset:]
        count = min(len(view), len(found))
        view[:count] = found[:count]
        return count

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        return [self.read(offset, count) for offset, count in ranges]
