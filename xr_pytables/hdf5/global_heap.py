"""The global heap (III.E), one object after the other, for the few values that attributes and messages need.

(`xr_pytables.chunks.vlen` finds and copies the many values of an array at once.)

Tested in `tests/hdf5/test_structures.py` and `tests/hdf5/test_oracles.py`.
"""

from __future__ import annotations

import struct
from typing import Final

from .damage import Damaged, check_signature, check_version
from .metadata import Metadata

_HEADER: Final = 16  # bytes of the header of a collection, and of an object
_MAX_KEPT: Final = 64


class GlobalHeap:
    """All collections of a file. One that was looked at is kept for a while."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata
        self._kept: dict[int, dict[int, bytes]] = {}
        self._seen = set[int]()
        self._bytes = 0
        """Of all collections that were looked at."""

    def get(self, address: int, index: int) -> bytes:
        """Object number `index` of the collection at `address`."""
        objects = self._kept.get(address)
        if objects is None:
            if len(self._kept) >= _MAX_KEPT:
                self._kept.clear()
            objects = self._kept[address] = decode_collection(self._read(address))
        if index not in objects:
            raise Damaged(f"the heap collection at {address} has no object {index}")
        return objects[index]

    def _read(self, address: int) -> bytes:
        head = self._metadata.read(address, _HEADER, "a heap collection")
        check_signature(head, b"GCOL")
        check_version(head[4], 1)
        (size,) = struct.unpack_from("<Q", head, 8)
        data = self._metadata.read(address, size, "a heap collection")
        if address not in self._seen:
            self._seen.add(address)
            self._bytes += size
        if self._bytes > self._metadata.size:
            raise Damaged(f"the heap collection at {address} overlaps others")
        return data


def decode_collection(data: bytes) -> dict[int, bytes]:
    """The objects of a collection by their number. Number 0 is free space, whose size includes its header."""
    found, place = dict[int, bytes](), _HEADER
    while place + _HEADER <= len(data):
        index, _, _, size = struct.unpack_from("<HHIQ", data, place)
        if not index:
            break
        if size > len(data) - place - _HEADER:
            raise Damaged(f"object {index} of a heap collection has {size} bytes, more than follow")
        place += _HEADER
        found[index] = data[place : place + size]
        place += size + 7 & ~7
    return found
