"""Virtual datasets: which of their elements are which elements of other datasets, as numbers.

Knows positions only, neither files nor types: `nodes` finds the sources, `arrays.virtual_arrays` reads them. The rules
are those of HDF5's `H5Pset_virtual`: two selections correspond element by element in row-major order; along a dimension
without end there are as many elements as the sources have.

Tested in `tests/arrays/test_virtual_arrays.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..hdf5.dataspace import UNLIMITED
from ..hdf5.selections import Box, Selection
from ..hdf5.virtual import Mapping

MAX_BLOCKS: Final = 1 << 16
"""Sources that a name with "%b" may stand for."""
_MAX_LISTED: Final = 1 << 24  # elements

Source = TypeVar("Source")
_Positions = NDArray[np.int64]


class NotMappedError(ValueError):
    """A mapping that makes no sense, or that is not supported."""


@dataclass(frozen=True, slots=True)
class Grid:
    """All combinations of positions along each dimension: blocks of elements at a constant distance."""

    start: tuple[int, ...]
    stride: tuple[int, ...]
    block: tuple[int, ...]
    lengths: tuple[int, ...]
    """How many positions there are along each dimension."""

    def positions(self, axis: int, ranks: _Positions) -> _Positions:
        """Where along a dimension the elements of those numbers are."""
        blocks, rest = np.divmod(ranks, max(self.block[axis], 1))
        return np.asarray(self.start[axis] + blocks * self.stride[axis] + rest)

    def ranks(self, axis: int, positions: _Positions) -> tuple[NDArray[np.bool_], _Positions]:
        """Which of the positions are among those of the grid, and the number of each of them."""
        blocks, rest = np.divmod(positions - self.start[axis], max(self.stride[axis], 1))
        ranks = blocks * self.block[axis] + rest
        inside = (blocks >= 0) & (rest < self.block[axis]) & (ranks < self.lengths[axis])
        return inside, ranks[inside]

    def end(self, axis: int) -> int:
        """The position behind the last one."""
        if not self.lengths[axis]:
            return 0
        return int(self.positions(axis, np.array(self.lengths[axis] - 1))) + 1


@dataclass(frozen=True, slots=True)
class Listed:
    """Elements of an array of that shape, in boxes that form no grid."""

    shape: tuple[int, ...]
    boxes: tuple[Box, ...]

    def linear(self) -> _Positions:
        """The elements in row-major order, as positions in the flattened array."""
        pieces = [
            np.ravel_multi_index(
                np.ix_(*(np.arange(low, high) for low, high in zip(first, behind, strict=True))), self.shape
            ).reshape(-1)
            for first, behind in self.boxes
        ]
        return np.unique(np.concatenate(pieces)) if pieces else np.empty(0, np.int64)

    def end(self, axis: int) -> int:
        """The position behind the last one."""
        return max((behind[axis] for _, behind in self.boxes), default=0)


Elements = Grid | Listed


@dataclass(frozen=True, slots=True)
class Part(Generic[Source]):
    """Elements of a virtual dataset, and those of a source that are their values."""

    source: Source
    taken: Elements
    """Of the source."""
    placed: Elements
    """Of the virtual dataset."""


class HasShape(Protocol):
    """A source: how many elements it has along each dimension."""

    @property
    def shape(self) -> tuple[int, ...]: ...


Sized = TypeVar("Sized", bound=HasShape)


def describe_parts(
    mappings: Sequence[Mapping],
    shape: Sequence[int],
    find: Callable[[str, str], Sized],
    exists: Callable[[str, str], bool],
) -> tuple[tuple[int, ...], tuple[Part[Sized], ...]]:
    """The shape of a virtual dataset, as long as its sources make it, and its parts.

    `find` gives the source in a file and raises for one that is missing; `exists` says whether there is one, for names
    that are numbered. Raises NotMappedError.
    """
    parts = list[Part[Sized]]()
    rank = len(shape)
    ends = [[0] for _ in shape]
    endless = {_endless(mapping.virtual) for mapping in mappings}
    for mapping in mappings:
        for file, dataset, virtual in _numbered(mapping, exists):
            try:
                part = _part(find(file, dataset), mapping.source, virtual, tuple(shape))
            except NotMappedError as error:
                raise NotMappedError(f"{error} (the source {dataset!r} of the file {file!r})") from None
            parts.append(part)
            for axis in range(rank):
                ends[axis].append(part.placed.end(axis))
    found = [max(ends[axis]) if axis in endless else size for axis, size in enumerate(shape)]
    for axis, size in enumerate(found):
        if max(ends[axis]) > size:
            raise NotMappedError(f"a source reaches to {max(ends[axis])} of {size} elements of dimension {axis}")
    return tuple(found), tuple(parts)


def _numbered(mapping: Mapping, exists: Callable[[str, str], bool]) -> Iterable[tuple[str, str, Selection]]:
    """File, dataset and place of each source of a mapping: one, or one for each block if its name has a number."""
    file, dataset, virtual = mapping.file, mapping.dataset, mapping.virtual
    if "%b" not in file + dataset or UNLIMITED not in virtual.count:
        yield _name(file, None), _name(dataset, None), virtual
        return
    axis = virtual.count.index(UNLIMITED)
    for number in range(MAX_BLOCKS):
        names = _name(file, number), _name(dataset, number)
        if not exists(*names):
            return
        start = list(virtual.start)
        start[axis] += number * virtual.stride[axis]
        count = [1 if other == axis else many for other, many in enumerate(virtual.count)]
        yield *names, replace(virtual, start=tuple(start), count=tuple(count))
    raise NotMappedError(f"more than {MAX_BLOCKS} sources called {dataset!r}")


def _name(text: str, number: int | None) -> str:
    """A name with "%b" as a block's number, and "%%" as a percent sign."""
    pieces = text.split("%%")
    if number is not None:
        pieces = [piece.replace("%b", str(number)) for piece in pieces]
    return "%".join(pieces)


def _part(source: Sized, taken: Selection, placed: Selection, shape: tuple[int, ...]) -> Part[Sized]:
    from_source = _within(_elements(taken, source.shape), source.shape)
    endless = _endless(placed)
    if endless is None:
        into = _elements(placed, shape)
    else:
        count = _count(from_source)
        others = math.prod(many * size for axis, (many, size) in enumerate(_blocks(placed)) if axis != endless)
        if not others or count % others:
            raise NotMappedError(f"{count} elements of a source for rows of {others}")
        into = _grid(placed, {endless: count // others})
    if _count(from_source) != _count(into):
        raise NotMappedError(f"{_count(from_source)} elements of a source for {_count(into)} of the virtual dataset")
    return Part(source, from_source, into)


def _blocks(selection: Selection) -> Iterable[tuple[int, int]]:
    return zip(selection.count, selection.block, strict=True)


def _endless(selection: Selection) -> int | None:
    """The dimension along which a selection has no end."""
    if selection.kind != "hyperslab":
        return None
    return next((axis for axis, numbers in enumerate(_blocks(selection)) if UNLIMITED in numbers), None)


def _count(elements: Elements) -> int:
    if isinstance(elements, Grid):
        return math.prod(elements.lengths)
    return sum(math.prod(b - a for a, b in zip(*box, strict=True)) for box in elements.boxes)


def _elements(selection: Selection, shape: tuple[int, ...]) -> Elements:
    """The elements of an array of that shape; along a dimension without end as many as there are."""
    if selection.kind == "all":
        return Grid((0,) * len(shape), shape, shape, shape)
    if selection.kind == "none":
        return Grid(*((0,) * len(shape) for _ in range(4)))
    if selection.kind == "points":
        raise NotMappedError("single points are not supported in mappings")
    rank = len(selection.boxes[0][0]) if selection.kind == "boxes" else len(selection.start)
    if rank != len(shape):
        raise NotMappedError(f"a selection of {rank} dimensions in an array of {len(shape)}")
    if selection.kind == "boxes":
        listed = Listed(shape, selection.boxes)
        if _count(listed) > _MAX_LISTED:
            raise NotMappedError(f"an irregular selection of more than {_MAX_LISTED} elements")
        return _within(listed, shape)
    endless = _endless(selection)
    return _grid(selection, {} if endless is None else {endless: _until(selection, endless, shape[endless])})


def _within(elements: Elements, shape: tuple[int, ...]) -> Elements:
    """The same. Raises NotMappedError unless an array of that shape has them all."""
    for axis, size in enumerate(shape):
        if elements.end(axis) > size:
            raise NotMappedError(f"a selection reaches to {elements.end(axis)} of {size} elements of dimension {axis}")
    return elements


def _grid(selection: Selection, lengths: dict[int, int]) -> Grid:
    """A hyperslab as a grid; `lengths` says how long it is along dimensions without end."""
    strides, blocks, found = list[int](), list[int](), list[int]()
    for axis, (many, size) in enumerate(_blocks(selection)):
        block = max(lengths[axis], 1) if size == UNLIMITED else size
        stride = max(selection.stride[axis], block) if many == 1 else selection.stride[axis]
        if stride < block:
            raise NotMappedError(f"blocks of {block} elements at a distance of {stride}")
        strides.append(stride)
        blocks.append(block)
        found.append(lengths[axis] if axis in lengths else many * block)
    return Grid(selection.start, tuple(strides), tuple(blocks), tuple(found))


def _until(selection: Selection, axis: int, size: int) -> int:
    """How many positions of a selection without end lie before `size`."""
    room = max(size - selection.start[axis], 0)
    if selection.block[axis] == UNLIMITED:
        return room
    whole, rest = divmod(room, max(selection.stride[axis], 1))
    return whole * selection.block[axis] + min(rest, selection.block[axis])


def ordinals(elements: Elements, positions: Sequence[_Positions]) -> tuple[tuple[NDArray[np.int64], ...], _Positions]:
    """Which of the elements at all combinations of `positions` are among `elements`, and their numbers in order.

    The first is an index into an array of all combinations; the second has the shape of what it selects.
    """
    if isinstance(elements, Grid):
        inside, ranks = zip(*(elements.ranks(axis, at) for axis, at in enumerate(positions)), strict=True)
        return np.ix_(*inside), np.asarray(np.ravel_multi_index(np.ix_(*ranks), elements.lengths))
    listed = elements.linear()
    wanted = np.ravel_multi_index(np.ix_(*positions), elements.shape)
    places = np.searchsorted(listed, wanted).clip(max=len(listed) - 1)
    found = listed[places] == wanted
    return np.nonzero(found), places[found]


def coordinates(elements: Elements, numbers: _Positions) -> tuple[_Positions, ...]:
    """Where the elements of those numbers are, along each dimension."""
    if isinstance(elements, Listed):
        return tuple(np.unravel_index(elements.linear()[numbers], elements.shape))
    ranks = np.unravel_index(numbers, elements.lengths)
    return tuple(elements.positions(axis, np.asarray(own)) for axis, own in enumerate(ranks))


def aligned(taken: Grid, placed: Grid) -> list[int | None] | None:
    """For each dimension of a source the one of the virtual dataset that runs along it, None for a single element.

    None as a whole if the elements do not correspond dimension by dimension.
    """
    long = [axis for axis, length in enumerate(placed.lengths) if length != 1]
    found = list[int | None]()
    for length in taken.lengths:
        if length == 1:
            found.append(None)
        elif long and placed.lengths[long[0]] == length:
            found.append(long.pop(0))
        else:
            return None
    return None if long else found
