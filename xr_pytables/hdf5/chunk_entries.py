"""What all kinds of chunk indexes share: bytes of their nodes, the part of the chunk grid that is asked for, entries.

Each kind has a module of its own, whose `..._entries` gives `Entries`: some thousand chunks at a time, with what the
file says of each. `chunk_indexes` puts them into a `ChunkIndex`.

Tested in `tests/hdf5/test_chunk_indexes.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import ChunkError, FormatError
from ..sources.source import Source
from .checksum import mismatches

ADDRESS: Final = 8
"""Bytes of an address, and of a length."""
CHECKSUM: Final = 4
"""Bytes of a checksum, at the end of each block that has one."""
_AT_ONCE: Final = 1 << 22  # bytes of nodes per read
_MAX_RUNS: Final = 1 << 16
_MOST_NUMBERS: Final = 1 << 60  # so that there is room in an int64


class IndexFile(NamedTuple):
    """A source and what addresses in it count from: the only way bytes of indexes are read here."""

    source: Source
    base: int
    """Size of the user block in bytes."""

    def read(self, address: int, count: int, what: str) -> bytes:
        """`count` bytes at `address` (from the base); ChunkError if the file has no such bytes."""
        if address + self.base + count > self.source.size:
            raise ChunkError(f"{what} at {address} lies beyond the end of the file ({self.source.size} bytes)")
        try:
            return self.source.read(address + self.base, count)
        except FormatError as error:
            raise ChunkError(f"{what} at {address}: {error}") from None

    def block(self, address: int, count: int, signature: bytes, what: str) -> bytes:
        """A block with a signature in front and a checksum at its end, both right."""
        data = self.read(address, count, what)
        if data[:4] != signature:
            raise ChunkError(f"{what} at {address} has no signature {signature.decode()}")
        for problem in mismatches([data]):
            self._refuse(problem, f"{what} at {address}")
        return data

    def nodes(
        self, addresses: NDArray[np.uint64], size: int, what: str, used: NDArray[np.int64] | None = None
    ) -> NDArray[np.uint8]:
        """`size` bytes from each of the addresses, a row for each.

        With `used` the last four of the first `used` bytes of each are a checksum, which is verified.
        """
        if len(addresses) and int(addresses.max()) + self.base + size > self.source.size:
            raise ChunkError(f"{what} lies beyond the end of the file ({self.source.size} bytes)")
        try:
            found = self.source.read_many([(address + self.base, size) for address in addresses.tolist()])
        except FormatError as error:
            raise ChunkError(f"{what}: {error}") from None
        if used is not None:
            blocks = [node[:count] for node, count in zip(found, used.tolist(), strict=True)]
            for address, problem in zip(addresses.tolist(), mismatches(blocks), strict=True):
                self._refuse(problem, f"{what} at {address}")
        return np.frombuffer(b"".join(found), np.uint8).reshape(len(addresses), size)

    def _refuse(self, problem: str, what: str) -> None:
        if problem:
            raise ChunkError(f"{what}: {problem}: the file is damaged")


def batches(nodes: NDArray[Any], size: int) -> Iterator[slice]:
    """Parts of a list of nodes of `size` bytes that are read together."""
    step = max(_AT_ONCE // size, 1)
    for begin in range(0, len(nodes), step):
        yield slice(begin, begin + step)


def check_each_once(addresses: NDArray[np.uint64], nbytes: int, file: IndexFile, what: str) -> None:
    """Raise ChunkError if nodes that take `nbytes` together cannot be distinct ones of this file."""
    ascending = np.sort(addresses)
    if (ascending[1:] == ascending[:-1]).any() or nbytes > file.source.size:
        raise ChunkError(f"{what} refers to a node twice")


def is_after(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """For each row whether it comes after the other: by its first number, then by the second ..."""
    differs = one != other
    first, rows = differs.argmax(axis=1), np.arange(len(one))
    after: NDArray[np.bool_] = differs[rows, first] & (one[rows, first] > other[rows, first])
    return after


class Box(NamedTuple):
    """The part of the chunk grid to locate: first and last grid coordinates along each dimension, inclusive."""

    first: tuple[int, ...]
    last: tuple[int, ...]
    """Less than `first` along a dimension of which nothing is wanted."""

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple([last - first + 1 for first, last in zip(self.first, self.last, strict=True)])


class Span(NamedTuple):
    """All chunks between two, by grid coordinates, the first dimension first; both inclusive."""

    first: tuple[int, ...]
    last: tuple[int, ...]


class Entries(NamedTuple):
    """Chunks as an index lists them. Nothing has been checked."""

    scaled: Sequence[NDArray[np.uint64]]
    """Grid coordinates, an array for each dimension."""
    address: NDArray[np.uint64]
    """From the base."""
    size: NDArray[np.unsignedinteger[Any]]
    mask: NDArray[np.unsignedinteger[Any]]


class Numbering(NamedTuple):
    """How an array of chunks counts them: in C order over the largest grid that the dataset can have.

    Where one dimension is unlimited, it counts as if it were the first one.
    """

    grid: tuple[int, ...]
    """Chunks along each dimension, of the largest extent; whatever it is for an unlimited one."""
    unlimited: int = 0

    @property
    def order(self) -> list[int]:
        """The dimensions, the slowest one first."""
        return [self.unlimited, *(axis for axis in range(len(self.grid)) if axis != self.unlimited)]

    def scaled(self, numbers: NDArray[np.uint64]) -> list[NDArray[np.uint64]]:
        """Grid coordinates of the chunks with these numbers."""
        found: list[NDArray[np.uint64]] = [numbers] * len(self.grid)
        for axis in reversed(self.order[1:]):
            numbers, found[axis] = np.divmod(numbers, np.uint64(self.grid[axis]))
        found[self.unlimited] = numbers
        return found

    def runs(self, box: Box) -> Runs:
        """The numbers of the chunks in a box: exactly, or of many runs all between the first and the last."""
        order = self.order
        strides, stride = [0] * len(self.grid), 1
        for axis in reversed(order):
            strides[axis] = stride
            stride *= max(self.grid[axis], 1)
        first = sum(low * by for low, by in zip(box.first, strides, strict=True))
        last = sum(high * by for high, by in zip(box.last, strides, strict=True))
        if last > _MOST_NUMBERS:
            raise ChunkError(f"a grid of {self.grid} chunks has more of them than can be counted")
        if math.prod(box.shape[axis] for axis in order[:-1]) > _MAX_RUNS:
            return Runs([first], last - first + 1)
        starts = [first]
        for axis in order[:-1]:
            starts = [start + i * strides[axis] for start in starts for i in range(box.shape[axis])]
        return Runs(starts, box.shape[order[-1]])


class Runs(NamedTuple):
    """Numbers of chunks: `length` from each of the ascending `starts` on."""

    starts: list[int]
    length: int

    @property
    def last(self) -> int:
        return self.starts[-1] + self.length - 1

    def touched(self, begins: NDArray[np.int64], count: int) -> NDArray[np.bool_]:
        """Which of some groups of `count` numbers have one of these."""
        starts = np.array(self.starts, np.int64)
        before = np.searchsorted(starts, begins + count)  # runs that begin before the end of the group
        return (before > 0) & (starts[before - 1] + self.length > begins)


ElementReader = Callable[[NDArray[np.uint8]], tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint32]]]


def element_reader(client: int, size: int, chunk_nbytes: int, what: str) -> ElementReader:
    """A function from the bytes of elements to (address, size, filter mask) of chunks.

    Elements of client 0 are an address, those of client 1 an address, a stored size of as many bytes as are left, and a
    filter mask (VII.C and VII.D, "data block element").
    """
    width = size - ADDRESS - 4
    if client not in (0, 1) or (client == 0 and size != ADDRESS) or (client == 1 and not 0 < width <= 8):
        raise ChunkError(f"{what} has elements of {size} bytes for client {client}")
    fields: list[Any] = [("address", "<u8")]
    if client:
        fields += [("size", "u1", (width,)), ("mask", "<u4")]
    dtype = np.dtype(fields)

    def read(data: NDArray[np.uint8]) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint32]]:
        elements = np.ascontiguousarray(data).reshape(-1).view(dtype)
        address = elements["address"].astype(np.uint64)
        if client:
            return address, integers(elements["size"]), elements["mask"].astype(np.uint32)
        return address, np.full(len(address), chunk_nbytes, np.uint64), np.zeros(len(address), np.uint32)

    return read


def integers(data: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Little-endian integers of any width, a row of bytes each."""
    wide = np.zeros((len(data), 8), np.uint8)
    wide[:, : data.shape[1]] = data
    return wide.view("<u8").reshape(-1).astype(np.uint64)
