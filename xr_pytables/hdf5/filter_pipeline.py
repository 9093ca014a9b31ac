"""The filter pipeline message (IV.A.2.l).

Tested in `tests/hdf5/test_structures.py` and `tests/hdf5/test_oracles.py`.
"""

from __future__ import annotations

import struct
from typing import Final

from ..chunks.filters import Filter, FilterPipeline
from .damage import Damaged, check_version, decoded, taken

_NAMES: Final = {1: "deflate", 2: "shuffle", 3: "fletcher32", 4: "szip", 5: "nbit", 6: "scaleoffset"}
"""Of HDF5's own filters, which version 2 of the message does not name."""
_FIRST_WITH_NAME: Final = 256
_MAX_FILTERS: Final = 32


def decode_filter_pipeline(body: bytes) -> FilterPipeline:
    """The filters in the order in which they are applied on writing."""
    version, count = body[0], body[1]
    check_version(version, 1, 2)
    if count > _MAX_FILTERS:
        raise Damaged(f"{count} filters, at most {_MAX_FILTERS} are allowed")
    place, filters = 8 if version == 1 else 2, []
    for _ in range(count):
        one, place = _decode_filter(body, place, version)
        filters.append(one)
    return FilterPipeline(tuple(filters))


def _decode_filter(body: bytes, place: int, version: int) -> tuple[Filter, int]:
    """The filter that begins at `place`, and where the next begins."""
    (identifier,) = struct.unpack_from("<H", body, place)
    place, length = place + 2, 0
    if version == 1 or identifier >= _FIRST_WITH_NAME:
        (length,), place = struct.unpack_from("<H", body, place), place + 2
    flags, count = struct.unpack_from("<HH", body, place)
    place += 4
    if version == 1:
        length = length + 7 & ~7
    name = decoded(taken(body, place, length).split(b"\0")[0]) or _NAMES.get(identifier, "")
    place += length
    values = struct.unpack_from(f"<{count}I", body, place)
    place += 4 * (count + (count & 1) * (version == 1))
    return Filter(identifier, values, name, optional=bool(flags & 1)), place
