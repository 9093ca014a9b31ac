"""Selections of elements as files store them (VIII.A): what a virtual dataset takes from where.

Tested in `tests/hdf5/test_structures.py` and `tests/hdf5/test_oracles.py`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, Literal

from .damage import Damaged, Unsupported, check_version, taken
from .dataspace import MAX_RANK, UNLIMITED

_NONE, _POINTS, _HYPERSLAB, _ALL = range(4)
_MAX_BLOCKS: Final = 1 << 20
_WIDTHS: Final = {2: "H", 4: "I", 8: "Q"}

Box = tuple[tuple[int, ...], tuple[int, ...]]
"""First elements, and the elements behind the last, along each dimension."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Elements of an array. Two selections correspond element by element, each in row-major order."""

    kind: Literal["all", "none", "hyperslab", "boxes", "points"]
    start: tuple[int, ...] = ()
    """Of a hyperslab: the first element along each dimension."""
    stride: tuple[int, ...] = ()
    """From the start of one block to that of the next."""
    count: tuple[int, ...] = ()
    """Blocks along each dimension; UNLIMITED for as many as there are."""
    block: tuple[int, ...] = ()
    """Elements of a block along each dimension; UNLIMITED for as many as there are."""
    boxes: tuple[Box, ...] = ()
    points: tuple[tuple[int, ...], ...] = ()


def decode_selection(data: bytes, place: int) -> tuple[Selection, int]:
    """The selection that begins at `place`, and where the bytes behind it begin."""
    kind, version = struct.unpack_from("<II", data, place)
    place += 8
    if kind in (_ALL, _NONE):
        check_version(version, 1)
        taken(data, place, 8)
        return Selection("all" if kind == _ALL else "none"), place + 8
    if kind == _HYPERSLAB:
        check_version(version, 1, 2, 3)
        return _hyperslab(data, place, version)
    if kind == _POINTS:
        check_version(version, 1, 2)
        return _points(data, place, version)
    raise Unsupported(f"the kind {kind} of selections is unknown")


def _hyperslab(data: bytes, place: int, version: int) -> tuple[Selection, int]:
    regular, width = version == 2, 8 if version == 2 else 4
    if version == 3:
        regular, width, place = bool(data[place] & 1), data[place + 1], place + 2
    else:
        place += 8 if version == 1 else 5  # reserved bytes or flags, and a length
    rank = _rank(data, place)
    place += 4
    if regular:
        numbers, place = _numbers(data, place, width, 4 * rank)
        start, stride, count, block = numbers[::4], numbers[1::4], numbers[2::4], numbers[3::4]
        return Selection("hyperslab", start, stride, count, block), place
    (total,), place = _numbers(data, place, width, 1)
    if total > _MAX_BLOCKS:
        raise Damaged(f"a selection of {total} blocks")
    numbers, place = _numbers(data, place, width, 2 * rank * total)
    boxes = []
    for first in range(0, len(numbers), 2 * rank):
        last = numbers[first + rank : first + 2 * rank]
        boxes.append((numbers[first : first + rank], tuple(number + 1 for number in last)))
    return _regular(boxes) or Selection("boxes", boxes=tuple(boxes)), place


def _regular(boxes: list[Box]) -> Selection | None:
    """The same elements as a hyperslab, if the boxes stand in rows and columns."""
    if not boxes:
        return Selection("none")
    start, stride, count, block = [], [], [], []
    for axis in range(len(boxes[0][0])):
        pieces = sorted({(first[axis], behind[axis]) for first, behind in boxes})
        begins, length = [first for first, _ in pieces], pieces[0][1] - pieces[0][0]
        step = begins[1] - begins[0] if len(begins) > 1 else length
        even = begins == list(range(begins[0], begins[0] + step * len(begins), max(step, 1)))
        if length < 1 or not even or any(behind - first != length for first, behind in pieces):
            return None
        start.append(begins[0])
        stride.append(step)
        count.append(len(begins))
        block.append(length)
    total = 1
    for number in count:
        total *= number
    if total != len(set(boxes)):
        return None
    return Selection("hyperslab", tuple(start), tuple(stride), tuple(count), tuple(block))


def _points(data: bytes, place: int, version: int) -> tuple[Selection, int]:
    width, place = (4, place + 8) if version == 1 else (data[place], place + 1)
    rank = _rank(data, place)
    (total,), place = _numbers(data, place + 4, width, 1)
    if total > _MAX_BLOCKS:
        raise Damaged(f"a selection of {total} points")
    numbers, place = _numbers(data, place, width, rank * total)
    points = tuple(numbers[first : first + rank] for first in range(0, len(numbers), rank))
    return Selection("points", points=points), place


def _rank(data: bytes, place: int) -> int:
    (rank,) = struct.unpack_from("<I", data, place)
    if not 0 < rank <= MAX_RANK:
        raise Damaged(f"a selection of {rank} dimensions, expected 1 to {MAX_RANK}")
    return int(rank)


def _numbers(data: bytes, place: int, width: int, count: int) -> tuple[tuple[int, ...], int]:
    """Numbers of `width` bytes each, the largest of which means UNLIMITED, and where the bytes behind them begin."""
    if width not in _WIDTHS:
        raise Damaged(f"a selection with numbers of {width} bytes")
    numbers = struct.unpack(f"<{count}{_WIDTHS[width]}", taken(data, place, width * count))
    largest = (1 << 8 * width) - 1
    if width < 8 and largest in numbers:
        numbers = tuple(UNLIMITED if number == largest else number for number in numbers)
    return numbers, place + width * count
