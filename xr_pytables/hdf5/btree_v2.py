"""The v2 B-tree (III.A.2): records in order of a key, in nodes that are checksummed.

Tested in `tests/hdf5/test_structures.py` and `tests/hdf5/test_oracles.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from .damage import Damaged, bytes_needed, check_signature, check_version
from .metadata import UNDEFINED, Metadata

HUGE_OBJECTS, HUGE_FILTERED, HUGE_DIRECT, HUGE_DIRECT_FILTERED, LINK_NAMES, LINK_ORDER, SHARED, ATTRIBUTE_NAMES = range(
    1, 9
)
_MAX_DEPTH: Final = 32
_OVERHEAD: Final = 10  # bytes of a node: signature, version, type, checksum


class _Level(NamedTuple):
    """How the nodes of one level are laid out; leaves are level 0."""

    capacity: int
    """Records."""
    total_width: int
    """Bytes that say how many records there are below a child of the level above; 0 for leaves, which need none."""


class _Node(NamedTuple):
    address: int
    records: int
    level: int


_Contents = tuple[list[bytes], list[_Node]]
"""Records and children of a node."""


class BTreeV2:
    """A tree whose records all have the same size."""

    HEADER_BYTES: Final = 38

    def __init__(self, metadata: Metadata, address: int, kind: int) -> None:
        head = metadata.read(address, self.HEADER_BYTES, "the header of a v2 B-tree")
        check_signature(head, b"BTHD")
        check_version(head[4], 0)
        metadata.check(address, head)
        found, self._node_size, self.record_size, self.depth = struct.unpack_from("<BIHH", head, 5)
        root, root_count, self.count = struct.unpack_from("<QHQ", head, 16)
        if found != kind:
            raise Damaged(f"a v2 B-tree of type {found}, expected {kind}")
        if not self.record_size or self._node_size <= _OVERHEAD or self.depth > _MAX_DEPTH:
            raise Damaged(
                f"a v2 B-tree of depth {self.depth} with records of {self.record_size} bytes in nodes of "
                f"{self._node_size} bytes"
            )
        if self.count * self.record_size > metadata.size:
            raise Damaged(f"a v2 B-tree of {self.count} records, more than the file has bytes for")
        self._metadata, self._kind = metadata, kind
        self._levels = [_Level((self._node_size - _OVERHEAD) // self.record_size, 0)]
        self._count_width = bytes_needed(self._levels[0].capacity)
        self._add_levels()
        self._known: dict[_Node, _Contents] = {}
        self._root = None if root == UNDEFINED or not self.count else _Node(root, root_count, self.depth)

    def _add_levels(self) -> None:
        total = self._levels[0].capacity
        for _ in range(self.depth):
            pointer = 8 + self._count_width + self._levels[-1].total_width
            capacity = (self._node_size - _OVERHEAD - pointer) // (self.record_size + pointer)
            if capacity < 1:
                raise Damaged(f"nodes of {self._node_size} bytes in a v2 B-tree of depth {self.depth}")
            total = (capacity + 1) * total + capacity
            self._levels.append(_Level(capacity, bytes_needed(total)))

    def records(self) -> Iterator[bytes]:
        """All records; those of inner nodes come before the ones around them."""
        seen, nodes, found = set[int](), [self._root] if self._root else [], 0
        while nodes:
            children = list[_Node]()
            for node, (records, below) in zip(nodes, self._read(nodes), strict=True):
                if node.address in seen:
                    raise Damaged(f"the v2 B-tree refers to the node at {node.address} twice")
                seen.add(node.address)
                found += len(records)
                children += below
                yield from records
            nodes = children
        if found != self.count:
            raise Damaged(f"the v2 B-tree has {found} records, expected {self.count}")

    def find(self, key: int, key_of: Callable[[bytes], int]) -> Iterator[bytes]:
        """The records whose key is `key`, if `key_of` gives the number by which they are sorted."""
        nodes = [self._root] if self._root else []
        while nodes:
            children = list[_Node]()
            for records, below in self._read(nodes):
                keys = [key_of(record) for record in records]
                yield from (record for record, own in zip(records, keys, strict=True) if own == key)
                for number, child in enumerate(below):
                    if (number == 0 or keys[number - 1] <= key) and (number == len(keys) or key <= keys[number]):
                        children.append(child)
            if len(children) > 1 << 10:
                raise Damaged("too many records of a v2 B-tree have the same key")
            nodes = children

    def _read(self, nodes: list[_Node]) -> list[_Contents]:
        """The contents of nodes of one level, checksums verified; each node is read once."""
        missing = [node for node in nodes if node not in self._known]
        if len(missing) > 1:
            self._metadata.verify((node.address, self._used(node)) for node in missing)
        for node in missing:
            block = self._metadata.read(node.address, self._used(node), "a node of a v2 B-tree")
            self._metadata.check(node.address, block)
            self._known[node] = self._decode(node, block)
        return [self._known[node] for node in nodes]

    def _used(self, node: _Node) -> int:
        """Bytes of a node that mean something, its checksum among them."""
        pointers = (node.records + 1) * self._pointer_size(node.level) if node.level else 0
        used: int = _OVERHEAD + node.records * self.record_size + pointers
        if used > self._node_size:
            raise Damaged(f"a node of a v2 B-tree with {node.records} records, more than it has room for")
        return used

    def extents(self) -> list[tuple[int, int]]:
        """Address and bytes of the root, to be verified together with those of other trees."""
        return [(self._root.address, self._used(self._root))] if self._root else []

    def children(self) -> list[tuple[int, int]]:
        """The same of the nodes below the root."""
        if self._root is None or not self.depth:
            return []
        return [(node.address, self._used(node)) for node in self._read([self._root])[0][1]]

    def _pointer_size(self, level: int) -> int:
        return 8 + self._count_width + self._levels[level - 1].total_width

    def _decode(self, node: _Node, data: bytes) -> _Contents:
        """The records and the children of a node."""
        check_signature(data, b"BTIN" if node.level else b"BTLF")
        check_version(data[4], 0)
        if data[5] != self._kind:
            raise Damaged(f"a node of type {data[5]} in a v2 B-tree of type {self._kind}")
        size, place = self.record_size, 6
        end = place + node.records * size
        records = [data[start : start + size] for start in range(place, end, size)]
        if not node.level:
            return records, []
        step, width = self._pointer_size(node.level), self._count_width
        return records, [
            _Node(
                int.from_bytes(data[start : start + 8], "little"),
                int.from_bytes(data[start + 8 : start + 8 + width], "little"),
                node.level - 1,
            )
            for start in range(end, end + (node.records + 1) * step, step)
        ]
