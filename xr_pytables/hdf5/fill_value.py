"""The fill value messages, old and new (IV.A.2.e and f).

Tested in `tests/hdf5/test_structures.py` and `tests/hdf5/test_oracles.py`.
"""

from __future__ import annotations

import struct
from typing import Final, Literal

from .damage import check_version, taken

FillValue = bytes | Literal["default", "never", "undefined"]
"""One element as stored; or what else may be said: zeros, zeros that HDF5 writes nowhere, or nothing."""


def decode_old_fill_value(body: bytes) -> FillValue:
    """The value of a message of the kind that HDF5 wrote before 1.6."""
    (size,) = struct.unpack_from("<I", body)
    return taken(body, 4, size) if size else "default"


def decode_fill_value(body: bytes) -> FillValue:
    """The value of a fill value message."""
    version = body[0]
    check_version(version, 1, 2, 3)
    if version == 3:
        flags, place = body[1], 2
        time = flags >> 2 & 3
        if flags & 0x10:
            return "undefined"
        defined = bool(flags & 0x20)
    else:
        time, defined, place = body[2], bool(body[3]), 4
        if not defined:
            return "undefined"
    unsaid: FillValue = "never" if time == _NEVER else "default"
    if not defined:
        return unsaid
    (size,) = struct.unpack_from("<i", body, place)
    if size < 0:
        return "undefined"
    return taken(body, place + 4, size) if size else unsaid


_NEVER: Final = 1  # H5D_FILL_TIME_NEVER
