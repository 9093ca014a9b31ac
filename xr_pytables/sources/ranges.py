"""Ranges of bytes that are worth one request.

Tested in `tests/sources/test_remote.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

GAP: Final = 1 << 19
"""Bytes between two ranges that are read along rather than asked for apart: what a connection of 25 MB/s brings in the
20 ms that a request takes to be answered."""
MOST: Final = 1 << 23
"""Bytes of a request: more are asked for in parts."""
LEAST: Final = 1 << 21
"""Bytes of a part, at least: one connection brings little in a second, and what came can be worked on while others are
under way."""
_SIDE_BY_SIDE: Final = 8  # parts that are worth it
_TOGETHER: Final = 16  # ranges of one request: a server may take many for an attack (RFC 9110, 14.2)
_MOST_TOGETHER: Final = 1 << 20  # bytes of these, for which another connection is not worth it


@dataclass(frozen=True)
class Run:
    """Some of the ranges that are read together."""

    offset: int
    count: int
    """Bytes from the first range to the end of the last."""
    members: tuple[int, ...]
    """Their numbers."""


def merged(ranges: Sequence[tuple[int, int]], gap: int = GAP, most: int = MOST) -> list[Run]:
    """The (offset, count) together where no more than `gap` bytes lie between them, up to `most` bytes in all.

    One that is longer stays whole, and alone. Empty ones are members of some run. The runs are in the order of offsets.
    """
    runs: list[Run] = []
    begin = end = 0
    members: list[int] = []
    for number in sorted(range(len(ranges)), key=ranges.__getitem__):
        offset, count = ranges[number]
        if members and (offset > end + gap or max(end, offset + count) - begin > most):
            runs.append(Run(begin, end - begin, tuple(members)))
            members = []
        if not members:
            begin = end = offset
        members.append(number)
        end = max(end, offset + count)
    if members:
        runs.append(Run(begin, end - begin, tuple(members)))
    return runs


def together(ranges: Sequence[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """The (offset, count) that lie apart, in their order, in groups for one request each. A long one is alone."""
    groups: list[list[tuple[int, int]]] = []
    nbytes = _MOST_TOGETHER
    for one in ranges:
        if nbytes + one[1] > _MOST_TOGETHER or len(groups[-1]) == _TOGETHER:
            groups.append([])
            nbytes = 0
        groups[-1].append(one)
        nbytes += one[1]
    return groups


def part_size(count: int) -> int:
    """How many bytes to ask for at once where `count` are wanted."""
    return min(max(count // _SIDE_BY_SIDE, LEAST), MOST)


def parts(offset: int, count: int, most: int = MOST) -> list[tuple[int, int]]:
    """A range in pieces of nearly equal length, none longer than `most` bytes."""
    number = max(-(-count // most), 1)
    bounds = [offset + count * i // number for i in range(number + 1)]
    return [(start, stop - start) for start, stop in itertools.pairwise(bounds)]
