"""Where the chunks of a dataset lie: the index that its data layout names, whichever kind, as one `ChunkIndex`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..chunks.index import DAMAGED, MAX_GRID, MISSING, ChunkIndex, ChunkStorage, Region
from ..errors import ChunkError, FormatError, TooManyChunksError
from ..sources.source import Source
from .chunk_arrays import extensible_array_entries, fixed_array_entries, implicit_entries
from .chunk_btree1 import btree1_entries, btree1_listing, btree1_nodes
from .chunk_btree2 import btree2_entries
from .chunk_entries import Box, Entries, IndexFile, Numbering, Span
from .data_layout import IndexParameters
from .dataset import DatasetInfo
from .dataspace import UNLIMITED
from .file import File


def read_index(
    source: Source,
    storage: ChunkStorage,
    region: Region | None = None,
    *,
    info: DatasetInfo | None = None,
    label: str = "",
) -> ChunkIndex:
    """Locate the chunks of a dataset, or of the `region` of it (whole chunks). `label` names it in messages.

    `info` is what the header says, for who has read it already. With `region` only the parts of the index that can hold
    its chunks are read. Chunks beyond the current extent, as truncation may leave them, are ignored. Raises ChunkError
    for bytes that make no sense; never reads outside of the file nor allocates by a size that was not checked. A chunk
    of which the index says an impossible address is `DAMAGED`, and only reading that chunk is an error.
    """
    if storage.chunkshape is None:
        raise ValueError("the data are contiguous: there is no chunk index")
    where = label or f"{source.name}, the dataset at address {storage.header}"
    try:
        return _located(source, storage, storage.chunkshape[: storage.rank], region, info)
    except TooManyChunksError as error:
        raise TooManyChunksError(f"{where}: {error}", error.reason) from error
    except ChunkError as error:
        raise ChunkError(f"{where}: {error}") from error


def _located(
    source: Source, storage: ChunkStorage, chunkshape: tuple[int, ...], region: Region | None, info: DatasetInfo | None
) -> ChunkIndex:
    box = _grid_box(storage, region)
    if math.prod(box.shape) > MAX_GRID:
        count, nbytes = math.prod(box.shape), storage.chunk_nbytes
        reason = f"{count} chunks of {nbytes} bytes cannot be located at once, {MAX_GRID} can"
        raise TooManyChunksError(f"{reason}: read a smaller part at a time", reason)
    size_type = np.uint64 if storage.chunk_nbytes >= 1 << 31 else np.uint32
    index = ChunkIndex(
        box.first, np.zeros(box.shape, np.uint64), np.zeros(box.shape, size_type), np.zeros(box.shape, np.uint32)
    )
    if not index.address.size:
        return index
    info = info or _described(source, storage)
    nbytes = storage.chunk_nbytes
    if info.index is None or (info.chunkshape, info.datatype.itemsize) != (chunkshape, storage.element_size):
        raise ChunkError(
            f"the header at {storage.header} has chunks of {info.chunkshape} elements of {info.datatype.itemsize} "
            f"bytes, expected {chunkshape} and {storage.element_size}"
        )
    if info.index.address is None:
        return index
    file = IndexFile(source, storage.base)
    for entries in _entries(file, info.index, info.index.address, chunkshape, nbytes, info.maxshape, box):
        _put(index, entries, storage.base)
    if info.whole_chunks_filtered_only and info.shape is not None:
        _unfilter_edges(index, storage, info.shape)
    return index


def listed_chunks(source: Source, storage: ChunkStorage) -> NDArray[np.uint64] | None:
    """Grid coordinates of all chunks that a B-tree lists, a row for each, whether they are within the array or not.

    In the order of the tree if that is of version 1, which has no checksums: in a sound one they ascend. Else sorted.
    None for an index of another kind, which lists no coordinates. Raises ChunkError as `read_index` does.
    """
    info = _described(source, storage)
    if info.index is None or info.index.address is None or info.chunkshape is None:
        return None
    file, chunkshape = IndexFile(source, storage.base), info.chunkshape
    if info.index.kind == "v1 B-tree":
        begins = list(btree1_listing(file, info.index.address, info.index.k, chunkshape))
        return np.concatenate(begins) // np.array(chunkshape, np.uint64) if begins else None
    if info.index.kind != "v2 B-tree":
        return None
    everything = Box((0,) * len(chunkshape), (2**64 - 1,) * len(chunkshape))
    entries = btree2_entries(file, info.index.address, len(chunkshape), storage.chunk_nbytes, everything)
    found = [np.stack(part.scaled, axis=1) for part in entries]
    if not found:
        return None
    listed = np.concatenate(found)
    return listed[np.lexsort(listed.T[::-1])]


class IndexNodes(NamedTuple):
    """Nodes of a chunk index: offset and size in bytes, a row for each."""

    within: NDArray[np.int64]
    beside: NDArray[np.int64]
    """Those that lie before and behind, with pointers to the others."""


NO_NODES: Final = IndexNodes(np.empty((0, 2), np.int64), np.empty((0, 2), np.int64))


def index_nodes(source: Source, base: int, info: DatasetInfo, span: Span | None = None) -> IndexNodes:
    """The nodes of a chunk index that is a v1 B-tree; none of other kinds. `base` is what addresses count from.

    With `span` those alone that change if chunks of it are added, changed or removed: but for pointers, that is those
    `within`. Raises ChunkError as `read_index` does.
    """
    if info.index is None or info.index.kind != "v1 B-tree" or info.index.address is None or info.chunkshape is None:
        return NO_NODES
    *found, size = btree1_nodes(IndexFile(source, base), info.index.address, info.index.k, info.chunkshape, span)
    for addresses in found:
        if len(addresses) and int(addresses.max()) + base + size > source.size:
            raise ChunkError(
                f"{source.name}, the dataset at address {info.address}: a node of the chunk B-tree lies beyond the end "
                "of the file"
            )
    return IndexNodes(*(np.stack([each.astype(np.int64) + base, np.full(len(each), size)], axis=1) for each in found))


def _described(source: Source, storage: ChunkStorage) -> DatasetInfo:
    try:
        return File(source).dataset(storage.header)
    except FormatError as error:
        raise ChunkError(str(error).removeprefix(f"{source.name}: ")) from error


def _grid_box(storage: ChunkStorage, region: Region | None) -> Box:
    if region is None:
        return Box((0,) * storage.rank, tuple([length - 1 for length in storage.grid]))
    assert storage.chunkshape is not None  # checked by the caller
    if len(region) != storage.rank:
        raise ValueError(f"a region of {len(region)} dimensions for a leaf of {storage.rank}")
    first, last = [], []
    for (start, stop), length, chunk in zip(region, storage.shape, storage.chunkshape, strict=False):
        start, stop = max(0, start), min(stop, length)
        first.append(start // chunk if start < stop else 0)
        last.append((stop - 1) // chunk if start < stop else -1)
    return Box(tuple(first), tuple(last))


def _entries(
    file: IndexFile,
    index: IndexParameters,
    address: int,
    chunkshape: tuple[int, ...],
    nbytes: int,
    maxshape: tuple[int, ...],
    box: Box,
) -> Iterator[Entries]:
    numbering = Numbering(
        tuple([-(-length // chunk) for length, chunk in zip(maxshape, chunkshape, strict=True)]),
        maxshape.index(UNLIMITED) if index.kind == "extensible array" and UNLIMITED in maxshape else 0,
    )
    if index.kind == "v1 B-tree":
        yield from btree1_entries(file, address, index.k, chunkshape, box)
    elif index.kind == "single chunk":
        yield _single(index, address, nbytes, len(chunkshape))
    elif index.kind == "implicit":
        yield from implicit_entries(address, numbering, nbytes, box)
    elif index.kind == "fixed array":
        yield from fixed_array_entries(file, address, numbering, nbytes, box)
    elif index.kind == "extensible array":
        yield from extensible_array_entries(file, address, numbering, nbytes, box)
    else:
        yield from btree2_entries(file, address, len(chunkshape), nbytes, box)


def _single(index: IndexParameters, address: int, nbytes: int, rank: int) -> Entries:
    size = nbytes if index.chunk_size is None else index.chunk_size
    return Entries(
        [np.zeros(1, np.uint64)] * rank,
        np.array([address], np.uint64),
        np.array([size], np.uint64),
        np.array([index.filter_mask], np.uint32),
    )


def _put(index: ChunkIndex, entries: Entries, base: int) -> None:
    """Put entries of the index where they belong; those outside of the located part are left out."""
    position = np.zeros(len(entries.address), np.int64)
    inside = np.ones(len(entries.address), bool)
    for coordinate, first, length in zip(entries.scaled, index.origin, index.address.shape, strict=True):
        along = coordinate - np.uint64(first)  # of one before the first: more than any length
        inside &= along < np.uint64(length)
        position *= length
        position += np.where(inside, along, 0).astype(np.int64)
    where, address = position[inside], entries.address[inside].astype(np.uint64)
    size = entries.size[inside].astype(np.uint64)
    # no chunk lies at the superblock, or so far that its place in the file could not be counted
    bad = (address == 0) | (address >= np.uint64(DAMAGED - base))
    most = np.uint64(np.iinfo(index.size.dtype).max)
    bad |= size > most
    index.address.reshape(-1)[where] = np.where(bad, np.uint64(DAMAGED), address + np.uint64(base))
    index.size.reshape(-1)[where] = np.minimum(size, most)
    index.filter_mask.reshape(-1)[where] = entries.mask[inside]


def _unfilter_edges(index: ChunkIndex, storage: ChunkStorage, extent: tuple[int, ...]) -> None:
    """Say that all filters were skipped for the chunks that reach beyond the extent (H5Pset_chunk_opts)."""
    skipped = np.uint32((1 << len(storage.pipeline.filters)) - 1)
    for axis, (length, chunk) in enumerate(zip(extent, storage.chunkshape or (), strict=False)):
        edge = length // chunk - index.origin[axis]
        if length % chunk and edge >= 0:
            there = (slice(None),) * axis + (slice(edge, edge + 1),)  # none of them in a box that ends before
            index.filter_mask[there][index.address[there] != MISSING] = skipped
