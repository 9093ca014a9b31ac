"""The local heap (III.D): the names of an old group's links, or of external files.

Tested in `tests/hdf5/test_structures.py` and `tests/hdf5/test_oracles.py`.
"""

from __future__ import annotations

import struct
from typing import Final

from .damage import Damaged, check_signature, check_version, decoded, terminated
from .metadata import Metadata

_MAX_BYTES: Final = 1 << 28


class LocalHeap:
    """The data segment of one heap."""

    def __init__(self, segment: bytes) -> None:
        self._segment = segment
        self.size = len(segment)
        """In bytes: all names of sound users together have no more."""

    def raw_name(self, offset: int) -> bytes:
        """The C string at `offset`."""
        if offset >= len(self._segment):
            raise Damaged(f"a name at byte {offset} of a heap of {len(self._segment)} bytes")
        return terminated(self._segment, offset)[0]

    def name(self, offset: int) -> str:
        """The same as text."""
        return decoded(self.raw_name(offset))


def read_local_heap(metadata: Metadata, address: int) -> LocalHeap:
    """The heap at `address`."""
    head = metadata.read(address, 32, "a local heap")
    check_signature(head, b"HEAP")
    check_version(head[4], 0)
    size, _, segment = struct.unpack_from("<QQQ", head, 8)
    if size > _MAX_BYTES:
        raise Damaged(f"a local heap of {size} bytes, more than {_MAX_BYTES}")
    return LocalHeap(metadata.read(segment, size, "the data segment of a local heap"))
