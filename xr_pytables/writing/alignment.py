"""Blocks of a Dask array against chunks on disk: do two tasks share a chunk, and which blocks would not?

Knows integers only. Places are elements of the array on disk, of which the blocks may be a part that begins at `start`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

Blocks = tuple[tuple[int, ...], ...]
"""Sizes of the blocks along each dimension, as `dask.array.Array.chunks`."""


@dataclass(frozen=True)
class Conflict:
    """The first border between two blocks that lies inside a chunk."""

    axis: int
    border: int
    """First element of the second block."""
    chunk: tuple[int, int]
    """First element of the chunk that both share, and the one after its last."""


def conflict(blocks: Blocks, chunkshape: Sequence[int], start: Sequence[int]) -> Conflict | None:
    """Where two blocks share a chunk; None if each chunk is touched by one block only."""
    for axis, (sizes, chunk, begin) in enumerate(zip(blocks, chunkshape, start, strict=True)):
        end = begin + sum(sizes)
        for border in itertools.accumulate(sizes[:-1], initial=begin):
            if border % chunk and begin < border < end:
                first = border // chunk * chunk
                return Conflict(axis, border, (first, first + chunk))
    return None


def aligned(blocks: Blocks, chunkshape: Sequence[int], start: Sequence[int]) -> Blocks:
    """The blocks with each border moved to the nearest border of a chunk: none grows by more than a chunk."""
    return tuple(_aligned(*each) for each in zip(blocks, chunkshape, start, strict=True))


def _aligned(sizes: tuple[int, ...], chunk: int, begin: int) -> tuple[int, ...]:
    end = begin + sum(sizes)
    moved = {(border + chunk // 2) // chunk * chunk for border in itertools.accumulate(sizes[:-1], initial=begin)}
    borders = [begin, *sorted(border for border in moved if begin < border < end), end]
    return tuple(after - before for before, after in itertools.pairwise(borders))
