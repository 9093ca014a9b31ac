"""The fractal heap (III.G): objects of any size by an identifier, as dense links and attributes are.

Tested in `tests/hdf5/test_structures.py` and `tests/hdf5/test_oracles.py`.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import Final

from ..errors import FormatError
from .btree_v2 import HUGE_OBJECTS, BTreeV2
from .damage import OF_WRONG_BYTES, Damaged, Unsupported, bytes_needed, check_signature, check_version, taken
from .metadata import UNDEFINED, Metadata

_MANAGED, _HUGE, _TINY = 0, 1, 2
_CHECKSUMMED: Final = 2
_MAX_OBJECT: Final = 1 << 28  # bytes
_MAX_INDIRECT: Final = 1 << 10  # blocks that are looked at in advance
_LONGEST_NORMAL_ID: Final = 18  # bytes of an identifier; longer ones have room for longer tiny objects


class FractalHeap:
    """One heap. Blocks are read when an object in them is asked for, and kept."""

    HEADER_BYTES: Final = 146

    def __init__(self, metadata: Metadata, address: int) -> None:
        head = metadata.read(address, self.HEADER_BYTES, "the header of a fractal heap")
        check_signature(head, b"FRHP")
        check_version(head[4], 0)
        self.id_length, filtered, flags, largest = struct.unpack_from("<HHBI", head, 5)
        if filtered:
            raise Unsupported("compressed links or attributes (a fractal heap with filters)")
        metadata.check(address, head)
        self._huge_tree = struct.unpack_from("<Q", head, 22)[0]
        self._width, self._start, self._largest_direct, bits, _, self._root, self._root_rows = struct.unpack_from(
            "<HQQHHQH", head, 110
        )
        for size in (self._width, self._start, self._largest_direct):
            if not size or size & (size - 1):
                raise Damaged(f"a fractal heap with blocks of {size}, which is no power of two")
        if not self._start <= self._largest_direct < 1 << 32 or not 0 < bits <= 64:
            raise Damaged(f"a fractal heap with blocks of {self._start} to {self._largest_direct} bytes, {bits} bits")
        self._metadata, self.address = metadata, address
        self._offset_width = (bits + 7) // 8
        self._length_width = min((self._largest_direct.bit_length() + 6) // 8, bytes_needed(largest))
        self._checksummed = bool(flags & _CHECKSUMMED)
        self._direct_rows = self._largest_direct.bit_length() - self._start.bit_length() + 2
        self._first_row_bits = self._start.bit_length() + self._width.bit_length() - 2
        self._direct: dict[int, bytes] = {}
        self._begins, self._in_order = list[int](), list[bytes]()
        """Where the direct blocks that were read begin, and their bytes, in order."""
        self._indirect: dict[int, tuple[int, ...]] = {}
        self._huge: dict[int, tuple[int, int]] | None = None

    def objects(self, identifiers: Iterable[bytes]) -> Iterator[bytes]:
        """The objects of many identifiers, each its own: together they have no more bytes than the file."""
        left = self._metadata.size
        for identifier in identifiers:
            found = self.get(identifier)
            left -= len(found)
            if left < 0:
                raise Damaged("objects of a fractal heap share their bytes")
            yield found

    def root(self) -> list[tuple[int, int]]:
        """Address and bytes of the block that all others are found by."""
        if self._root == UNDEFINED:
            return []
        return [(self._root, self._indirect_size(self._root_rows) if self._root_rows else self._start)]

    def extents(self) -> list[tuple[int, int]]:
        """Address and bytes of all direct blocks that have a checksum, as far as they are found.

        `Metadata.verify` takes them, those of other heaps with the same `gap` too.
        """
        if not self._checksummed:
            return []
        if not self._root_rows:
            return [] if self._root == UNDEFINED else [(self._root, self._start)]
        found, todo, seen = list[tuple[int, int]](), [(self._root, self._root_rows, 0)], 0
        while todo and seen < _MAX_INDIRECT:
            block, rows, begin = todo.pop()
            try:
                children = self._children(block, rows, begin)
            except (*OF_WRONG_BYTES, FormatError):  # whoever asks for what is in it is told
                continue
            seen += 1
            for number, child in enumerate(children):
                row, column = divmod(number, self._width)
                size = self._row_size(row)
                if child == UNDEFINED:
                    continue
                if row < self._direct_rows:
                    found.append((child, size))
                else:
                    below = size.bit_length() - self._first_row_bits
                    todo.append((child, below, begin + self._row_start(row) + column * size))
        return found

    @property
    def gap(self) -> int:
        """Where the checksum of a direct block lies in it."""
        return 13 + int(self._offset_width)

    def get(self, identifier: bytes) -> bytes:
        """The object of that identifier."""
        kind = identifier[0] >> 4 & 3
        if identifier[0] >> 6 or kind > _TINY:
            raise Damaged(f"{identifier.hex()} is no identifier of an object in a fractal heap")
        if kind == _MANAGED:
            middle = 1 + self._offset_width
            offset = int.from_bytes(identifier[1:middle], "little")
            return self._managed(offset, int.from_bytes(identifier[middle : middle + self._length_width], "little"))
        if kind == _TINY:
            if self.id_length <= _LONGEST_NORMAL_ID:
                return taken(identifier, 1, (identifier[0] & 15) + 1)
            return taken(identifier, 2, ((identifier[0] & 15) << 8 | identifier[1]) + 1)
        return self._huge_object(identifier)

    def _huge_object(self, identifier: bytes) -> bytes:
        if self.id_length >= 17:  # the identifier has room for the place itself
            address, size = struct.unpack_from("<QQ", identifier, 1)
        else:
            address, size = self._huge_places()[int.from_bytes(identifier[1:9], "little")]
        if size > _MAX_OBJECT:
            raise Damaged(f"an object of {size} bytes, more than {_MAX_OBJECT}")
        return self._metadata.read(address, size, "a large object of a fractal heap")

    def _huge_places(self) -> dict[int, tuple[int, int]]:
        if self._huge is None:
            tree, self._huge = BTreeV2(self._metadata, self._huge_tree, HUGE_OBJECTS), {}
            for record in tree.records():
                address, size, key = struct.unpack_from("<QQQ", record)
                self._huge[key] = (address, size)
        return self._huge

    def _managed(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset` of the heap's own address space, which covers the blocks with their heads."""
        number = bisect_right(self._begins, offset) - 1
        if number >= 0:
            data, start = self._in_order[number], offset - self._begins[number]
            if start + length <= len(data):
                return data[start : start + length]
        rows, block, begin = self._root_rows, self._root, 0
        size = self._start if not rows else 0
        while rows:
            row, column = self._place_of(offset - begin)
            if row >= rows:
                raise Damaged(f"an object at {offset}, behind the end of the fractal heap")
            size = self._row_size(row)
            children = self._children(block, rows, begin)
            block, begin = children[row * self._width + column], begin + self._row_start(row) + column * size
            rows = size.bit_length() - 1 - self._first_row_bits + 1 if row >= self._direct_rows else 0
            if row >= self._direct_rows and rows < 1:
                raise Damaged("a fractal heap whose blocks do not become smaller")
        data = self._block(block, size, begin)
        return taken(data, offset - begin, length)

    def _place_of(self, offset: int) -> tuple[int, int]:
        """Row and column of the block that holds an offset in the doubling table."""
        if offset < self._start * self._width:
            return 0, offset // self._start
        high = offset.bit_length() - 1
        row = high - self._first_row_bits + 1
        return row, (offset - (1 << high)) // self._row_size(row)

    def _row_size(self, row: int) -> int:
        """Bytes of a block of a row: those of the second have the size of the first's, then it doubles."""
        size: int = self._start << max(row - 1, 0)
        return size

    def _row_start(self, row: int) -> int:
        start: int = self._width * self._start << (row - 1) if row else 0
        return start

    def _children(self, address: int, rows: int, begin: int) -> tuple[int, ...]:
        """Addresses of the children of the indirect block at `address`, which begins at `begin` of the heap."""
        children = self._indirect.get(address)
        if children is None:
            count = rows * self._width
            data = self._metadata.read(address, self._indirect_size(rows), "an indirect block")
            self._metadata.check(address, data)
            self._check_head(data, b"FHIB", begin)
            children = struct.unpack_from(f"<{count}Q", data, 13 + self._offset_width)
            self._indirect[address] = children
        if len(children) != rows * self._width:
            raise Damaged(f"the fractal heap refers to the block at {address} twice")
        return children

    def _indirect_size(self, rows: int) -> int:
        """Bytes of an indirect block."""
        return 17 + int(self._offset_width) + 8 * rows * int(self._width)

    def _block(self, address: int, size: int, begin: int) -> bytes:
        data = self._direct.get(address)
        if data is None:
            if address == UNDEFINED:
                raise Damaged(f"nothing is stored at {begin} of the fractal heap")
            data = self._metadata.read(address, size, "a direct block of a fractal heap")
            if self._checksummed:
                self._metadata.check(address, data, self.gap)
            self._check_head(data, b"FHDB", begin)
            self._direct[address] = data
            number = bisect_right(self._begins, begin)
            self._begins.insert(number, begin)
            self._in_order.insert(number, data)
        return data

    def _check_head(self, data: bytes, signature: bytes, begin: int) -> None:
        check_signature(data, signature)
        check_version(data[4], 0)
        heap, offset = (
            int.from_bytes(data[5:13], "little"),
            int.from_bytes(data[13 : 13 + self._offset_width], "little"),
        )
        if heap != self.address or offset != begin:
            raise Damaged(
                f"a block of another heap or place: of {heap} at {offset}, expected {self.address} at {begin}"
            )
