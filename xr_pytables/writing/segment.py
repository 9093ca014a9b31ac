"""What a worker says of a block: a file of its values, or of the places where it put the block's chunks.

Whoever makes the new file reads segments that other processes wrote, on other machines perhaps, so a segment says what
it holds, is renamed when it is whole, and has a checksum for every part: damage is an error and never data. Knows no
HDF5. Numbers are little-endian:

    signature | payload of each record, in any order | table of records | footer
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
import uuid
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, BinaryIO, Final, Self

import numpy as np
from numpy.typing import NDArray

from ..chunks.libblosc2 import Bytes
from ..errors import SegmentError
from ..parsing import parsing

SIGNATURE: Final = b"XRPTSEG1"
_FOOTER: Final = struct.Struct("<QIIIQ")  # offset, length and checksum of the table; rank; size of the file
_VALUES, _TEXT, _ROWS = range(3)


@dataclass(frozen=True, eq=False)
class Values:
    """A part of the block as it is."""

    start: tuple[int, ...]
    """Its first element in the array."""
    values: NDArray[Any]


def _record(rank: int) -> np.dtype[Any]:
    return np.dtype(
        [
            ("kind", "<u4"),
            ("offset", "<u8"),
            ("size", "<u8"),
            ("crc", "<u4"),
            ("start", "<i8", (rank,)),
        ]
    )


class SegmentWriter:
    """Makes the segment at `path`, which is there, whole, only after the `with` block ended without an error."""

    def __init__(self, path: str, start: Sequence[int], shape: Sequence[int]) -> None:
        """For the block of `shape` at `start`. Raises FileNotFoundError if the folder is missing."""
        self._path = path
        self._making = f"{path}.{uuid.uuid4().hex[:8]}"
        self._records: list[tuple[Any, ...]] = []
        self._block = np.array([start, shape], "<i8")
        self._file = open(self._making, "xb")  # noqa: SIM115 - closed in __exit__
        self._file.write(SIGNATURE)

    def __enter__(self) -> Self:
        return self

    def add_values(self, start: tuple[int, ...], values: NDArray[Any]) -> None:
        """Put values in. Objects are text, or rows: arrays of one dtype."""
        buffer, kind = io.BytesIO(), _VALUES
        arrays: tuple[NDArray[Any], ...] = (values,)
        if values.dtype.kind == "O":
            is_rows = isinstance(values.reshape(-1)[0], np.ndarray)
            kind, arrays = (_ROWS, _lengths_and_elements(values)) if is_rows else (_TEXT, _lengths_and_bytes(values))
        for array in arrays:
            np.lib.format.write_array(buffer, array, allow_pickle=False)
        self._add(kind, start, buffer.getbuffer())

    def _add(self, kind: int, start: tuple[int, ...], data: Any) -> None:
        crc, size = zlib.crc32(data), memoryview(data).nbytes
        self._records.append((kind, self._file.tell(), size, crc, start))
        self._file.write(data)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                rank = self._block.shape[1]
                table = self._block.tobytes() + np.array(self._records, _record(rank)).tobytes()
                offset = self._file.tell()
                size = offset + len(table) + _FOOTER.size + 4 + len(SIGNATURE)
                footer = _FOOTER.pack(offset, len(table), zlib.crc32(table), rank, size)
                self._file.write(table + footer + struct.pack("<I", zlib.crc32(footer)) + SIGNATURE)
        except BaseException:
            self._discard()
            raise
        if error is not None:
            self._discard()
            return
        try:
            self._file.close()
            os.replace(self._making, self._path)
        except BaseException:
            self._discard()
            raise

    def _discard(self) -> None:
        with contextlib.suppress(OSError):  # a full disk: what was buffered cannot be written
            self._file.close()
        with contextlib.suppress(FileNotFoundError):  # the folder is gone: the job is over
            os.unlink(self._making)


@dataclass(frozen=True, eq=False)
class Segment:
    """What a segment holds; the payloads are read one by one."""

    path: str
    start: tuple[int, ...]
    shape: tuple[int, ...]
    """Of the block."""
    records: NDArray[Any]

    @classmethod
    def of(cls, path: str) -> Segment:
        """Raises SegmentError if the file is not a whole segment."""
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            tail = _read(file, size - _TAIL, _TAIL, path) if size >= _TAIL else b""
            if tail[-len(SIGNATURE) :] != SIGNATURE:
                raise SegmentError(_damaged(path, "it has no end"))
            footer = tail[: _FOOTER.size]
            if struct.pack("<I", zlib.crc32(footer)) != tail[_FOOTER.size : _FOOTER.size + 4]:
                raise SegmentError(_damaged(path, "the checksum of its end is wrong"))
            offset, length, crc, rank, expected = _FOOTER.unpack(footer)
            if size != expected:
                raise SegmentError(_damaged(path, f"it has {size} bytes, expected {expected}"))
            table = _read(file, offset, length, path)
            if zlib.crc32(table) != crc:
                raise SegmentError(_damaged(path, "the checksum of its table is wrong"))
        start, shape = np.frombuffer(table, "<i8", 2 * rank).reshape(2, rank).tolist()
        return cls(path, tuple(start), tuple(shape), np.frombuffer(table, _record(rank), offset=2 * 8 * rank))

    def __iter__(self) -> Iterator[Values]:
        """The records, each with its payload checked. Raises SegmentError."""
        with open(self.path, "rb") as file:
            for kind, offset, size, crc, start in self.records.tolist():
                data = _read(file, offset, size, self.path)
                if zlib.crc32(data) != crc:
                    raise SegmentError(_damaged(self.path, f"the checksum of what begins at {tuple(start)} is wrong"))
                yield Values(tuple(start), _values(data, kind))


_TAIL: Final = _FOOTER.size + 4 + len(SIGNATURE)


def _read(file: BinaryIO, offset: int, size: int, path: str) -> bytes:
    file.seek(offset)
    data = file.read(size)
    if len(data) != size:
        raise SegmentError(_damaged(path, f"{len(data)} bytes at {offset}, expected {size}"))
    return data


def _damaged(path: str, how: str) -> str:
    return f"{path}: the block that a worker put aside is damaged: {how}"


def _values(data: bytes, kind: int) -> NDArray[Any]:
    buffer = io.BytesIO(data)
    with parsing():
        values = np.lib.format.read_array(buffer, allow_pickle=False)
        if kind == _VALUES:
            return values
        second = np.lib.format.read_array(buffer, allow_pickle=False)
    return _texts(values, second) if kind == _TEXT else _split(values, second)


def _lengths_and_elements(rows: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Rows as the length of each, in their shape, and the elements of all in one."""
    flat = rows.reshape(-1).tolist()
    return np.array([len(row) for row in flat], "i8").reshape(rows.shape), np.concatenate(flat)


def _split(lengths: NDArray[np.int64], elements: NDArray[Any]) -> NDArray[Any]:
    """The reverse of `_lengths_and_elements`."""
    rows = np.empty(lengths.shape, object)
    ends = np.cumsum(lengths.reshape(-1)).tolist()
    for number, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        rows.reshape(-1)[number] = elements[start:end]
    return rows


def _lengths_and_bytes(texts: NDArray[Any]) -> tuple[NDArray[np.int64], Bytes]:
    """Texts as the length of each in bytes, in their shape, and the UTF-8 of all in one."""
    encoded = [str(text).encode("utf-8", "surrogateescape") for text in texts.reshape(-1)]
    lengths = np.array([len(data) for data in encoded], "i8").reshape(texts.shape)
    return lengths, np.frombuffer(b"".join(encoded), "u1")


def _texts(lengths: NDArray[np.int64], data: Bytes) -> NDArray[Any]:
    """The reverse of `_lengths_and_bytes`."""
    texts = np.empty(lengths.shape, object)
    ends = np.cumsum(lengths.reshape(-1)).tolist()
    for number, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        texts.reshape(-1)[number] = data[start:end].tobytes().decode("utf-8", "surrogateescape")
    return texts
