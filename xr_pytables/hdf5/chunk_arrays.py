"""Chunks that are counted: one after the other in the file (implicit), in a fixed array, in an extensible array.

Each has a number (`Numbering`), and an array of elements says where it is. Sections VII.B to VII.D ("Appendix C") of
the HDF5 File Format Specification. A chunk of which an array has no address is missing.

Tested in `tests/hdf5/test_chunk_indexes.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import ChunkError
from .chunk_entries import (
    ADDRESS,
    CHECKSUM,
    Box,
    ElementReader,
    Entries,
    IndexFile,
    Numbering,
    Runs,
    batches,
    check_each_once,
    element_reader,
)
from .metadata import UNDEFINED

_AT_ONCE: Final = 1 << 18  # chunks
_MOST_BITS: Final = 63  # of the number of a chunk, so that it is an int64
_PREFIX: Final = 6 + ADDRESS  # bytes that all blocks begin with: signature, version, client, address of the header


def implicit_entries(address: int, numbering: Numbering, chunk_nbytes: int, box: Box) -> Iterator[Entries]:
    """Chunks that lie one behind the other, all of them there."""
    runs = numbering.runs(box)
    if address + (runs.last + 1) * chunk_nbytes > UNDEFINED:
        raise ChunkError(f"chunks of {chunk_nbytes} bytes from {address} on have no end")
    for start in runs.starts:
        for begin in range(start, start + runs.length, _AT_ONCE):
            numbers = np.arange(begin, min(begin + _AT_ONCE, start + runs.length), dtype=np.uint64)
            size = np.full(len(numbers), chunk_nbytes, np.uint64)
            at = np.uint64(address) + numbers * np.uint64(chunk_nbytes)
            yield Entries(numbering.scaled(numbers), at, size, np.zeros(len(numbers), np.uint32))


# ---------------------------------------------------------------------------------------------------------------------
# both arrays


class _Array(NamedTuple):
    """An array of elements: how they are read, and which are wanted."""

    file: IndexFile
    what: str
    header: bytes
    """What its blocks have behind their signature: version, client, and the address of the header."""
    element: int
    """Bytes of an element."""
    read: ElementReader
    page: int
    """Elements of a page; a block of more is divided into pages, which have a checksum each."""
    numbering: Numbering
    runs: Runs

    def block(self, address: int, count: int, signature: bytes, what: str) -> bytes:
        """A block of this array. Raises ChunkError for one of another array, or that is damaged."""
        data = self.file.block(address, count, signature, what)
        self.check_owner(np.frombuffer(data, np.uint8)[None], what)
        return data

    def check_owner(self, blocks: NDArray[np.uint8], what: str) -> None:
        """Raise ChunkError unless blocks (a row of bytes for each) belong to this array."""
        if (blocks[:, 4:_PREFIX] != np.frombuffer(self.header, np.uint8)).any():
            raise ChunkError(f"{what} belongs to another array, or has another version or client")

    def entries(self, data: NDArray[np.uint8], first: NDArray[np.int64] | int) -> Entries:
        """The chunks of some rows of elements, numbered from `first` on in each row."""
        address, size, mask = self.read(data)
        rows = data.reshape(-1, data.shape[-1])
        numbers = (np.asarray(first).reshape(-1, 1) + np.arange(rows.shape[1] // self.element)).reshape(-1)
        there = address != UNDEFINED
        scaled = self.numbering.scaled(numbers[there].astype(np.uint64))
        return Entries(scaled, address[there], size[there], mask[there])

    def paged(self, addresses: NDArray[np.uint64], first: NDArray[np.int64], count: int) -> Iterator[Entries]:
        """The chunks of pages of `count` elements each: those that are wanted."""
        size = count * self.element + CHECKSUM
        wanted = self.runs.touched(first, count)
        addresses, first = addresses[wanted], first[wanted]
        for part in batches(addresses, size):
            there = addresses[part]
            rows = self.file.nodes(there, size, f"a page of {self.what}", np.full(len(there), size))
            yield self.entries(np.ascontiguousarray(rows[:, :-CHECKSUM]), first[part])


def _owner(client: int, address: int) -> bytes:
    return struct.pack("<BBQ", 0, client, address)


def _is_there(bitmap: bytes, count: int) -> NDArray[np.bool_]:
    """The pages that were ever written: a bit each, the highest of a byte first."""
    return np.unpackbits(np.frombuffer(bitmap, np.uint8))[:count].astype(bool)


def _page_places(array: _Array, address: int, number: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Where the pages with these numbers are, of which the first is at `address`."""
    size = array.page * array.element + CHECKSUM
    if len(number) and address + int(number[-1]) * size > array.file.source.size:
        raise ChunkError(f"a page of {array.what} lies beyond the end of the file ({array.file.source.size} bytes)")
    return np.uint64(address) + number.astype(np.uint64) * np.uint64(size)


# ---------------------------------------------------------------------------------------------------------------------
# the fixed array


def fixed_array_entries(
    file: IndexFile, address: int, numbering: Numbering, chunk_nbytes: int, box: Box
) -> Iterator[Entries]:
    """Chunks in a fixed array: datasets whose extent has a limit along each dimension."""
    what = "the fixed array of chunks"
    header = file.block(address, 28, b"FAHD", what)
    version, client, element, bits = header[4:8]
    count, block = struct.unpack_from("<QQ", header, 8)
    if version or bits >= _MOST_BITS:
        raise ChunkError(f"{what} at {address} has version {version} and pages of 2**{bits} elements")
    if block == UNDEFINED:
        return
    read = element_reader(client, element, chunk_nbytes, what)
    owner = _owner(client, address)
    array = _Array(file, what, owner, element, read, 1 << bits, numbering, numbering.runs(box))
    if count <= array.runs.last:
        raise ChunkError(f"{what} has {count} elements, and the chunk {array.runs.last} of the array is looked for")
    if count <= array.page:
        data = array.block(block, _PREFIX + count * element + CHECKSUM, b"FADB", what)
        yield array.entries(np.frombuffer(data, np.uint8)[_PREFIX:-CHECKSUM], 0)
        return
    pages = -(-count // array.page)
    bitmap = -(-pages // 8)
    data = array.block(block, _PREFIX + bitmap + CHECKSUM, b"FADB", what)
    number = np.flatnonzero(_is_there(data[_PREFIX : _PREFIX + bitmap], pages))
    places = _page_places(array, block + len(data), number)
    full = (number + 1) * array.page <= count
    yield from array.paged(places[full], number[full] * array.page, array.page)
    yield from array.paged(places[~full], number[~full] * array.page, count % array.page)


# ---------------------------------------------------------------------------------------------------------------------
# the extensible array


class _Shape(NamedTuple):
    """How an extensible array grows (VII.D): by super blocks, each of twice the elements of the one before."""

    in_index: int
    """Elements in the index block itself."""
    smallest: int
    """Elements of the first data block."""
    direct: int
    """Super blocks whose data blocks the index block lists itself."""
    supers: int
    """Super blocks in all."""

    def blocks(self, number: int) -> tuple[int, int, int]:
        """Of a super block: (data blocks, elements of each, number of the first element)."""
        count, size = 1 << number // 2, self.smallest << (number + 1) // 2
        return count, size, self.in_index + self.smallest * ((1 << number) - 1)


def extensible_array_entries(
    file: IndexFile, address: int, numbering: Numbering, chunk_nbytes: int, box: Box
) -> Iterator[Entries]:
    """Chunks in an extensible array: datasets of which one dimension is unlimited."""
    what = "the extensible array of chunks"
    header = file.block(address, 72, b"EAHD", what)
    version, client, element, bits, in_index, smallest, pointers, page_bits = header[4:12]
    (index,) = struct.unpack_from("<Q", header, 60)  # behind six statistics
    sound = _power_of_two(smallest) and _power_of_two(pointers) and smallest.bit_length() - 1 <= bits <= _MOST_BITS
    if version or not sound or page_bits >= _MOST_BITS:
        raise ChunkError(f"{what} at {address} has a header that no library writes: {header[4:12].hex(' ')}")
    if index == UNDEFINED:
        return
    read = element_reader(client, element, chunk_nbytes, what)
    owner = _owner(client, address)
    array = _Array(file, what, owner, element, read, 1 << page_bits, numbering, numbering.runs(box))
    direct = 2 * (pointers.bit_length() - 1)
    shape = _Shape(in_index, smallest, direct, 1 + bits - (smallest.bit_length() - 1))
    listed = sum(shape.blocks(number)[0] for number in range(direct))
    behind = _PREFIX + in_index * element
    size = behind + (listed + max(shape.supers - direct, 0)) * ADDRESS + CHECKSUM
    data = array.block(index, size, b"EAIB", f"the index block of {what}")
    if in_index:
        yield array.entries(np.frombuffer(data, np.uint8)[_PREFIX:behind], 0)
    addresses = _addresses(data[behind:-CHECKSUM])
    offset_bytes = -(-bits // 8)
    for number in range(shape.supers):
        count, length, first = shape.blocks(number)
        if first > array.runs.last:
            return
        if number < direct:
            here, addresses, bitmaps = addresses[:count], addresses[count:], b""
        else:
            block, addresses = int(addresses[0]), addresses[1:]
            if block == UNDEFINED or not array.runs.touched(np.array([first]), count * length).any():
                continue
            here, bitmaps = _super_block(array, block, count, length, offset_bytes)
        yield from _data_blocks(array, here, length, first, bitmaps, offset_bytes)


def _super_block(
    array: _Array, address: int, count: int, length: int, offset_bytes: int
) -> tuple[NDArray[np.uint64], bytes]:
    """Addresses of the data blocks of a super block, and the bitmaps of their pages (empty if they have none)."""
    prefix = _PREFIX + offset_bytes
    bitmaps = count * -(-(length // array.page) // 8) if length > array.page else 0
    size = prefix + bitmaps + count * ADDRESS + CHECKSUM
    data = array.block(address, size, b"EASB", f"a super block of {array.what}")
    return _addresses(data[prefix + bitmaps : -CHECKSUM]), data[prefix : prefix + bitmaps]


def _data_blocks(
    array: _Array, addresses: NDArray[np.uint64], length: int, first: int, bitmaps: bytes, offset_bytes: int
) -> Iterator[Entries]:
    """The chunks of data blocks of `length` elements each, the first of which has the number `first`."""
    file, prefix, what = array.file, _PREFIX + offset_bytes, f"a data block of {array.what}"
    firsts = first + length * np.arange(len(addresses))
    there = np.flatnonzero((addresses != UNDEFINED) & array.runs.touched(firsts, length))
    check_each_once(addresses[there], len(there) * (prefix + CHECKSUM), file, array.what)
    if length <= array.page:
        size = prefix + length * array.element + CHECKSUM
        for part in batches(there, size):
            used = np.full(len(there[part]), size)
            rows = file.nodes(addresses[there[part]], size, what, used)
            _check_signature(rows, array)
            array.check_owner(rows, what)
            yield array.entries(np.ascontiguousarray(rows[:, prefix:-CHECKSUM]), firsts[there[part]])
        return
    pages = length // array.page
    written = _is_there(bitmaps, len(addresses) * pages)  # counted through all data blocks of the super block
    if not bitmaps:
        raise ChunkError(f"{array.what} has data blocks with pages where its index block lists them")
    for i in there.tolist():
        begin = array.block(int(addresses[i]), prefix + CHECKSUM, b"EADB", what)
        number = np.flatnonzero(written[i * pages : (i + 1) * pages])
        places = _page_places(array, int(addresses[i]) + len(begin), number)
        yield from array.paged(places, int(firsts[i]) + number * array.page, array.page)


def _check_signature(rows: NDArray[np.uint8], array: _Array) -> None:
    if (rows[:, :4] != np.frombuffer(b"EADB", np.uint8)).any():
        raise ChunkError(f"a data block of {array.what} has no signature EADB")


def _addresses(data: bytes) -> NDArray[np.uint64]:
    return np.frombuffer(data, "<u8").astype(np.uint64)


def _power_of_two(number: int) -> bool:
    return number > 0 and not number & number - 1
