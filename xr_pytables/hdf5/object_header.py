"""Object headers (IV.A.1): the messages that say what an object is.

`decode_block` finds the messages of one block; `read_headers` reads the headers of many objects together, block by
block, so that a source is asked once for all and checksums are computed side by side.

Tested in `tests/hdf5/test_structures.py` and `tests/hdf5/test_oracles.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from ..errors import FormatError
from . import checksum
from .damage import OF_WRONG_BYTES, Damaged, check_version, located
from .metadata import Metadata

NIL, DATASPACE, LINK_INFO, DATATYPE, OLD_FILL_VALUE, FILL_VALUE, LINK, EXTERNAL_FILES, DATA_LAYOUT = range(9)
BOGUS, GROUP_INFO, FILTER_PIPELINE, ATTRIBUTE, COMMENT, OLD_MODIFIED, MESSAGE_TABLE, CONTINUATION = range(9, 17)
SYMBOL_TABLE, MODIFIED, B_TREE_K, DRIVER_INFO, ATTRIBUTE_INFO, REFERENCE_COUNT, FILE_SPACE, CACHE_IMAGE = range(17, 25)

MAX_BYTES: Final = 1 << 26
"""Of one object header, continuation blocks included."""
_MAX_BLOCKS: Final = 1 << 14
_KNOWN: Final = CACHE_IMAGE
_SHARED, _FAIL_IF_UNKNOWN = 0x02, 0x80
_FIRST_LOOK: Final = 1024  # bytes that are read of a header before its size is known
_WHAT: Final = "the object header"
_ANY: Final = (*OF_WRONG_BYTES, FormatError)


class Message(NamedTuple):
    """One header message."""

    type: int
    shared: bool
    """Whether `body` says where the message lies instead of being it."""
    body: bytes


Parts = tuple[int, bool, bytes]
"""What a `Message` consists of: files have tens of thousands, most of which are looked at once."""


class ObjectHeader(NamedTuple):
    """All messages of one object, in the order of the file."""

    address: int
    version: int
    messages: tuple[Parts, ...]
    size: int
    """Bytes of its blocks."""
    types: frozenset[int]
    """Of all its messages."""
    links: int = 1
    """How many hard links lead to the object; a message may say so instead."""

    def of_type(self, kind: int) -> list[Message]:
        """The messages of one type."""
        return [Message(*message) for message in self.messages if message[0] == kind]

    def first(self, kind: int) -> Message | None:
        """The first message of a type; None if there is none."""
        if kind in self.types:
            for message in self.messages:
                if message[0] == kind:
                    return Message(*message)
        return None


class _Unfinished:
    """A header of which not all blocks were read."""

    __slots__ = ("address", "blocks", "links", "messages", "prefix", "seen", "size", "version")

    def __init__(self, address: int) -> None:
        self.address, self.version, self.prefix, self.size, self.links = address, 1, 8, 0, 1
        self.blocks: list[tuple[int, int]] = []
        self.seen = set[int]()
        self.messages: list[Parts] = []


def read_headers(metadata: Metadata, addresses: Sequence[int]) -> list[ObjectHeader | FormatError]:
    """The headers at many addresses; for a damaged one the error, which names it."""
    found: dict[int, ObjectHeader | FormatError] = {}
    waiting = [_Unfinished(address) for address in dict.fromkeys(addresses)]
    metadata.prefetch((header.address, _FIRST_LOOK) for header in waiting)
    read = _first_blocks
    while waiting:
        blocks = read(metadata, waiting, found)
        problems = _wrong_checksums(blocks)
        for (header, block, start, end), problem in zip(blocks, problems, strict=True):
            try:
                if problem:
                    raise Damaged(problem)
                _add_block(header, block, start, end)
            except OF_WRONG_BYTES as error:
                found[header.address] = located(metadata.name, _WHAT, header.address, error)
        still = []
        for header in waiting:
            if header.address in found:
                continue
            if header.blocks:
                still.append(header)
            else:
                messages = tuple(header.messages)
                types = _kinds(tuple([message[0] for message in messages]))
                found[header.address] = ObjectHeader(
                    header.address, header.version, messages, header.size, types, header.links
                )
        waiting, read = still, _next_blocks
    return [found[address] for address in addresses]


_kinds = lru_cache(1024)(frozenset[int])
_Block = tuple[_Unfinished, bytes, int, int]
"""The header, the bytes of a block, and where in them its messages begin and end."""


def _first_blocks(
    metadata: Metadata, headers: Iterable[_Unfinished], failed: dict[int, ObjectHeader | FormatError]
) -> list[_Block]:
    blocks = []
    for header in headers:
        try:
            blocks.append(_first_block(metadata, header))
        except _ANY as error:
            failed[header.address] = located(metadata.name, _WHAT, header.address, error)
    return blocks


def _first_block(metadata: Metadata, header: _Unfinished) -> _Block:
    block = metadata.peek(header.address, _FIRST_LOOK, "an object header")
    header.version, header.prefix, start, end = decode_prefix(block)
    if header.version == 1:
        (header.links,) = struct.unpack_from("<I", block, 4)
    behind = 4 if header.version == 2 else 0  # a checksum
    header.size = end
    header.seen.add(header.address + (start if header.version == 1 else 0))
    if end > MAX_BYTES:
        raise Damaged(f"its first block is said to have {end} bytes, more than {MAX_BYTES}")
    if end + behind > len(block):
        block = metadata.read(header.address, end + behind, "an object header")
    return header, block[: end + behind], start, end


def decode_prefix(block: bytes) -> tuple[int, int, int, int]:
    """Version of a header, bytes before each message's data, where the messages of its first block begin and end."""
    if block[:4] != b"OHDR":
        check_version(block[0], 1)
        (size,) = struct.unpack_from("<I", block, 8)
        return 1, 8, 16, 16 + size
    check_version(block[4], 2)
    flags = block[5]
    place = 6 + 16 * bool(flags & 0x20) + 4 * bool(flags & 0x10)
    start = place + (1 << (flags & 3))
    if start > len(block):
        raise Damaged("it is cut off")
    return 2, 6 if flags & 4 else 4, start, start + int.from_bytes(block[place:start], "little")


def _next_blocks(
    metadata: Metadata, headers: Iterable[_Unfinished], failed: dict[int, ObjectHeader | FormatError]
) -> list[_Block]:
    metadata.prefetch(extent for header in headers for extent in header.blocks)
    blocks = []
    for header in headers:
        extents, header.blocks = header.blocks, []
        try:
            blocks += [_continuation(metadata, header, address, count) for address, count in extents]
        except _ANY as error:
            failed[header.address] = located(metadata.name, _WHAT, header.address, error)
    return blocks


def _continuation(metadata: Metadata, header: _Unfinished, address: int, count: int) -> _Block:
    header.size += count
    if address in header.seen or header.size > min(MAX_BYTES, metadata.size) or len(header.seen) > _MAX_BLOCKS:
        raise Damaged(f"its continuation block at {address} has no end, or was read before")
    header.seen.add(address)
    block = metadata.read(address, count, "a continuation block of an object header")
    if header.version == 1:
        return header, block, 0, count
    if block[:4] != b"OCHK" or count < 8:
        raise Damaged(f"its continuation block at {address} begins with {block[:4]!r}, expected b'OCHK'")
    return header, block, 4, count - 4


def _wrong_checksums(blocks: Sequence[_Block]) -> list[str]:
    """What is wrong with the checksum of each block; only those of version 2 have one."""
    problems = [""] * len(blocks)
    protected = [number for number, block in enumerate(blocks) if block[0].version == 2]
    found = checksum.mismatches([blocks[number][1] for number in protected])
    for number, problem in zip(protected, found, strict=True):
        problems[number] = problem
    return problems


def _add_block(header: _Unfinished, block: bytes, start: int, end: int) -> None:
    messages = decode_block(block, start, end, header.prefix)
    if CONTINUATION in [message[0] for message in messages]:
        header.blocks += [_EXTENT(body) for kind, _, body in messages if kind == CONTINUATION]
        messages = [message for message in messages if message[0] != CONTINUATION]
    header.messages += messages


_EXTENT = struct.Struct("<QQ").unpack_from
_V1, _V2 = struct.Struct("<HHB").unpack_from, struct.Struct("<BHB").unpack_from


def decode_block(block: bytes, start: int, end: int, prefix: int) -> list[Parts]:
    """The messages of a block of a header, those that mean nothing left out.

    `prefix` bytes stand before the data of each: 8 in version 1; in version 2 4, and 2 more for a creation order. In
    version 2 fewer bytes than that may be left at the end: a gap.
    """
    messages, decode = list[Parts](), _V1 if prefix == 8 else _V2
    place, last = start, end - prefix
    while place <= last:
        kind, size, flags = decode(block, place)
        place += prefix
        stop = place + size
        if stop > end:
            raise Damaged(f"a message of type {kind} with {size} bytes reaches over the end of its block")
        if flags >= _FAIL_IF_UNKNOWN and kind > _KNOWN:
            raise Damaged(f"a message of the unknown type {kind}, which must not be ignored")
        if kind:
            messages.append((kind, flags & _SHARED != 0, block[place:stop]))
        place = stop
    return messages
