"""The dataspace message (IV.A.2.b): how many elements there are along each dimension.

Tested in `tests/hdf5/test_structures.py` and `tests/hdf5/test_oracles.py`.
"""

from __future__ import annotations

import struct
from typing import Final

from .damage import Damaged, check_version

UNLIMITED: Final = 2**64 - 1
MAX_RANK: Final = 32
MAX_LENGTH: Final = 2**63 - 1
"""Of a dimension, in elements: what NumPy can count."""

Extent = tuple[tuple[int, ...] | None, tuple[int, ...]]
"""Shape and maximal shape in elements, UNLIMITED where a dimension may grow without end; a shape of None for none."""


def decode_dataspace(body: bytes) -> Extent:
    """Shape and maximal shape."""
    version, rank, flags = body[0], body[1], body[2]
    check_version(version, 1, 2)
    if rank > MAX_RANK:
        raise Damaged(f"{rank} dimensions, at most {MAX_RANK} are allowed")
    if version == 2 and body[3] == 2:
        return None, ()
    place = 8 if version == 1 else 4
    shape = struct.unpack_from(f"<{rank}Q", body, place)
    maxshape = struct.unpack_from(f"<{rank}Q", body, place + 8 * rank) if flags & 1 else shape
    if any(now > most or now > MAX_LENGTH for now, most in zip(shape, maxshape, strict=True)):
        raise Damaged(f"the shape {shape} is larger than the maximal shape {maxshape}, or than {MAX_LENGTH}")
    return shape, maxshape
