"""Blocks of Dask arrays: which part of its array each is, and tasks that put each to its place.

`dask.array.store` would do the latter, but passes over blocks that are empty or None, which nobody would look at then.

Tested in `tests/writing/test_new_file.py` and `tests/writing/test_cf_encoding.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import dask.array

from .alignment import Blocks

Side = range | tuple[int, ...]
"""Where the blocks along a dimension begin, in elements; the last item of a tuple is where the last one ends.

A range if all are of one size but for the last, which may be smaller: each task has this, and there may be many.
"""


def sides_of(blocks: Blocks) -> tuple[Side, ...]:
    """Where the blocks of an array are, by their sizes."""
    return tuple(map(_side, blocks))


def _side(sizes: tuple[int, ...]) -> Side:
    if sizes and 0 < sizes[-1] <= sizes[0] and all(size == sizes[0] for size in sizes[:-1]):
        return range(0, sum(sizes), sizes[0])
    return tuple(itertools.accumulate(sizes, initial=0))


def part(sides: Sequence[Side], block_id: Sequence[int]) -> tuple[slice, ...]:
    """The elements of one block."""
    return tuple(itertools.starmap(_slice, zip(sides, block_id, strict=True)))


def _slice(side: Side, number: int) -> slice:
    if isinstance(side, range):
        return slice(side[number], min(side[number] + side.step, side.stop))
    return slice(side[number], side[number + 1])


def put(arrays: Sequence[dask.array.Array], targets: Sequence[Any]) -> list[dask.array.Array]:
    """What is to be computed so that each block of an array is put to its place in the target, in a task with it.

    Targets take blocks as `target[part] = block`; they may be Delayed.
    """
    return [
        array.map_blocks(_put, target, sides_of(array.chunks), dtype=array.dtype, meta=array._meta)
        for array, target in zip(arrays, targets, strict=True)
    ]


def _put(block: Any, target: Any, sides: tuple[Side, ...], block_id: tuple[int, ...] = ()) -> None:
    target[part(sides, block_id)] = block
