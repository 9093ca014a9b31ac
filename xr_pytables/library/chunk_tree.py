"""Writing chunk indexes: the v1 B-trees that `hdf5.chunk_btree1` and HDF5 read, for files that were just made here.

HDF5 has no call that registers a chunk whose bytes are in the file already. So the committer of a new file writes the
nodes itself, puts the root's address into the dataset's header and the end of the file into the superblock. All of
these are structures of the oldest format, in which `target_file` makes files; anything else is refused. Numbers of
sections are those of the HDF5 File Format Specification, version 3.0.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..chunks.index import MISSING, SIGNATURE, UNDEFINED, ChunkIndex, ChunkStorage
from ..disk.arenas import write_at
from ..errors import ChunkError
from ..hdf5 import checksum
from ..hdf5.chunk_btree1 import tree_node
from ..hdf5.object_header import CONTINUATION, DATA_LAYOUT, decode_prefix
from ..sources.positioned import pread
from . import libhdf5 as h5
from .libhdf5 import call, opened

_CAPACITY: Final = 64
"""Children of a node: twice the K of a superblock of version 0, which has no field for it."""
_NODES_AT_ONCE: Final = 1024
_END_OF_FILE: Final = 40
"""Where the superblock has the address of the end of the file (II.A)."""
_LONGEST_PREFIX: Final = 64
"""Bytes: in these an object header says where its messages begin."""


def tree_size(index: ChunkIndex, storage: ChunkStorage) -> int:
    """Bytes that the tree takes in the file."""
    count, nodes = int(np.count_nonzero(index.address)), 0
    while count:
        count = -(-count // _CAPACITY)
        nodes += count
        if count == 1:
            break
    return nodes * tree_node(storage.rank, _CAPACITY).itemsize


def write_tree(fd: int, index: ChunkIndex, storage: ChunkStorage, at: int) -> int:
    """Write the tree of all chunks of a dataset at the offset `at`; the address of its root, or UNDEFINED.

    `index` is that of the whole grid, with the addresses of a file without a user block. Memory is bounded: some
    thousand nodes at a time.
    """
    tree = _Tree(index, storage)
    if not tree.count:
        return UNDEFINED
    level, below, stride = 0, 0, 1
    while True:
        entries = -(-tree.count // stride)
        nodes = -(-entries // _CAPACITY)
        for first, block in tree.nodes(level, entries, stride, at=at, below=below):
            write_at(fd, block, at + first * block.itemsize)
        if nodes == 1:
            return at
        below, at = at, at + nodes * tree.node.itemsize
        level, stride = level + 1, stride * _CAPACITY


class _Tree:
    """The nodes of one tree, level by level (III.A.1). Each is full but for the last ones of a level."""

    def __init__(self, index: ChunkIndex, storage: ChunkStorage) -> None:
        self.chunkshape = np.array((storage.chunkshape or ())[: storage.rank], np.uint64)
        self.grid = index.address.shape
        self.element_size = storage.element_size
        self.address = index.address.reshape(-1)
        self.size, self.mask = index.size.reshape(-1), index.filter_mask.reshape(-1)
        self.stored = np.flatnonzero(self.address != MISSING)  # in the order of the tree: the first dimension first
        self.count = len(self.stored)
        self.node = tree_node(storage.rank, _CAPACITY)
        self.key = self.node["last"]

    def nodes(
        self, level: int, entries: int, stride: int, *, at: int, below: int
    ) -> Iterator[tuple[int, NDArray[Any]]]:
        """The nodes of a level from left to right, some at a time, each time with the number of the first.

        Entry *i* of the level stands for the chunks from number *i* x `stride` on. The level begins at `at`, the one
        below it at `below`.
        """
        count = -(-entries // _CAPACITY)
        for first in range(0, count, _NODES_AT_ONCE):
            numbers = np.arange(first, min(first + _NODES_AT_ONCE, count))
            block = np.zeros(len(numbers), self.node)
            block["signature"], block["type"], block["level"] = b"TREE", 1, level
            places = (at + numbers * self.node.itemsize).astype("u8")
            none, size = np.uint64(UNDEFINED), np.uint64(self.node.itemsize)
            block["left"] = np.where(numbers > 0, places - size, none)
            block["right"] = np.where(numbers < count - 1, places + size, none)
            begins = numbers * _CAPACITY
            ends = np.minimum(begins + _CAPACITY, entries)
            block["used"] = ends - begins
            held = np.arange(begins[0], ends[-1])
            slots = np.zeros(block["entries"].size, block["entries"].dtype)
            slots["key"][: len(held)] = self._keys(held * stride)
            slots["child"][: len(held)] = (
                below + held * self.node.itemsize if level else self.address[self.stored[held * stride]]
            )
            block["entries"] = slots.reshape(block["entries"].shape)
            self._close(block, ends, entries, stride)
            yield first, block

    def _close(self, block: NDArray[Any], ends: NDArray[np.int64], entries: int, stride: int) -> None:
        """Set the key behind the last child of each node: where the next node begins, or all chunks end."""
        inner = ends < entries
        block["last"][inner] = self._keys(ends[inner] * stride)
        if inner[-1]:
            return
        used = int(block["used"][-1])
        if used < _CAPACITY:  # keys and children alternate: that key has the place of the next entry's
            block["entries"]["key"][-1, used] = self._end()
        else:
            block["last"][-1] = self._end()

    def _keys(self, numbers: NDArray[np.int64]) -> NDArray[Any]:
        chunks = self.stored[numbers]
        keys = np.zeros(len(chunks), self.key)
        keys["size"], keys["mask"] = self.size[chunks], self.mask[chunks]
        keys["offset"][:, :-1] = self._corners(chunks)
        return keys

    def _corners(self, chunks: NDArray[np.int64]) -> NDArray[np.uint64]:
        return np.stack(np.unravel_index(chunks, self.grid), axis=-1).astype(np.uint64) * self.chunkshape

    def _end(self) -> Any:
        """What HDF5 makes the last key of a tree: the far corner of the last chunk, and the size of an element."""
        key = np.zeros(1, self.key)
        key["offset"][0, :-1] = self._corners(self.stored[-1:])[0] + self.chunkshape
        key["offset"][0, -1] = self.element_size
        return key[0]


def set_root(fd: int, header: int, root: int) -> None:
    """Make `root` the address of the chunk index of the dataset with its header at `header` (IV.A.2.i).

    Raises FormatError if that is not a chunked dataset of the format in which files are made here.
    """
    version, prefix, start, end = decode_prefix(pread(fd, _LONGEST_PREFIX, header))
    blocks = [(header, start, end)]  # a block of the header: where it is, where in it messages begin and end
    for address, start, end in blocks:  # grows while it is walked
        block = bytearray(pread(fd, end, address))
        for place, kind, body in _messages(block, start, end, prefix):
            if kind == CONTINUATION:
                at, count = struct.unpack_from("<QQ", body)
                blocks.append((at, 0, count) if version == 1 else (at, 4, count - 4))
            elif kind == DATA_LAYOUT:
                if body[:2] != b"\x03\x02":
                    raise ChunkError(
                        f"the data layout in the header at {header} has version and class {tuple(body[:2])}, expected "
                        "(3, 2)"
                    )
                struct.pack_into("<Q", block, place + 3, root)
                if version == 2:  # its blocks end with a checksum
                    block += struct.pack("<I", checksum.lookup3(bytes(block)))
                write_at(fd, block, address)
                return
    raise ChunkError(f"the object header at {header} has no data layout message")


def _messages(block: bytearray, start: int, end: int, prefix: int) -> Iterator[tuple[int, int, bytes]]:
    """Place in the block, type and content of the messages of a block of an object header (IV.A.1)."""
    place = start
    while place + prefix <= end:
        kind, length = struct.unpack_from("<HH" if prefix == 8 else "<BH", block, place)
        place += prefix
        yield place, kind, bytes(block[place : place + length])
        place += length


def set_end_of_file(fd: int, end: int) -> None:
    """Make the file end at `end`, for HDF5 and for the system. ChunkError for another format of superblock."""
    block = pread(fd, _END_OF_FILE, 0)
    # version of the superblock, sizes of addresses and lengths, base address
    if block[:9] != SIGNATURE + b"\0" or block[13:15] != b"\x08\x08" or any(block[24:32]):
        raise ChunkError("the superblock is not of version 0, in which files are made")
    write_at(fd, struct.pack("<Q", end), _END_OF_FILE)
    os.ftruncate(fd, end)


def check_with_hdf5(path: str, indexes: Mapping[str, ChunkIndex], storages: Mapping[str, ChunkStorage]) -> None:
    """Raise OSError if HDF5, which walks through all of an index, does not find the chunks of each array, by its path.

    The caller holds the HDF5 lock.
    """
    h5.silence_this_thread()
    with opened("H5Fopen", os.fsencode(path), h5.READ_ONLY, h5.DEFAULT) as file:
        for name, index in indexes.items():
            with opened("H5Oopen", file, h5.name_bytes(name), h5.DEFAULT) as array:
                stored = np.flatnonzero(index.address)
                if call("H5Dget_storage_size", array) != int(index.size.sum(dtype=np.int64)):
                    raise OSError(f"{path}:{name}: HDF5 does not find all chunks")
                for number in {*stored[:1].tolist(), *stored[len(stored) // 2 :][:1].tolist(), *stored[-1:].tolist()}:
                    at = np.unravel_index(number, index.address.shape)
                    corner = [int(one) * chunk for one, chunk in zip(at, storages[name].chunkshape or (), strict=True)]
                    expected = tuple(int(column[at]) for column in (index.address, index.size, index.filter_mask))
                    if h5.chunk_info(array, corner) != expected:
                        raise OSError(f"{path}:{name}: HDF5 does not find the chunk at {corner} where it is")
