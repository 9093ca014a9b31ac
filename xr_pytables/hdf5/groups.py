"""The links of a group, wherever they are: in an old symbol table, in the header, or dense in a fractal heap.

Tested in `tests/hdf5/test_structures.py` and `tests/hdf5/test_oracles.py`.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable
from itertools import islice
from operator import itemgetter
from typing import Final, Protocol

from . import checksum
from .btree_v2 import LINK_NAMES, BTreeV2
from .damage import Damaged
from .fractal_heap import FractalHeap
from .links import MAX_LINKS, Link, decode_link, decode_link_info
from .local_heap import read_local_heap
from .metadata import UNDEFINED, Metadata
from .object_header import LINK, LINK_INFO, SYMBOL_TABLE, ObjectHeader
from .symbol_table import SymbolTable

_HASH: Final = struct.Struct("<I")


class Links(Protocol):
    """The links of one group."""

    def links(self) -> Iterable[Link]:
        """All of them: in order of creation where the file has an index of it, else by name."""

    def find(self, name: bytes) -> Link | None:
        """The one of that name, found without listing the others where the file has an index of names."""


def is_group(header: ObjectHeader) -> bool:
    """Whether an object has links."""
    return SYMBOL_TABLE in header.types or LINK_INFO in header.types


def open_group(metadata: Metadata, header: ObjectHeader, k: int) -> Links:
    """The links of the group with that header; `k` is the superblock's for groups."""
    table = header.first(SYMBOL_TABLE)
    if table is not None:
        root, heap = struct.unpack_from("<QQ", table.body)
        return SymbolTable(metadata, root, read_local_heap(metadata, heap), k)
    message = header.first(LINK_INFO)
    if message is None:
        raise Damaged("it is not a group")
    info = decode_link_info(message.body)
    if info.heap != UNDEFINED:
        return DenseLinks(metadata, info.heap, info.names, ordered=info.creation_order_indexed)
    bodies = [message.body for message in header.of_type(LINK)]
    return CompactLinks(bodies, ordered=info.creation_order_indexed)


def links_address(header: ObjectHeader) -> int:
    """Where the links of a group lie that are not in its header; UNDEFINED if all are."""
    table = header.first(SYMBOL_TABLE)
    if table is not None:
        return int.from_bytes(table.body[:8], "little")
    message = header.first(LINK_INFO)
    return UNDEFINED if message is None else decode_link_info(message.body).heap


class CompactLinks:
    """Links that are messages of the header, or objects like those."""

    def __init__(self, bodies: Iterable[bytes], *, ordered: bool) -> None:
        self._found = [decode_link(body) for body in bodies]
        self._ordered = ordered

    def links(self) -> list[Link]:
        return _sorted(self._found, self._ordered)

    def find(self, name: bytes) -> Link | None:
        text = name.decode("utf-8", "surrogateescape")
        return next((link for link, _ in self._found if link.name == text), None)


class DenseLinks:
    """Links in a fractal heap, found by the hash of their name."""

    def __init__(self, metadata: Metadata, heap: int, names: int, *, ordered: bool) -> None:
        metadata.prefetch([(heap, FractalHeap.HEADER_BYTES), (names, BTreeV2.HEADER_BYTES)])
        self._metadata, self._heap = metadata, FractalHeap(metadata, heap)
        self._names = BTreeV2(metadata, names, LINK_NAMES)
        self._ordered = ordered

    def links(self) -> list[Link]:
        self._metadata.prefetch([*self._heap.root(), *self._names.extents()])
        blocks = self._heap.extents()
        self._metadata.prefetch([*blocks, *self._names.children()])
        self._metadata.verify(blocks, self._heap.gap)
        bodies = self._heap.objects(record[4:11] for record in self._names.records())
        return _sorted(map(decode_link, bodies), self._ordered)

    def find(self, name: bytes) -> Link | None:
        text = name.decode("utf-8", "surrogateescape")
        records = self._names.find(checksum.lookup3(name), lambda record: int(_HASH.unpack_from(record)[0]))
        found = (decode_link(body)[0] for body in self._heap.objects(record[4:11] for record in records))
        return next((link for link in found if link.name == text), None)


def _sorted(found: Iterable[tuple[Link, int]], by_creation: bool) -> list[Link]:
    if by_creation:
        ordered = sorted(found, key=itemgetter(1))
    else:
        ordered = sorted(found, key=lambda one: one[0].name.encode("utf-8", "surrogateescape"))
    return [link for link, _ in ordered]


def checked(links: Iterable[Link]) -> list[Link]:
    """The links of a group, no two of which may have one name."""
    found = list(islice(links, MAX_LINKS + 1))
    if len(found) > MAX_LINKS:
        raise Damaged(f"more than {MAX_LINKS} links")
    names = [link[0] for link in found]
    if len(set(names)) < len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise Damaged(f"two links are called {twice!r}")
    return found
