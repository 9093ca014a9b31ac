"""What a reader of bytes asks for, whether they lie in a local file, in memory or behind a network.

A source is safe from several threads at once and never changes its size. Who makes it, closes it.

Tested in `tests/sources/test_sources.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError

WritableBuffer = bytearray | memoryview | NDArray[np.uint8]


class Source(Protocol):
    """Bytes that can be read at any offset."""

    @property
    def name(self) -> str:
        """For messages: usually the path."""

    @property
    def path(self) -> str:
        """What finds it again, as it was given."""

    @property
    def size(self) -> int:
        """Bytes in all."""

    def read(self, offset: int, count: int) -> bytes:
        """Exactly `count` bytes from `offset`. Raises FormatError if there are not so many."""

    def read_into(self, buffer: WritableBuffer, offset: int) -> int:
        """Fill a contiguous buffer from `offset`; the number of bytes read, less than it holds at the end alone."""

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """`read` for each (offset, count), for a source that can fetch them together."""


MOST_SIGNS: Final = 2000
"""Of a name, or of what is told of one thing, in a message."""


def printable(text: str) -> str:
    """`text` with its control characters escaped: names come from strangers, messages go to terminals.

    Of one that is longer than MOST_SIGNS (names of a megabyte are legal), the middle is left out.
    """
    text = shortened(text)
    if text.isprintable():
        return text
    return "".join([sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text])


def shortened(text: str) -> str:
    """`text`, without its middle if it is longer than MOST_SIGNS."""
    if len(text) <= MOST_SIGNS:
        return text
    half = MOST_SIGNS // 2
    return f"{text[:half]} [{len(text) - 2 * half} signs] {text[-half:]}"


def in_range(source: Source, offset: int, count: int) -> None:
    """Raise FormatError unless a source has `count` bytes at `offset`."""
    if offset < 0 or count < 0 or offset + count > source.size:
        raise cut_off(source, offset, count)


def named(error: OSError, name: str) -> OSError:
    """An error of the system about a descriptor, with the name of the file."""
    return error if error.filename is not None else OSError(error.errno, error.strerror, name)


def cut_off(source: Source, offset: int, count: int) -> FormatError:
    """The error of a read that does not get all that it wants."""
    return FormatError(
        f"{source.name}: {count} bytes at offset {offset} were to be read, the file has {source.size} bytes"
    )


def flat_view(buffer: WritableBuffer) -> memoryview:
    """The bytes of a contiguous, writable buffer."""
    return memoryview(buffer.data if isinstance(buffer, np.ndarray) else buffer).cast("B")
