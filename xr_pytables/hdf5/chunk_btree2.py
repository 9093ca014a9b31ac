"""Chunks in a version 2 B-tree (III.A.2, records of type 10 and 11): datasets with two unlimited dimensions or more.

Tested in `tests/hdf5/test_chunk_indexes.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import ChunkError
from .chunk_entries import ADDRESS, CHECKSUM, Box, Entries, IndexFile, batches, check_each_once, integers, is_after
from .damage import bytes_needed

_PREFIX: Final = 6  # bytes before the records of a node: signature, version, type
_MAX_DEPTH: Final = 32
_WHAT: Final = "a node of the chunk B-tree"
_Corner = tuple[int, ...]


class _Tree(NamedTuple):
    file: IndexFile
    kind: int
    """Type of the records: 10 without, 11 with size and filter mask."""
    node_size: int
    record: np.dtype[Any]
    room: list[int]
    """Records that a node can have, by its level (0: leaves)."""
    counts: list[int]
    """Records that the tree below a node can have, by its level."""

    @property
    def count_size(self) -> int:
        """Bytes of the number of records of a child."""
        return bytes_needed(self.room[0])

    def pointer_size(self, level: int) -> int:
        """Bytes of a pointer in a node of this level: address, records of the child, records below the child."""
        return ADDRESS + self.count_size + (bytes_needed(self.counts[level - 1]) if level > 1 else 0)


@dataclass(frozen=True)
class _Node:
    """Where a node is, and between which chunks its own lie (None: no bound)."""

    address: int
    count: int
    after: _Corner | None
    before: _Corner | None


def btree2_entries(file: IndexFile, address: int, rank: int, chunk_nbytes: int, box: Box) -> Iterator[Entries]:
    """The entries of the nodes that can hold chunks of the box. Only the branches that can hold them are read."""
    tree, depth, root = _header(file, address, rank)
    if not root.count:
        return
    nodes, visited = [root], 0
    for level in range(depth, 0, -1):
        visited += len(nodes)
        _check_once(tree, nodes, visited)
        children = []
        for node in nodes:
            records, found = _internal(tree, node, level)
            yield _entries(tree, records, rank, chunk_nbytes)
            children += [child for child in found if _may_hold(child, box)]
        nodes = children
    _check_once(tree, nodes, visited + len(nodes))
    for records in _leaves(tree, nodes):
        yield _entries(tree, records, rank, chunk_nbytes)


def _header(file: IndexFile, address: int, rank: int) -> tuple[_Tree, int, _Node]:
    data = file.block(address, 38, b"BTHD", "the header of the chunk B-tree")
    version, kind, node_size, record_size, depth = struct.unpack_from("<BBIHH", data, 4)
    root, count = struct.unpack_from("<QH", data, 16)
    width = record_size - ADDRESS - 4 - 8 * rank
    plain = kind == 10 and record_size == ADDRESS + 8 * rank
    if version or not (plain or (kind == 11 and 0 < width <= 8)):
        raise ChunkError(f"the chunk B-tree has version {version} and records of type {kind}, {record_size} bytes each")
    fields: list[Any] = [("address", "<u8")]
    if not plain:
        fields += [("size", "u1", (width,)), ("mask", "<u4")]
    record = np.dtype([*fields, ("scaled", "<u8", (rank,))])
    room = [(node_size - _PREFIX - CHECKSUM) // record_size]
    counts = room[:]
    if room[0] < 1 or depth > _MAX_DEPTH:
        raise ChunkError(f"the chunk B-tree has nodes of {node_size} bytes on {depth} levels")
    tree = _Tree(file, kind, node_size, record, room, counts)
    for level in range(1, depth + 1):
        pointer = tree.pointer_size(level)
        room.append((node_size - _PREFIX - CHECKSUM - pointer) // (record_size + pointer))
        counts.append((room[level] + 1) * counts[level - 1] + room[level])
    return tree, depth, _Node(root, count, None, None)


def _check_once(tree: _Tree, nodes: list[_Node], visited: int) -> None:
    addresses = np.array([node.address for node in nodes], np.uint64)
    check_each_once(addresses, visited * tree.node_size, tree.file, "the chunk B-tree")


def _internal(tree: _Tree, node: _Node, level: int) -> tuple[NDArray[Any], list[_Node]]:
    """The records of an internal node, and its children."""
    file, width, pointer = tree.file, tree.count_size, tree.pointer_size(level)
    if not 0 < node.count <= tree.room[level]:
        raise ChunkError(f"{_WHAT} at {node.address} is said to have {node.count} records")
    begin = _PREFIX + node.count * tree.record.itemsize
    size = begin + (node.count + 1) * pointer + CHECKSUM
    data = file.block(node.address, size, b"BTIN", _WHAT)
    _check_prefix(np.frombuffer(data, np.uint8)[None], tree, b"BTIN")
    records = np.frombuffer(data, tree.record, node.count, _PREFIX)
    _check_order([node], records)
    corners: list[_Corner | None] = [node.after, *map(tuple, records["scaled"].tolist()), node.before]
    children = []
    for i in range(node.count + 1):
        place = begin + i * pointer
        counted = place + ADDRESS
        children.append(
            _Node(
                int.from_bytes(data[place:counted], "little"),
                int.from_bytes(data[counted : counted + width], "little"),
                corners[i],
                corners[i + 1],
            )
        )
    return records, children


def _leaves(tree: _Tree, nodes: list[_Node]) -> Iterator[NDArray[Any]]:
    addresses = np.array([node.address for node in nodes], np.uint64)
    counts = np.array([node.count for node in nodes], np.int64)
    if (counts > tree.room[0]).any():
        raise ChunkError(f"{_WHAT} is said to have {counts.max()} records, there is room for {tree.room[0]}")
    for part in batches(addresses, tree.node_size):
        used = _PREFIX + counts[part] * tree.record.itemsize + CHECKSUM
        rows = tree.file.nodes(addresses[part], tree.node_size, _WHAT, used)
        _check_prefix(rows, tree, b"BTLF")
        room = tree.room[0] * tree.record.itemsize
        records = np.ascontiguousarray(rows[:, _PREFIX : _PREFIX + room]).view(tree.record)
        found = records[np.arange(tree.room[0]) < counts[part][:, None]]
        _check_order(nodes[part], found)
        yield found


def _check_order(nodes: list[_Node], records: NDArray[Any]) -> None:
    """Raise ChunkError unless the chunks of each node ascend, between its bounds.

    HDF5 looks for a chunk by this order, and takes what it does not find for missing. `records` are those of all nodes.
    """
    chunks, begins, place = records["scaled"], list[int](), 0
    lows, highs = list[tuple[int, _Corner]](), list[tuple[int, _Corner]]()
    for node in nodes:
        if node.count:
            begins.append(place)
            place += node.count
            if node.after is not None:
                lows.append((begins[-1], node.after))
            if node.before is not None:
                highs.append((place - 1, node.before))
    others = np.delete(np.arange(len(chunks)), begins)
    low, high = (np.array([number for number, _ in bounds], np.int64) for bounds in (lows, highs))
    least, beyond = (_corners([corner for _, corner in bounds], chunks.shape[1]) for bounds in (lows, highs))
    pairs = (chunks[others], chunks[others - 1]), (chunks[low], least), (beyond, chunks[high])
    if not all(is_after(one, other).all() for one, other in pairs):
        raise ChunkError("the chunks of the B-tree are not in order")


def _corners(corners: list[_Corner], rank: int) -> NDArray[np.uint64]:
    return np.array(corners, np.uint64).reshape(-1, rank)


def _check_prefix(rows: NDArray[np.uint8], tree: _Tree, signature: bytes) -> None:
    if (rows[:, :_PREFIX] != np.frombuffer(signature + bytes((0, tree.kind)), np.uint8)).any():
        raise ChunkError(f"{_WHAT} has another signature, version or type than {signature.decode()}, 0, {tree.kind}")


def _entries(tree: _Tree, records: NDArray[Any], rank: int, chunk_nbytes: int) -> Entries:
    scaled = [records["scaled"][:, axis] for axis in range(rank)]
    address = records["address"].astype(np.uint64)
    if tree.kind == 11:
        return Entries(scaled, address, integers(records["size"]), records["mask"])
    return Entries(scaled, address, np.full(len(records), chunk_nbytes, np.uint64), np.zeros(len(records), np.uint32))


def _may_hold(node: _Node, box: Box) -> bool:
    """Whether chunks of the box may lie between the bounds of a node: sorted by the first dimension, then the second.

    A dimension is bounded as long as all dimensions before it are equal in both bounds.
    """
    after, before = node.after or (0,) * len(box.first), node.before
    for axis, (low, high) in enumerate(zip(box.first, box.last, strict=True)):
        if after[axis] > high or (before is not None and before[axis] < low):
            return False
        if before is None or after[axis] != before[axis]:
            return True
    return True  # nothing can lie between two equal bounds: whoever reads the node says so
