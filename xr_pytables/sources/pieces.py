"""Pieces of several sources, one behind the other as if they were one.

Tested in `tests/sources/test_sources.py`.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .source import Source, WritableBuffer, cut_off, flat_view, in_range, printable


class Piece(NamedTuple):
    """Some bytes of a source."""

    source: Source
    offset: int
    size: int
    """In bytes."""


class Pieces:
    """The bytes of all pieces. The sources stay the caller's to close."""

    def __init__(self, pieces: Sequence[Piece], name: str) -> None:
        self.path, self.name = name, printable(name)
        self._pieces = list(pieces)
        self._ends, self.size = list[int](), 0
        for piece in pieces:
            self.size += piece.size
            self._ends.append(self.size)

    def read(self, offset: int, count: int) -> bytes:
        in_range(self, offset, count)
        return b"".join([source.read(start, length) for source, start, length in self._touched(offset, count)])

    def read_into(self, buffer: WritableBuffer, offset: int) -> int:
        view, done = flat_view(buffer), 0
        for source, start, length in self._touched(offset, len(view)):
            if source.read_into(view[done : done + length], start) < length:
                raise cut_off(source, start, length)
            done += length
        return done

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        return [self.read(offset, count) for offset, count in ranges]

    def _touched(self, offset: int, count: int) -> Iterator[Piece]:
        """What lies where of `count` bytes from `offset`, as far as there are any."""
        number = bisect.bisect_right(self._ends, offset)
        end = min(offset + count, self.size)
        while offset < end:
            source, start, size = self._pieces[number]
            before = offset - (self._ends[number] - size)
            length = min(size - before, end - offset)
            if length:
                yield Piece(source, start + before, length)
            offset += length
            number += 1
