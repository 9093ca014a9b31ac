"""The external data files message (IV.A.2.h): raw data that lie in other files.

Tested in `tests/hdf5/test_structures.py` and `tests/hdf5/test_oracles.py`.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from .damage import Damaged, check_version
from .local_heap import LocalHeap


class ExternalFile(NamedTuple):
    """A piece of another file that holds a part of a dataset's contiguous data."""

    name: str
    """As written in the file."""
    offset: int
    """Of the piece in that file, in bytes."""
    size: int
    """Of the piece in bytes; UNLIMITED for as many as there are."""


def heap_address(body: bytes) -> int:
    """Where the heap of the names lies."""
    check_version(body[0], 1)
    (address,) = struct.unpack_from("<Q", body, 8)
    return int(address)


def decode_external_files(body: bytes, heap: LocalHeap) -> tuple[ExternalFile, ...]:
    """The pieces in the order in which they make up the data."""
    (used,) = struct.unpack_from("<H", body, 6)
    if 16 + 24 * used > len(body):
        raise Damaged(f"{used} external files in a message of {len(body)} bytes")
    found, left = [], heap.size
    for name, offset, size in struct.iter_unpack("<QQQ", body[16 : 16 + 24 * used]):
        found.append(ExternalFile(heap.name(name), offset, size))
        left -= len(found[-1].name)
        if left < 0:
            raise Damaged("the names of external files share their bytes")
    return tuple(found)
