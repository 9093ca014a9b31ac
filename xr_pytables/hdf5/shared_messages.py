"""Messages that several objects share (IV.A.2, "Shared Message"; III.I): committed types, and the file's own table.

Tested in `tests/hdf5/test_structures.py` and `tests/hdf5/test_oracles.py`.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from . import checksum
from .damage import Damaged, check_signature, check_version, taken
from .fractal_heap import FractalHeap
from .metadata import Metadata
from .object_header import FILL_VALUE, OLD_FILL_VALUE

_IN_HEAP: Final = 1
_INDEX_BYTES: Final = 30


class Place(NamedTuple):
    """Where a shared message is: in the header at `address`, or the object `identifier` of the file's own heap."""

    address: int | None
    identifier: bytes


def decode_shared(body: bytes) -> Place:
    """Where the message lies that `body` stands for."""
    version, kind = body[0], body[1]
    check_version(version, 1, 2, 3)
    if version == 3 and kind == _IN_HEAP:
        return Place(None, taken(body, 2, 8))
    return Place(struct.unpack_from("<Q", body, 16 if version == 1 else 2)[0], b"")


class SharedMessages:
    """The heaps in which a file keeps messages that many objects share."""

    def __init__(self, metadata: Metadata, address: int, count: int) -> None:
        data = metadata.read(address, 8 + _INDEX_BYTES * count, "the table of shared messages")
        check_signature(data, b"SMTB")
        checksum.check(data)
        self._metadata = metadata
        self._heaps: list[tuple[int, int]] = []
        """Of each index: the types of messages in it, one bit each, and the address of their heap."""
        for place in range(4, len(data) - 4, _INDEX_BYTES):
            kinds, heap = struct.unpack_from("<2xH18xQ", data, place)
            self._heaps.append((kinds, heap))
        self._opened: dict[int, FractalHeap] = {}

    def get(self, kind: int, identifier: bytes) -> bytes:
        """The body of the message of that type."""
        kind = FILL_VALUE if kind == OLD_FILL_VALUE else kind
        heap = next((heap for kinds, heap in self._heaps if kinds >> kind & 1), None)
        if heap is None:
            raise Damaged(f"a message of type {kind} is shared, but the file has no heap for such")
        if heap not in self._opened:
            self._opened[heap] = FractalHeap(self._metadata, heap)
        return self._opened[heap].get(identifier)
