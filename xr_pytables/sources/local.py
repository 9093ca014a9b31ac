"""A local file, read through its descriptor with `pread`: no position that threads would have to share.

Tested in `tests/sources/test_sources.py`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from .positioned import pread, read_once
from .source import WritableBuffer, cut_off, flat_view, in_range, named, printable


class LocalFile:
    """The bytes of a regular file by a descriptor, which stays the caller's to close."""

    def __init__(self, descriptor: int, name: str) -> None:
        self.descriptor = descriptor
        self.path, self.name = name, printable(name)
        try:
            self.size = os.fstat(descriptor).st_size
        except OSError as error:
            raise named(error, self.name) from None

    def __repr__(self) -> str:
        return f"LocalFile({self.descriptor}, {self.name!r})"

    def read(self, offset: int, count: int) -> bytes:
        in_range(self, offset, count)
        try:
            data = pread(self.descriptor, count, offset)
        except OSError as error:  # here and below: a disk that fails, a handle of NFS that is stale
            raise named(error, self.name) from None
        if len(data) == count:
            return data
        whole = bytearray(count)  # a signal, or more than the system gives at once
        if self.read_into(whole, offset) < count:
            raise cut_off(self, offset, count)
        return bytes(whole)

    def read_into(self, buffer: WritableBuffer, offset: int) -> int:
        view, done = flat_view(buffer), 0
        while done < len(view):
            try:
                got = read_once(self.descriptor, view[done:], offset + done)
            except OSError as error:
                raise named(error, self.name) from None
            if not got:
                break
            done += got
        return done

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        read, descriptor = pread, self.descriptor
        try:
            found = [read(descriptor, count, offset) for offset, count in ranges]
        except OSError as error:
            raise named(error, self.name) from None
        for i, (offset, count) in enumerate(ranges):
            if len(found[i]) != count:  # rare: goes on where the system stopped, or says that there is no more
                found[i] = self.read(offset, count)
        return found
