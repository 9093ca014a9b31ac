"""A seekable file object opened in binary mode: one position, so one lock around each seek and read.

Tested in `tests/sources/test_sources.py`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO

from .source import WritableBuffer, cut_off, flat_view, in_range, printable


@contextmanager
def naming_the_object(name: str) -> Iterator[None]:
    """Errors of a file object, which know no name, with `name`: it is closed, cannot seek, or its disk fails."""
    try:
        yield
    except (OSError, ValueError) as error:
        number, reason = getattr(error, "errno", None), getattr(error, "strerror", None)
        text = f"{name}: this file object cannot be read: {reason or error}"
        raise (OSError(text) if number is None else OSError(number, text)) from error


class FileObject:
    """The bytes of a file object, which stays the caller's to close. Its position moves."""

    def __init__(self, file: BinaryIO, name: str | None = None, *, lock: threading.Lock | None = None) -> None:
        """`lock` is held around each read, if others read from the same file object."""
        self._file = file
        self._lock = lock or threading.Lock()
        self.path = name or str(getattr(file, "name", "<file object>"))
        self.name = printable(self.path)
        with self._lock, naming_the_object(self.name):
            self.size = file.seek(0, os.SEEK_END)

    def read(self, offset: int, count: int) -> bytes:
        in_range(self, offset, count)
        with self._lock, naming_the_object(self.name):
            self._file.seek(offset)
            parts, missing = [], count
            while missing and (part := self._file.read(missing)):
                parts.append(part)
                missing -= len(part)
        if missing:
            raise cut_off(self, offset, count)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read_into(self, buffer: WritableBuffer, offset: int) -> int:
        view = flat_view(buffer)
        count = max(0, min(len(view), self.size - offset))
        if count:
            view[:count] = self.read(offset, count)
        return count

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        return [self.read(offset, count) for offset, count in ranges]
