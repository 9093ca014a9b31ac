"""Chunks in a version 1 B-tree (III.A.1), the index of all chunked datasets before HDF5 1.10.

Tested in `tests/hdf5/test_chunk_indexes.py`.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ChunkError
from .chunk_entries import Box, Entries, IndexFile, Span, batches, check_each_once, is_after
from .metadata import UNDEFINED


def btree1_entries(file: IndexFile, root: int, k: int, chunkshape: tuple[int, ...], box: Box) -> Iterator[Entries]:
    """The entries of the leaf nodes that can hold chunks of the box. Nodes have room for 2 `k` children.

    Only the branches that can hold them are read. These trees have no checksum: that chunks are in order, and where the
    nodes above say, is what tells a damaged one.
    """
    for entries in _leaf_entries(file, root, 2 * k, chunkshape, box):
        key = entries["key"]
        scaled = []
        for axis, length in enumerate(chunkshape):  # column by column: a (n, rank) temporary would cost more
            coordinate, rest = np.divmod(key["offset"][:, axis], np.uint64(length))
            if rest.any():
                raise ChunkError(f"a chunk of the index begins between two chunks (dimension {axis})")
            scaled.append(coordinate)
        yield Entries(scaled, entries["child"], key["size"], key["mask"])


def tree_node(rank: int, capacity: int) -> np.dtype[Any]:
    """A node: keys are size, filter mask and offset in elements, one more than children."""
    key = np.dtype([("size", "<u4"), ("mask", "<u4"), ("offset", "<u8", (rank + 1,))])
    return np.dtype(
        [
            ("signature", "S4"), ("type", "u1"), ("level", "u1"), ("used", "<u2"), ("left", "<u8"),
            ("right", "<u8"), ("entries", np.dtype([("key", key), ("child", "<u8")]), (capacity,)), ("last", key),
        ]
    )  # fmt: skip


def _leaf_entries(
    file: IndexFile, root: int, capacity: int, chunkshape: tuple[int, ...], box: Box
) -> Iterator[NDArray[Any]]:
    node = tree_node(len(chunkshape), capacity)
    low = np.array([first * length for first, length in zip(box.first, chunkshape, strict=True)], np.uint64)
    high = np.array([last * length for last, length in zip(box.last, chunkshape, strict=True)], np.uint64)
    addresses, level, visited = np.array([root], np.uint64), -1, 0
    rank = len(chunkshape) + 1  # of the keys: the bytes of an element count as a dimension
    least, beyond = np.zeros((1, rank), np.uint64), np.full((1, rank), np.uint64(UNDEFINED))
    while True:
        visited += len(addresses)
        # nodes do not overlap, so a sound tree has no more of them than fit into the file; the level falls by one
        # from parent to child: together they end any loop
        check_each_once(addresses, visited * node.itemsize, file, "the chunk B-tree")
        children: list[tuple[NDArray[np.uint64], ...]] = []
        for part in batches(addresses, node.itemsize):
            nodes = _read_nodes(file, addresses[part], node)
            level = _check_nodes(nodes, level, capacity)
            used = np.arange(capacity) < nodes["used"][:, None]
            after = _check_order(nodes, used, least[part], beyond[part])
            if level == 0:
                yield nodes["entries"][used]
            else:
                wanted = used & _may_hold(nodes, low, high)
                entries = nodes["entries"][wanted]
                children.append((entries["child"], entries["key"]["offset"], after[wanted]))
        if level == 0 or not children:
            return
        addresses, least, beyond = (np.concatenate(parts) for parts in zip(*children, strict=True))
        level -= 1


def _read_nodes(file: IndexFile, addresses: NDArray[np.uint64], node: np.dtype[Any]) -> NDArray[Any]:
    return file.nodes(addresses, node.itemsize, "a node of the chunk B-tree").view(node).reshape(-1)


def _check_nodes(nodes: NDArray[Any], level: int, capacity: int) -> int:
    """The level of these nodes (0: leaves), after checking that they are chunk nodes of `level` (-1: any)."""
    if np.any(nodes["signature"] != b"TREE") or np.any(nodes["type"] != 1):
        raise ChunkError("a node of the chunk B-tree has no signature, or another type")
    found = int(nodes["level"][0])
    if np.any(nodes["level"] != (found if level < 0 else level)):
        raise ChunkError("the levels of the chunk B-tree do not fall by one")
    if np.any(nodes["used"] > capacity):
        raise ChunkError(f"a node of the chunk B-tree claims more than {capacity} children")
    return found


def _check_order(
    nodes: NDArray[Any], used: NDArray[np.bool_], least: NDArray[np.uint64], beyond: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    """Raise ChunkError unless the chunks of each node ascend, from `least` on and before `beyond` (a row for each).

    HDF5 looks for a chunk between two keys of each node, and takes what it does not find for missing. Returns the key
    behind each entry.
    """
    begin = nodes["entries"]["key"]["offset"]
    after = np.concatenate([begin[:, 1:], nodes["last"]["offset"][:, None]], axis=1)
    last = begin[np.arange(len(nodes)), np.maximum(nodes["used"].astype(np.int64) - 1, 0)]
    outside = _before(begin[:, 0], least) | ~_before(last, beyond)
    odd = ~_before(begin, after) | (begin[..., -1] != 0)
    if np.any(used & odd) or np.any(used[:, 0] & outside):
        raise ChunkError("the chunks of the B-tree are not in order")
    return after


def _before(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Whether places come before others, the first dimension first."""
    before = np.zeros(first.shape[:-1], bool)
    equal = np.ones(first.shape[:-1], bool)
    for axis in range(first.shape[-1]):
        before |= equal & (first[..., axis] < second[..., axis])
        equal &= first[..., axis] == second[..., axis]
    return before


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


def btree1_listing(file: IndexFile, root: int, k: int, chunkshape: tuple[int, ...]) -> Iterator[NDArray[np.uint64]]:
    """Where all chunks of the tree begin (elements, a row for each), in the order of the tree, after checks.

    Raises ChunkError where keys contradict one another: no read of all chunks would miss any then, but a read of a part
    goes by the keys.
    """
    node = tree_node(len(chunkshape), 2 * k)
    addresses, level, visited = np.array([root], np.uint64), -1, 0
    low = high = None
    while len(addresses):
        visited += len(addresses)
        check_each_once(addresses, visited * node.itemsize, file, "the chunk B-tree")
        children, lows, highs = [], [], []
        for part in batches(addresses, node.itemsize):
            nodes = _read_nodes(file, addresses[part], node)
            level = _check_nodes(nodes, level, 2 * k)
            left = nodes["entries"]["key"]["offset"]
            right = np.concatenate([left[:, 1:], nodes["last"]["offset"][:, None]], axis=1)
            used = np.arange(2 * k) < nodes["used"][:, None]
            if low is not None and high is not None:
                lowest, highest = _repeated(low[part], used), _repeated(high[part], used)
                if is_after(lowest, left[used]).any() or is_after(right[used], highest).any():
                    raise ChunkError("a node of the chunk B-tree has keys outside of those that its parent has for it")
            if is_after(left[used], right[used]).any():
                raise ChunkError("the keys of a node of the chunk B-tree do not ascend")
            if level == 0:
                yield left[used][:, :-1]
            else:
                children.append(nodes["entries"]["child"][used])
                lows.append(left[used])
                highs.append(right[used])
        if level == 0:
            return
        addresses, level = np.concatenate(children), level - 1
        low, high = np.concatenate(lows), np.concatenate(highs)


def btree1_nodes(
    file: IndexFile, root: int, k: int, chunkshape: tuple[int, ...], span: Span | None = None
) -> tuple[NDArray[np.uint64], NDArray[np.uint64], int]:
    """Addresses of the nodes of the tree, those of nodes beside them, and the bytes of a node.

    With `span` they are those alone that HDF5 writes to if chunks from the first to the last are added, changed or
    removed: on each level the nodes in which they are, or would be; and beside the ones before and behind, which have
    pointers to them and share keys. Without it nothing is beside.
    """
    node = tree_node(len(chunkshape), 2 * k)
    run, level, found = np.array([root], np.uint64), -1, list[NDArray[np.uint64]]()
    beside: list[int] = []
    while True:
        found.append(run)
        check_each_once(run, sum(map(len, found)) * node.itemsize, file, "the chunk B-tree")
        ends = _read_nodes(file, run[[0, -1]], node)
        level = _check_nodes(ends, level, 2 * k)
        if span is not None:
            beside += {int(ends["left"][0]), int(ends["right"][1])} - {UNDEFINED}
        children = []
        for part in batches(run, node.itemsize) if level else ():
            nodes = _read_nodes(file, run[part], node)
            _check_nodes(nodes, level, 2 * k)
            used = np.arange(2 * k) < nodes["used"][:, None]
            if span is not None and part.start == 0:
                used[0, : _child(nodes[0], span.first, chunkshape)] = False
            if span is not None and part.stop >= len(run):
                used[-1, _child(nodes[-1], span.last, chunkshape) + 1 :] = False
            children.append(nodes["entries"]["child"][used])
        run = np.concatenate([np.empty(0, np.uint64), *children])
        if not len(run):
            return np.concatenate(found), np.array(beside, np.uint64), node.itemsize
        level -= 1


def _child(node: NDArray[Any], chunk: tuple[int, ...], chunkshape: tuple[int, ...]) -> int:
    """Which child of a node HDF5 goes to for a chunk: those before the first and behind the last are at the ends."""
    begins = node["entries"]["key"]["offset"][: int(node["used"]), :-1].tolist()
    corner = [number * length for number, length in zip(chunk, chunkshape, strict=True)]
    return max(bisect.bisect_right(begins, corner) - 1, 0)


def _repeated(bounds: NDArray[np.uint64], used: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """What holds for a node, once for each of its entries."""
    repeated: NDArray[np.uint64] = np.repeat(bounds, used.sum(axis=1), axis=0)
    return repeated
