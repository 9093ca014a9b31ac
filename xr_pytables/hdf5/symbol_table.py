"""Old groups: a v1 B-tree of symbol table nodes by name (III.A.1, III.B, III.C), the names in a local heap.

Tested in `tests/hdf5/test_structures.py` and `tests/hdf5/test_oracles.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from .damage import Damaged, check_signature, check_version
from .links import Link, make_link
from .local_heap import LocalHeap
from .metadata import Metadata

_GROUP_NODE, _SOFT_LINK = 0, 2
_ENTRY: Final = struct.Struct("<QQII16s")
_Entry = tuple[int, int, int, int, bytes]
"""Offset of the name, address of the header, kind of cache, nothing, contents of the cache."""
_MAX_DEPTH: Final = 32


class SymbolTable:
    """The links of one old group."""

    def __init__(self, metadata: Metadata, root: int, heap: LocalHeap, k: int) -> None:
        self._metadata, self._root, self._heap = metadata, root, heap
        self._node_size = 24 + 16 * 2 * k + 8
        self._capacity = 2 * k

    def links(self) -> Iterator[Link]:
        """All links in the order of the tree: by name."""
        seen = {self._root}
        addresses, level = [self._root], -1
        while True:
            children = list[int]()
            self._metadata.prefetch((address, self._node_size) for address in addresses)
            for address in addresses:
                found, _, below = self._node(address, level)
                children += below
            before = len(seen)
            seen.update(children)
            if len(seen) != before + len(children):
                raise Damaged("the B-tree of the group refers to a node twice")
            addresses, level = children, found - 1
            if found == 0:
                break
        self._metadata.prefetch((address, 8) for address in addresses)
        left = self._heap.size
        for address in addresses:
            for entry in self._entries(address):
                link = self._link(entry)
                left -= len(link.name) + len(link.target)
                if left < 0:
                    raise Damaged("the names of links share their bytes")
                yield link

    def find(self, name: bytes) -> Link | None:
        """The link of that name, without the others."""
        address, level = self._root, -1
        for _ in range(_MAX_DEPTH):
            level, keys, children = self._node(address, level)
            for number, child in enumerate(children):  # a child has the names behind its key up to the next
                if name <= self._heap.raw_name(keys[number + 1]):
                    address = child
                    break
            else:
                return None
            if level == 0:
                break
            level -= 1
        for entry in self._entries(address):
            if self._heap.raw_name(entry[0]) == name:
                return self._link(entry)
        return None

    def _node(self, address: int, level: int) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
        """Level, keys (one more than children) and children of a node; its level must be `level` if that is >= 0."""
        node = self._metadata.peek(address, self._node_size, "a B-tree node of a group")
        check_signature(node, b"TREE")
        kind, found, used = struct.unpack_from("<BBH", node, 4)
        is_empty = found > 0 and not used  # as only the leaf of an empty group is
        if kind != _GROUP_NODE or level not in (found, -1) or found > _MAX_DEPTH or used > self._capacity or is_empty:
            raise Damaged(
                f"the B-tree node at {address} has type {kind}, level {found} and {used} children; expected type "
                f"{_GROUP_NODE}{f', level {level}' if level >= 0 else ''} and {self._capacity} children at most, none "
                "only at level 0"
            )
        words = struct.unpack_from(f"<{2 * used + 1}Q", node, 24)
        return found, words[::2], words[1::2]

    def _entries(self, address: int) -> Iterator[_Entry]:
        head = self._metadata.read(address, 8, "a symbol table node")
        check_signature(head, b"SNOD")
        check_version(head[4], 1)
        (count,) = struct.unpack_from("<H", head, 6)
        body = self._metadata.read(address + 8, 40 * count, "a symbol table node")
        yield from _ENTRY.iter_unpack(body)

    def _link(self, entry: _Entry) -> Link:
        offset, header, cache, _, scratch = entry
        raw = self._heap.raw_name(offset)
        if cache == _SOFT_LINK:
            return make_link(raw, "soft", self._heap.raw_name(int.from_bytes(scratch[:4], "little")))
        return make_link(raw, "hard", address=header)
