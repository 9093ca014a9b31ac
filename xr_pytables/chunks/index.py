"""Where the chunks of one dataset lie in the file: address, stored size and filter mask, as arrays over the chunk grid.

Values alone, and how a selection meets the chunks: `hdf5.chunk_indexes` reads the index of a file, `reading` reads the
chunks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .filters import FilterPipeline

AxisSelection = int | np.integer[Any] | slice | NDArray[np.integer[Any]]
Selection = tuple[AxisSelection, ...]
"""One entry per dimension; missing ones at the end select everything. An int drops its dimension, a slice has a
positive step, a 1-D array of integers picks elements in any order, repeats allowed. Outer (orthogonal) indexing."""

Region = tuple[tuple[int, int], ...]
"""(start, stop) in elements for each dimension of a leaf."""

MISSING: Final = 0
"""Address of a chunk that was never written: its value is the fill value. No chunk can lie at the superblock."""

DAMAGED: Final = 2**64 - 1
"""Address of a chunk that the index lists without a possible address: reading it is an error, not the fill value."""

UNDEFINED: Final = 2**64 - 1
SIGNATURE: Final = b"\x89HDF\r\n\x1a\n"
MAX_GRID: Final = 2**27  # chunks: 2 GiB of (lazily allocated) address space for an index


def prefix(label: str) -> str:
    """What goes before a message about the array `label`, which may be without a name."""
    return f"{label}: " if label else ""


@dataclass(frozen=True)
class ChunkStorage:
    """Where and how the bytes of one dataset are stored. A plain value: compares, prints, pickles."""

    shape: tuple[int, ...]
    """In elements, with the dimensions of an HDF5 array type (a multi-dimensional atom) at the end."""
    chunkshape: tuple[int, ...] | None
    """As `shape`, the atom's dimensions included; None if the data are contiguous."""
    dtype: np.dtype[Any]
    """Of one number as stored, byte order included."""
    pipeline: FilterPipeline = field(default_factory=FilterPipeline)
    header: int = 0
    """Address of the object header, in bytes from the base address."""
    base: int = 0
    """Size of the user block in bytes: what every address in the file counts from."""
    offset: int | None = None
    """Where contiguous data begin, in bytes from the start of the file; None if nothing is allocated."""
    fill: bytes = b""
    """One element of the dataset as stored (the whole atom, or a single number of it); empty for zeros."""
    rank: int = -1
    """Number of dimensions of the leaf, those of the atom not counted. -1: all of `shape`."""

    def __post_init__(self) -> None:
        if self.rank < 0:
            object.__setattr__(self, "rank", len(self.shape))
        chunkshape = self.chunkshape
        if chunkshape is not None:
            if len(chunkshape) != len(self.shape) or any(length < 1 for length in chunkshape):
                raise ValueError(f"chunkshape {chunkshape} does not fit shape {self.shape}")
            if chunkshape[self.rank :] != self.shape[self.rank :]:
                raise ValueError(f"chunkshape {chunkshape} divides the atom of shape {self.shape[self.rank :]}")

    @property
    def element_size(self) -> int:
        """Bytes of one element of the leaf: the whole atom."""
        return self.dtype.itemsize * math.prod(self.shape[self.rank :])

    @property
    def chunk_nbytes(self) -> int:
        """Bytes of one decoded chunk; edge chunks are stored whole."""
        return self.dtype.itemsize * math.prod(self.chunkshape or ())

    @property
    def holds_frames(self) -> bool:
        """Whether each chunk has to be there, and to be a b2nd frame: see `FilterPipeline.makes_frames`."""
        return self.chunkshape is not None and self.pipeline.makes_frames(self.rank)

    @property
    def grid(self) -> tuple[int, ...]:
        """Number of chunks along each dimension of the leaf."""
        lengths = self.chunkshape or self.shape
        return tuple(-(-n // max(c, 1)) for n, c in zip(self.shape[: self.rank], lengths, strict=False))

    def fill_values(self) -> NDArray[Any]:
        """The fill value as an array of `dtype` that broadcasts against any selection of whole atoms."""
        if not self.fill:
            return np.zeros((), self.dtype)
        if len(self.fill) == self.dtype.itemsize:
            return np.frombuffer(self.fill, self.dtype).reshape(())
        if len(self.fill) == self.element_size:
            return np.frombuffer(self.fill, self.dtype).reshape(self.shape[self.rank :])
        raise ValueError(f"a fill value of {len(self.fill)} bytes does not fit elements of {self.element_size}")


@dataclass(frozen=True, eq=False)
class ChunkIndex:
    """Address, size and filter mask of the chunks of a part of the chunk grid, 16 bytes a chunk.

    The arrays have the shape of that part, whose first chunk has grid coordinates `origin`.
    """

    origin: tuple[int, ...]
    address: NDArray[np.uint64]
    """In bytes from the start of the file; MISSING where no chunk is stored, DAMAGED where it cannot be anywhere."""
    size: NDArray[np.uint32 | np.uint64]
    """Stored (compressed) bytes; of 64 bits where chunks are so large."""
    filter_mask: NDArray[np.uint32]
    """Bit *i* set: filter *i* of the pipeline was not applied to this chunk."""

    def covers(self, chunks: Sequence[NDArray[np.int64]]) -> bool:
        """Whether the chunks with these grid coordinates, one array per dimension, lie in the located part."""
        return all(
            len(along) == 0 or (along.min() >= first and along.max() < first + length)
            for along, first, length in zip(chunks, self.origin, self.address.shape, strict=True)
        )

    def at(self, chunks: tuple[NDArray[np.int64], ...]) -> ChunkIndex:
        """The entries of the chunks at these grid coordinates (arrays that broadcast, as in NumPy indexing).

        Raises IndexError outside of the located part.
        """
        if not self.covers([along.reshape(-1) for along in chunks]):
            raise IndexError(f"chunks outside of the part of the grid that was located: {self}")
        where = tuple(along - first for along, first in zip(chunks, self.origin, strict=True))
        return ChunkIndex(self.origin, self.address[where], self.size[where], self.filter_mask[where])

    def entry(self, chunk: Sequence[int]) -> tuple[int, int, int]:
        """(address, size, filter mask) of the chunk at these grid coordinates; raises IndexError as `at` does."""
        where = tuple([along - first for along, first in zip(chunk, self.origin, strict=True)])
        if not all([0 <= i < length for i, length in zip(where, self.address.shape, strict=True)]):  # noqa: C419 - quicker
            raise IndexError(f"chunk {tuple(chunk)} is outside of the part of the grid that was located: {self}")
        return int(self.address[where]), int(self.size[where]), int(self.filter_mask[where])

    def __repr__(self) -> str:
        return (
            f"ChunkIndex(origin={self.origin}, shape={self.address.shape}, "
            f"stored={np.count_nonzero(self.address)} of {self.address.size})"
        )


# ---------------------------------------------------------------------------------------------------------------------
# selections


@dataclass(frozen=True, eq=False)
class AxisPlan:
    """How a selection along one dimension meets the chunks along it.

    `chunks` are the numbers of the touched chunks, ascending. `piece(i)` says which elements of chunk `chunks[i]` are
    wanted and where they go.
    """

    length: int
    """Elements selected: the length of the dimension in the output."""
    chunks: NDArray[np.int64]
    chunk: int
    """Elements of one chunk."""
    _range: range = range(0)
    _sorted: NDArray[np.int64] | None = None
    _order: NDArray[np.int64] | None = None
    _bounds: list[int] = field(default_factory=list)

    @property
    def bounds(self) -> tuple[int, int]:
        """(start, stop) of the elements selected; (0, 0) if there are none."""
        if not self.length:
            return 0, 0
        if self._sorted is None:
            return self._range[0], self._range[-1] + 1
        return int(self._sorted[0]), int(self._sorted[-1]) + 1

    def piece(self, i: int) -> tuple[slice | NDArray[np.int64], slice | NDArray[np.int64]]:
        """(elements inside the chunk, places in the output): slices where possible, else index arrays."""
        first = int(self.chunks[i]) * self.chunk
        if self._sorted is None:
            chosen, step = self._range, self._range.step
            begin = max(0, -(-(first - chosen.start) // step))
            end = min(self.length, -(-(first + self.chunk - chosen.start) // step))
            start = chosen.start + begin * step - first
            return slice(start, start + (end - begin - 1) * step + 1, step), slice(begin, end)
        begin, end = self._bounds[i], self._bounds[i + 1]
        places = slice(begin, end) if self._order is None else self._order[begin:end]
        return self._sorted[begin:end] - first, places


def chosen_elements(selection: AxisSelection, length: int) -> range | NDArray[np.integer[Any]]:
    """What a slice or an integer selects of `length` elements; of an array, the array. Errors as of `plan_axis`."""
    if isinstance(selection, slice):
        chosen = range(length)[selection]
        if chosen.step < 1:
            raise ValueError(f"a slice needs a positive step here: {selection}")
        return chosen
    if isinstance(selection, np.ndarray) and selection.ndim:
        return selection
    position = int(selection) + (length if selection < 0 else 0)
    if not 0 <= position < length:
        raise IndexError(f"index {selection} is out of bounds for {length} elements")
    return range(position, position + 1)


def plan_axis(selection: AxisSelection, length: int, chunk: int) -> AxisPlan:
    """Meet one dimension's selection with chunks of `chunk` elements; `length` elements in all.

    Raises IndexError for an element outside, ValueError for a step that is not positive or an array that is not 1-D.
    """
    chosen = chosen_elements(selection, length)
    if isinstance(chosen, np.ndarray):
        return _plan_array(chosen, length, chunk)
    if not chosen:
        return AxisPlan(0, np.empty(0, np.int64), chunk)
    if chosen.step <= chunk:
        chunks = np.arange(chosen[0] // chunk, chosen[-1] // chunk + 1)
    else:
        chunks = np.arange(chosen.start, chosen.stop, chosen.step) // chunk
    return AxisPlan(len(chosen), chunks, chunk, chosen)


def _plan_array(selection: NDArray[np.integer[Any]], length: int, chunk: int) -> AxisPlan:
    if selection.ndim != 1 or selection.dtype.kind not in "iu":
        raise ValueError(f"an index array must be 1-D and of integers, not {selection.ndim}-D of {selection.dtype}")
    elements = selection.astype(np.int64)
    elements[elements < 0] += length
    if len(elements) and not (elements.min() >= 0 and elements.max() < length):
        raise IndexError(f"an index array reaches outside of {length} elements")
    order = None
    if len(elements) and np.any(elements[1:] < elements[:-1]):
        order = np.argsort(elements, kind="stable")
        elements = elements[order]
    starts = run_starts(elements // chunk)
    chunks = elements[starts] // chunk
    return AxisPlan(len(elements), chunks, chunk, range(0), elements, order, [*starts.tolist(), len(elements)])


def run_starts(values: NDArray[Any]) -> NDArray[np.intp]:
    """Where each run of equal values begins.

    (`np.unique` would do for sorted values, but it imports a module when first called, and a fork during an import
    leaves the child with a lock that nobody releases.)
    """
    changes = np.ones(len(values), bool)
    changes[1:] = values[1:] != values[:-1]
    return np.flatnonzero(changes)


def cut(places: NDArray[np.int64], begins: NDArray[np.intp], limit: int) -> list[tuple[int, int]]:
    """(begin, end) of groups: runs that begin at `begins`, cut again wherever a place is another `limit` further on."""
    lengths = np.diff(np.append(begins, len(places)))
    part = (places - np.repeat(places[begins], lengths)) // limit
    part += np.repeat(begins, lengths) * (int(part.max()) + 1)  # another run, another part
    return list(itertools.pairwise([*run_starts(part).tolist(), len(places)]))


def plan_selection(storage: ChunkStorage, selection: Selection) -> list[AxisPlan]:
    """One AxisPlan per dimension of `storage.shape`; contiguous data count as one chunk."""
    chunks = storage.chunkshape or storage.shape
    full = full_selection(storage, selection)
    return [plan_axis(one, n, max(c, 1)) for one, n, c in zip(full, storage.shape, chunks, strict=True)]


def full_selection(storage: ChunkStorage, selection: Selection) -> Selection:
    """`selection` with an entry for each dimension. Raises IndexError if it has more."""
    if len(selection) > len(storage.shape):
        raise IndexError(f"{len(selection)} indices for {len(storage.shape)} dimensions")
    return (*selection, *(slice(None),) * (len(storage.shape) - len(selection)))


def bounding_region(storage: ChunkStorage, plans: Sequence[AxisPlan]) -> Region:
    """The smallest region that holds a selection that was planned, for `read_index(region=)`."""
    return tuple([plan.bounds for plan in plans[: storage.rank]])
