"""The data layout message (IV.A.2.i): where the elements of a dataset are.

Tested in `tests/hdf5/test_structures.py` and `tests/hdf5/test_oracles.py`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from .damage import Damaged, Unsupported, check_version, taken
from .dataspace import MAX_RANK
from .metadata import UNDEFINED

LayoutClass = Literal["compact", "contiguous", "chunked", "virtual"]
IndexKind = Literal["v1 B-tree", "single chunk", "implicit", "fixed array", "extensible array", "v2 B-tree"]

_CLASSES: Final[tuple[LayoutClass, ...]] = ("compact", "contiguous", "chunked", "virtual")
_CONTIGUOUS, _CHUNKED = (b"\3\1", b"\4\1"), b"\3\2"  # version and class of the usual messages
_SINGLE, _IMPLICIT, _FIXED, _EXTENSIBLE, _TREE = range(1, 6)
_PARTIAL_UNFILTERED, _SINGLE_FILTERED = 1, 2
_MAX_CHUNK_BYTES: Final = 1 << 40


class IndexParameters(NamedTuple):
    """How to find the chunks of a dataset: the kind of index, where it is, and how it was made."""

    kind: IndexKind
    address: int | None
    """Of the index from the base address, of the only chunk, or of the first of all; None if nothing is stored."""
    version: int
    """Of the layout message: from 5 on, sizes of filtered chunks take 8 bytes in an index; in 4 as many as the size of
    a chunk needs, and one more."""
    k: int = 32
    """v1 B-tree: half the number of children that a node has room for."""
    chunk_size: int | None = None
    """Single chunk: its stored bytes, if filters were applied."""
    filter_mask: int = 0
    """Single chunk."""
    page_bits: int = 0
    """Fixed and extensible array: the elements of a page of a data block are 2 to the power of this."""
    max_bits: int = 0
    """Extensible array: bits of the largest number of elements."""
    index_elements: int = 0
    """Extensible array: elements in the index block itself."""
    min_pointers: int = 0
    """Extensible array: the least number of data blocks of a secondary block."""
    min_elements: int = 0
    """Extensible array: elements of the smallest data block."""
    node_size: int = 0
    """v2 B-tree: bytes of a node."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What a layout message says."""

    kind: LayoutClass
    address: int | None = None
    """Of contiguous data from the base address, or of the heap collection with the mappings of a virtual dataset; None
    if there are none."""
    size: int | None = None
    """Bytes of contiguous data; None where the message does not say."""
    data: bytes = b""
    """All elements of a compact dataset."""
    chunk: tuple[int, ...] = ()
    """Elements of a chunk along each dimension, and the bytes of an element at the end."""
    index: IndexParameters | None = None
    whole_chunks_filtered_only: bool = False
    heap_index: int = 0
    """Of the mappings of a virtual dataset in the collection."""


def address_place(body: bytes) -> int | None:
    """Where the address of the data or of the index stands in a message of the usual kinds; None in others."""
    head = body[:2]
    if head in _CONTIGUOUS:
        return 2
    return 3 if head == _CHUNKED else None


def decode_layout(body: bytes, k: int) -> Layout:
    """The layout. `k` is the superblock's for chunks."""
    version = body[0]
    check_version(version, 1, 2, 3, 4, 5)
    if version < 3:
        return _first_versions(body, version, k)
    kind = _class(body[1])
    if kind == "compact":
        (size,) = struct.unpack_from("<H", body, 2)
        return Layout(kind, data=taken(body, 4, size))
    if kind == "contiguous":
        address, size = struct.unpack_from("<QQ", body, 2)
        return Layout(kind, _defined(address), size)
    if kind == "virtual":
        if version < 4:
            raise Damaged(f"a virtual dataset in a layout message of version {version}")
        address, index = struct.unpack_from("<QI", body, 2)
        return Layout(kind, _defined(address), heap_index=index)
    if version == 3:
        rank = body[2]
        (address,) = struct.unpack_from("<Q", body, 3)
        chunk = _checked_chunk(struct.unpack_from(f"<{rank}I", body, 11))
        return Layout(kind, chunk=chunk, index=IndexParameters("v1 B-tree", _defined(address), version, k))
    return _chunked(body, version)


def _first_versions(body: bytes, version: int, k: int) -> Layout:
    rank, kind = body[1], _class(body[2])
    if kind == "virtual":
        raise Damaged(f"a virtual dataset in a layout message of version {version}")
    address, place = None, 8
    if kind != "compact":
        (address,), place = struct.unpack_from("<Q", body, place), place + 8
    sizes = struct.unpack_from(f"<{rank}I", body, place)
    if kind == "contiguous":
        return Layout(kind, _defined(address))
    if kind == "chunked":
        return Layout(
            kind, chunk=_checked_chunk(sizes), index=IndexParameters("v1 B-tree", _defined(address), version, k)
        )
    (size,) = struct.unpack_from("<I", body, place + 4 * rank)
    return Layout(kind, data=taken(body, place + 4 * rank + 4, size))


def _class(number: int) -> LayoutClass:
    if number >= len(_CLASSES):
        raise Unsupported(f"the layout class {number} is unknown")
    return _CLASSES[number]


def _defined(address: int | None) -> int | None:
    return None if address == UNDEFINED else address


def _checked_chunk(sizes: tuple[int, ...]) -> tuple[int, ...]:
    if not 2 <= len(sizes) <= MAX_RANK + 1 or not all(sizes):
        raise Damaged(f"chunks of {sizes} (elements along each dimension, bytes of an element)")
    total = 1
    for size in sizes:
        total *= size
        if total > _MAX_CHUNK_BYTES:
            raise Damaged(f"chunks of {sizes} have more than {_MAX_CHUNK_BYTES} bytes")
    return sizes


def _chunked(body: bytes, version: int) -> Layout:
    """Version 4 and later, with any index."""
    flags, rank, width = struct.unpack_from("<BBB", body, 2)
    if not 1 <= width <= 8:
        raise Damaged(f"chunk sizes of {width} bytes each")
    numbers = taken(body, 5, rank * width)
    chunk = _checked_chunk(
        tuple(int.from_bytes(numbers[start : start + width], "little") for start in range(0, rank * width, width))
    )
    place = 5 + rank * width
    index = _index(body, place, version, filtered=bool(flags & _SINGLE_FILTERED))
    return Layout("chunked", chunk=chunk, index=index, whole_chunks_filtered_only=bool(flags & _PARTIAL_UNFILTERED))


def _index(body: bytes, place: int, version: int, *, filtered: bool) -> IndexParameters:
    kind, place = body[place], place + 1

    def address(length: int) -> int | None:
        return _defined(struct.unpack_from("<Q", body, place + length)[0])

    if kind == _SINGLE:
        if not filtered:
            return IndexParameters("single chunk", address(0), version)
        size, mask = struct.unpack_from("<QI", body, place)
        return IndexParameters("single chunk", address(12), version, chunk_size=size, filter_mask=mask)
    if kind == _IMPLICIT:
        return IndexParameters("implicit", address(0), version)
    if kind == _FIXED:
        return IndexParameters("fixed array", address(1), version, page_bits=_positive(body[place]))
    if kind == _EXTENSIBLE:
        max_bits, elements, pointers, least, page = map(_positive, taken(body, place, 5))
        return IndexParameters(
            "extensible array", address(5), version, page_bits=page, max_bits=max_bits, index_elements=elements,
            min_pointers=pointers, min_elements=least,
        )  # fmt: skip
    if kind == _TREE:
        (size,) = struct.unpack_from("<I", body, place)
        return IndexParameters("v2 B-tree", address(6), version, node_size=_positive(size))
    raise Unsupported(f"the chunk index of type {kind} is unknown")


def _positive(number: int) -> int:
    if not number:
        raise Damaged("a chunk index with a parameter of 0")
    return number
