"""What goes wrong while bytes are decoded, and the one error that it becomes.

Functions that decode bytes know neither the file nor the address: they raise `Damaged` with what was found and
expected, or what Python raises for bytes that are missing. Whoever knows the place says `with Reading(...)`.
"""

from __future__ import annotations

import struct
from types import TracebackType
from typing import Final

from ..errors import FormatError
from ..sources.source import shortened


class Damaged(ValueError):  # noqa: N818 - a finding, which becomes a FormatError
    """Bytes that no sound file contains; the message says what was found and expected."""


class Unsupported(ValueError):  # noqa: N818 - likewise
    """Sound bytes of a part of the format that is not read here."""


OF_WRONG_BYTES: Final = (
    ValueError, struct.error, IndexError, KeyError, OverflowError, MemoryError, RecursionError,
)  # fmt: skip

"""What decoding wrong bytes may raise."""


class Reading:
    """A context in which wrong bytes become a FormatError that names file, structure and address."""

    __slots__ = ("_address", "_name", "_what")

    def __init__(self, name: str, what: str, address: int) -> None:
        self._name, self._what, self._address = name, what, address

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, OF_WRONG_BYTES):
            raise located(self._name, self._what, self._address, error) from error


def located(name: str, what: str, address: int, error: BaseException) -> FormatError:
    """The error that wrong bytes become; one that names file and address already stays as it is."""
    if isinstance(error, FormatError):
        return error
    found = FormatError(f"{name}: {what} at address {address}: {reason(error)}")
    found.__cause__ = error
    return found


def reason(error: BaseException) -> str:
    """What to say of an error that wrong bytes caused."""
    if isinstance(error, Damaged | Unsupported | FormatError):
        return shortened(str(error))
    return f"the bytes are damaged or cut off ({error or type(error).__name__})"


def check_signature(data: bytes, expected: bytes) -> None:
    """Raise Damaged unless `data` begins with a signature."""
    if data[: len(expected)] != expected:
        raise Damaged(f"expected the signature {expected!r}, found {data[: len(expected)]!r}")


def check_version(found: int, *known: int) -> None:
    """Raise Unsupported for a version that is not known."""
    if found not in known:
        raise Unsupported(f"version {found}, known here are {', '.join(map(str, known))}")


def taken(data: bytes, start: int, count: int) -> bytes:
    """`count` bytes from `start`. Raises Damaged if there are fewer (slices are silent about that)."""
    part = data[start : start + count]
    if len(part) != count or count < 0:
        raise Damaged(f"{count} bytes expected from byte {start}, there are {len(part)}")
    return part


def terminated(data: bytes, start: int) -> tuple[bytes, int]:
    """The C string from `start`, and where the bytes behind its terminator begin."""
    end = data.find(b"\0", start)
    if end < 0:
        raise Damaged(f"the name at byte {start} has no end")
    return data[start:end], end + 1


def decoded(name: bytes) -> str:
    """A name as text; bytes that are not UTF-8 as surrogates."""
    return name.decode("utf-8", "surrogateescape")


def bytes_needed(value: int) -> int:
    """Bytes that hold a number up to `value`, as the format counts them: one for 0."""
    return max(1, (value.bit_length() + 7) // 8)
