"""Where the chunks of one dataset lie in the file: address, stored size and filter mask, as arrays over the chunk grid.

Knows the HDF5 file format from the superblock to the v1 B-tree of chunks, and nothing of what is inside a chunk. Reads
with `pread` alone: no HDF5 call, no lock, no callback, so any number of threads may locate chunks at the same time.
`chunk_io` calls it. Section numbers refer to the HDF5 File Format Specification, version 3.0.
"""

from __future__ import annotations

import itertools
import math
import os
import struct
from collections.abc import Iterator, Sequence
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

UNDEFINED: Final = 2**64 - 1
SIGNATURE: Final = b"\x89HDF\r\n\x1a\n"
MAX_GRID: Final = 2**27  # chunks: 2 GiB of (lazily allocated) address space for an index
_MAX_HEADER: Final = 1 << 26  # bytes of one object header, continuation blocks included
_MAX_BLOCKS: Final = 1 << 14  # continuation blocks of one object header
_NODES_AT_ONCE: Final = 2048  # B-tree nodes per read: some megabytes
_DEFAULT_K: Final = 32
_LAYOUT: Final = 0x08  # type of a header message: data layout
_COMPACT: Final = 0  # class of a data layout
_HAS_PREADV: Final = hasattr(os, "preadv")  # not on older macOS


class ChunkError(OSError):
    """The bytes of a chunk, or those that say where chunks are, cannot be what a sound file contains."""


def prefix(label: str) -> str:
    """What goes before a message about the array `label`, which may be without a name."""
    return f"{label}: " if label else ""


class UnsupportedIndex(Exception):  # noqa: N818 - not an error of the file: the reader takes another path
    """The chunks of this dataset are located by something other than a v1 B-tree; the message says by what."""


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
    """In bytes from the start of the file; MISSING where no chunk is stored."""
    size: NDArray[np.uint32]
    """Stored (compressed) bytes."""
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


def plan_axis(selection: AxisSelection, length: int, chunk: int) -> AxisPlan:
    """Meet one dimension's selection with chunks of `chunk` elements; `length` elements in all.

    Raises IndexError for an element outside, ValueError for a step that is not positive or an array that is not 1-D.
    """
    if isinstance(selection, slice):
        chosen = range(length)[selection]
        if chosen.step < 1:
            raise ValueError(f"a slice needs a positive step here: {selection}")
    elif isinstance(selection, np.ndarray) and selection.ndim:
        return _plan_array(selection, length, chunk)
    else:
        position = int(selection) + (length if selection < 0 else 0)
        if not 0 <= position < length:
            raise IndexError(f"index {selection} is out of bounds for {length} elements")
        chosen = range(position, position + 1)
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
    if len(selection) > len(storage.shape):
        raise IndexError(f"{len(selection)} indices for {len(storage.shape)} dimensions")
    full = (*selection, *(slice(None),) * (len(storage.shape) - len(selection)))
    chunks = storage.chunkshape or storage.shape
    return [plan_axis(one, n, max(c, 1)) for one, n, c in zip(full, storage.shape, chunks, strict=True)]


def bounding_region(storage: ChunkStorage, plans: Sequence[AxisPlan]) -> Region:
    """The smallest region that holds a selection that was planned, for `read_index(region=)`."""
    return tuple([plan.bounds for plan in plans[: storage.rank]])


# ---------------------------------------------------------------------------------------------------------------------
# reading the index


def read_index(fd: int, storage: ChunkStorage, region: Region | None = None) -> ChunkIndex:
    """Locate the chunks of a dataset, or of the `region` of it (whole chunks), by reading its v1 B-tree.

    With `region` only the branches that can hold its chunks are read. Chunks beyond the current extent, as truncation
    may leave them, are ignored. Raises UnsupportedIndex (with the reason) for any other kind of index and ChunkError
    for bytes that make no sense; never reads outside of the file nor allocates by a size that was not checked.
    """
    if storage.chunkshape is None:
        raise UnsupportedIndex("the data are contiguous")
    file = _File(fd, os.fstat(fd).st_size, storage.base)
    first, last = _grid_box(storage, region)
    shape = tuple((last - first + 1).tolist())
    if math.prod(shape) > MAX_GRID:
        raise UnsupportedIndex(f"the chunk grid {shape} has more than {MAX_GRID} chunks")
    address = np.zeros(shape, np.uint64)
    size, mask = np.zeros(shape, np.uint32), np.zeros(shape, np.uint32)
    index = ChunkIndex(tuple(first.tolist()), address, size, mask)
    if not address.size:
        return index
    capacity = 2 * _node_k(file)
    root, dims = _layout(file, storage.header)
    expected = (*storage.chunkshape[: storage.rank], storage.element_size)
    if dims != expected:
        raise ChunkError(f"the layout message has chunks of {dims} (elements, bytes), expected {expected}")
    if root == UNDEFINED:
        return index
    chunkshape = np.array(storage.chunkshape[: storage.rank], np.uint64)
    for entries in _leaf_entries(file, root, capacity, chunkshape, first, last):
        where = _grid_positions(entries["key"]["offset"][:, :-1], chunkshape, first, last)
        inside = where >= 0
        where, entries = where[inside], entries[inside]
        address.reshape(-1)[where] = entries["child"] + np.uint64(storage.base)
        size.reshape(-1)[where] = entries["key"]["size"]
        mask.reshape(-1)[where] = entries["key"]["mask"]
    return index


def read_compact(fd: int, storage: ChunkStorage) -> NDArray[Any]:
    """All elements of a dataset whose data lie in its object header. Raises ChunkError if they do not."""
    file = _File(fd, os.fstat(fd).st_size, storage.base)
    wanted = storage.element_size * math.prod(storage.shape[: storage.rank])
    for kind, body in _messages(file, storage.header):
        if kind == _LAYOUT and len(body) >= 4 and body[0] in (3, 4) and body[1] == _COMPACT:
            data = body[4 : 4 + struct.unpack_from("<H", body, 2)[0]]  # IV.A.2.i
            if len(data) == wanted:
                return np.frombuffer(data, storage.dtype).reshape(storage.shape)
    raise ChunkError(f"the object header at {storage.header} has no {wanted} bytes of data")


def _grid_box(storage: ChunkStorage, region: Region | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last grid coordinates (inclusive; last < first if empty) of the part to locate."""
    grid = np.array(storage.grid, np.int64)
    if region is None:
        return np.zeros(storage.rank, np.int64), grid - 1
    assert storage.chunkshape is not None  # checked by the caller
    if len(region) != storage.rank:
        raise ValueError(f"a region of {len(region)} dimensions for a leaf of {storage.rank}")
    first, last = [], []
    for (start, stop), length, chunk in zip(region, storage.shape, storage.chunkshape, strict=False):
        start, stop = max(0, start), min(stop, length)
        first.append(start // chunk if start < stop else 0)
        last.append((stop - 1) // chunk if start < stop else -1)
    return np.array(first, np.int64), np.array(last, np.int64)


def _grid_positions(
    offsets: NDArray[np.uint64], chunkshape: NDArray[np.uint64], first: NDArray[np.int64], last: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Flat positions in the located part for chunks that begin at `offsets` (elements); -1 for those outside."""
    position = np.zeros(len(offsets), np.int64)
    inside = np.ones(len(offsets), bool)
    for axis, chunk in enumerate(chunkshape):  # column by column: a (n, rank) temporary of 64 bits would cost more
        coordinate, rest = np.divmod(offsets[:, axis], chunk)
        if rest.any():
            raise ChunkError(f"a chunk of the index begins between two chunks (dimension {axis})")
        low, high = np.uint64(first[axis]), np.uint64(max(last[axis], 0))
        inside &= (coordinate >= low) & (coordinate <= high)
        position *= last[axis] - first[axis] + 1
        position += np.where(inside, coordinate - low, 0).astype(np.int64)
    position[~inside] = -1
    return position


def read_at(fd: int, buffer: NDArray[np.uint8], offset: int) -> int:
    """Fill a contiguous `buffer` with the bytes at `offset`, going on after short reads; return how many there were."""
    count = 0
    while count < buffer.size:
        view = buffer[count:].data
        if _HAS_PREADV:
            got = os.preadv(fd, [view], offset + count)
        else:
            data = os.pread(fd, len(view), offset + count)
            got = len(data)
            view[:got] = data
        if not got:
            break
        count += got
    return count


def read_short(fd: int, offsets: Sequence[int], size: int) -> bytes:
    """`size` bytes from each of the offsets, one after the other; fewer in all where the system gives fewer.

    For few bytes at many places, where a buffer for each would take longer than to read them.
    """
    return b"".join([os.pread(fd, size, offset) for offset in offsets])


@dataclass(frozen=True)
class _File:
    """A descriptor, the size of its file in bytes and the base address: the only way bytes are read here."""

    descriptor: int
    size: int
    base: int

    def read(self, address: int, count: int, what: str) -> bytes:
        """`count` bytes at `address` (from the base); ChunkError if the file has no such bytes."""
        if address + self.base + count > self.size:
            raise ChunkError(f"{what} at {address} lies beyond the end of the file ({self.size} bytes)")
        data = os.pread(self.descriptor, count, address + self.base)
        if len(data) != count:
            raise ChunkError(f"{what} at {address}: {len(data)} bytes read, {count} expected")
        return data


def _node_k(file: _File) -> int:
    """Half the number of children of a chunk B-tree node (II.A, superblock: Indexed Storage Internal Node K)."""
    block = file.read(0, min(96, file.size - file.base), "the superblock")
    if block[:8] != SIGNATURE or len(block) < 48:
        raise ChunkError(f"no HDF5 superblock at {file.base}")
    version = block[8]
    if version in (0, 1):
        sizes, k = block[13:15], _DEFAULT_K
        if version == 1:
            (k,) = struct.unpack_from("<H", block, 24)
    elif version in (2, 3):
        sizes = block[9:11]
        k = _extension_k(file, *struct.unpack_from("<Q", block, 20))
    else:
        raise UnsupportedIndex(f"superblock version {version}")
    if sizes != b"\x08\x08":
        raise UnsupportedIndex(f"addresses of {sizes[0]} and lengths of {sizes[1]} bytes")
    if not k:
        raise ChunkError("the superblock gives B-tree nodes no room for a child")
    return k


def _extension_k(file: _File, address: int) -> int:
    """K from the superblock extension of format versions 2 and 3 (IV.A.2.t, B-tree 'K' values)."""
    k = _DEFAULT_K
    if address != UNDEFINED:
        for kind, body in _messages(file, address):
            if kind == 0x18:
                raise UnsupportedIndex("metadata are kept in a cache image")
            if kind == 0x13 and len(body) >= 3:
                (k,) = struct.unpack_from("<H", body, 1)
    return k


def _layout(file: _File, header: int) -> tuple[int, tuple[int, ...]]:
    """Address of the chunk B-tree and the chunk's dimensions with the element size at the end (IV.A.2.i)."""
    for kind, body in _messages(file, header):
        if kind == _LAYOUT:
            try:
                return _chunked_layout(body)
            except struct.error:
                raise ChunkError(f"the data layout message has only {len(body)} bytes") from None
    raise ChunkError(f"the object header at {header} has no data layout message")


_V4_INDEXES = {1: "single chunk", 2: "implicit", 3: "fixed array", 4: "extensible array", 5: "v2 B-tree"}


def _chunked_layout(body: bytes) -> tuple[int, tuple[int, ...]]:
    version = body[0] if body else 0
    if version in (1, 2):
        rank, kind = struct.unpack_from("<BB", body, 1)
        place = 8
    elif version == 3:
        kind, rank = struct.unpack_from("<BB", body, 1)
        place = 3
    elif version in (4, 5):
        kind, _, rank, width = struct.unpack_from("<BBBB", body, 1)
        index = body[5 + rank * width] if len(body) > 5 + rank * width and kind == 2 else 0
        raise UnsupportedIndex(f"chunk index type {_V4_INDEXES.get(index, index)} (data layout version {version})")
    else:
        raise UnsupportedIndex(f"data layout version {version}")
    if kind != 2:
        raise UnsupportedIndex(f"data layout class {kind} is not chunked")
    (address,) = struct.unpack_from("<Q", body, place)
    return address, struct.unpack_from(f"<{rank}I", body, place + 8)


def _messages(file: _File, header: int) -> Iterator[tuple[int, bytes]]:
    """The header messages of an object (type, body), continuation blocks followed (IV.A.1)."""
    start = file.read(header, 16, "an object header")
    if start[:4] == b"OHDR":
        blocks, prefix = [_second_version(file, header, start)], 4 + 2 * bool(start[5] & 4)
    elif start[0] == 1:
        blocks, prefix = [(header + 16, struct.unpack_from("<I", start, 8)[0])], 8
    else:
        raise UnsupportedIndex(f"object header version {start[0]}")
    total = 0
    for number, (address, count) in enumerate(blocks):  # grows while it is walked: continuation blocks
        total += count
        if total > _MAX_HEADER or number > _MAX_BLOCKS:
            raise ChunkError(f"the object header at {header} has no end")
        for kind, body in _block_messages(file.read(address, count, "an object header block"), prefix):
            if kind == 0x10 and len(body) >= 16:
                address, count = struct.unpack_from("<QQ", body)
                # version 2 blocks have a signature in front and a checksum behind
                blocks.append((address, count) if prefix == 8 else (address + 4, max(count - 8, 0)))
            yield kind, body


def _second_version(file: _File, header: int, start: bytes) -> tuple[int, int]:
    """Address and size in bytes of the messages of a version 2 object header (IV.A.1.b)."""
    if start[4] != 2:
        raise UnsupportedIndex(f"object header version {start[4]}")
    flags = start[5]
    place = header + 6 + 16 * bool(flags & 0x20) + 4 * bool(flags & 0x10)
    width = 1 << (flags & 3)
    return place + width, int.from_bytes(file.read(place, width, "an object header"), "little")


def _block_messages(block: bytes, prefix: int) -> Iterator[tuple[int, bytes]]:
    place = 0
    while place + prefix <= len(block):
        if prefix == 8:
            kind, size = struct.unpack_from("<HH", block, place)
        else:
            kind, size = struct.unpack_from("<BH", block, place)
        place += prefix
        yield kind, block[place : place + size]
        place += size


def tree_node(rank: int, capacity: int) -> np.dtype[Any]:
    """A B-tree node of type 1 (III.A.1): keys are size, filter mask and offset in elements, one more than children."""
    key = np.dtype([("size", "<u4"), ("mask", "<u4"), ("offset", "<u8", (rank + 1,))])
    return np.dtype(
        [
            ("signature", "S4"), ("type", "u1"), ("level", "u1"), ("used", "<u2"), ("left", "<u8"), ("right", "<u8"),
            ("entries", np.dtype([("key", key), ("child", "<u8")]), (capacity,)), ("last", key),
        ]
    )  # fmt: skip


def _leaf_entries(
    file: _File,
    root: int,
    capacity: int,
    chunkshape: NDArray[np.uint64],
    first: NDArray[np.int64],
    last: NDArray[np.int64],
) -> Iterator[NDArray[Any]]:
    """The entries of the leaf nodes that can hold chunks from `first` to `last`, some thousand nodes at a time."""
    node = tree_node(len(chunkshape), capacity)
    low = first.astype(np.uint64) * chunkshape
    high = last.astype(np.uint64) * chunkshape
    addresses, level, visited = np.array([root], np.uint64), -1, 0
    while True:
        visited += len(addresses)
        # nodes do not overlap, so a sound tree has no more of them than fit into the file; the level falls by one
        # from parent to child: together they end any loop
        if len(run_starts(np.sort(addresses))) != len(addresses) or visited * node.itemsize > file.size:
            raise ChunkError("the chunk B-tree refers to a node twice")
        children = []
        for begin in range(0, len(addresses), _NODES_AT_ONCE):
            nodes = _read_nodes(file, addresses[begin : begin + _NODES_AT_ONCE], node)
            level = _check_nodes(nodes, level, capacity)
            used = np.arange(capacity) < nodes["used"][:, None]
            if level == 0:
                yield nodes["entries"][used]
            else:
                children.append(nodes["entries"]["child"][used & _may_hold(nodes, low, high)])
        if level == 0:
            return
        addresses, level = np.concatenate(children), level - 1


def _read_nodes(file: _File, addresses: NDArray[np.uint64], node: np.dtype[Any]) -> NDArray[Any]:
    nodes = np.empty(len(addresses), node)
    if len(addresses) and int(addresses.max()) + file.base + node.itemsize > file.size:
        raise ChunkError(f"a node of the chunk B-tree lies beyond the end of the file ({file.size} bytes)")
    view, size = nodes.view(np.uint8).reshape(-1), node.itemsize
    for i, address in enumerate(addresses.tolist()):
        if read_at(file.descriptor, view[i * size : (i + 1) * size], address + file.base) != size:
            raise ChunkError(f"the chunk B-tree node at {address} is cut off")
    return nodes


def _check_nodes(nodes: NDArray[Any], level: int, capacity: int) -> int:
    """The level of these nodes (0: leaves), after checking that they are chunk nodes of `level` (-1: any)."""
    if not len(nodes):
        return 0
    if np.any(nodes["signature"] != b"TREE") or np.any(nodes["type"] != 1):
        raise ChunkError("a node of the chunk B-tree has no signature, or another type")
    found = int(nodes["level"][0])
    if np.any(nodes["level"] != (found if level < 0 else level)):
        raise ChunkError("the levels of the chunk B-tree do not fall by one")
    if np.any(nodes["used"] > capacity):
        raise ChunkError(f"a node of the chunk B-tree claims more than {capacity} children")
    return found


def _may_hold(nodes: NDArray[Any], low: NDArray[np.uint64], high: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which children may hold chunks that begin between the corners `low` and `high` (elements, inclusive).

    The tree is sorted by offset, the first dimension first: child *i* holds offsets from key *i* up to key *i + 1*. So
    a dimension is bounded by the two keys as long as all dimensions before it are equal in both.
    """
    left = nodes["entries"]["key"]["offset"]
    right = np.concatenate([left[:, 1:], nodes["last"]["offset"][:, None]], axis=1)
    # the key behind the last used entry lies in the slot of the next entry, not in `last`, if the node is not full:
    # keys and children alternate, so the slots agree
    may = np.ones(left.shape[:2], bool)
    equal = np.ones(left.shape[:2], bool)
    for axis in range(len(low)):
        may &= ~equal | ((left[..., axis] <= high[axis]) & (right[..., axis] >= low[axis]))
        equal &= left[..., axis] == right[..., axis]
    return may
