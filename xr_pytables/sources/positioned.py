"""Reading and writing at a place of a file, without a position that threads would have to share; on Windows, too.

Tested in `tests/sources/test_positioned.py`.
"""

from __future__ import annotations

import os
import threading

_position = threading.Lock()
"""Where descriptors have a position that threads share, one of them at a time uses any."""


def _pread(descriptor: int, count: int, offset: int, /) -> bytes:
    with _position:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.read(descriptor, count)


def _pwrite(descriptor: int, data: bytes | bytearray | memoryview, offset: int, /) -> int:
    with _position:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.write(descriptor, data)


pread = getattr(os, "pread", _pread)
pwrite = getattr(os, "pwrite", _pwrite)
BINARY: int = getattr(os, "O_BINARY", 0)
"""Flag for `os.open`: Windows would translate ends of lines."""


def read_once(descriptor: int, view: memoryview, offset: int) -> int:
    """Fill a buffer as far as one call of the system does; the number of bytes."""
    if hasattr(os, "preadv"):  # not on older macOS
        return os.preadv(descriptor, [view], offset)
    data = pread(descriptor, len(view), offset)
    view[: len(data)] = data
    return len(data)
