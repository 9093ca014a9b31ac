"""The links of a group as values, and the link message (IV.A.2.g).

Tested in `tests/hdf5/test_structures.py` and `tests/hdf5/test_oracles.py`.
"""

from __future__ import annotations

import struct
from typing import Final, Literal, NamedTuple

from .damage import check_version, decoded, taken
from .metadata import UNDEFINED

HARD, SOFT, EXTERNAL = 0, 1, 64
MAX_LINKS: Final = 1 << 24
"""Of one group."""


class Link(NamedTuple):
    """One entry of a group."""

    name: str
    kind: Literal["hard", "soft", "external", "unknown"]
    target: str = ""
    """Where a soft or external link leads, as written in the file (external: file and path with a NUL between)."""
    address: int = UNDEFINED
    """Of the header of a hard link's object."""


class LinkInfo(NamedTuple):
    """The link info message (IV.A.2.c): where the links of a group are that are not in its header."""

    creation_order_indexed: bool
    heap: int
    """Address of the fractal heap with link messages; UNDEFINED if all links are in the header."""
    names: int
    """Address of the v2 B-tree by the hash of the name."""


def decode_link_info(body: bytes) -> LinkInfo:
    """The link info message."""
    check_version(body[0], 0)
    flags = body[1]
    heap, names = struct.unpack_from("<QQ", body, 2 + 8 * (flags & 1))
    return LinkInfo(bool(flags & 2), heap, names)


_ORDER, _ADDRESS = struct.Struct("<q").unpack_from, struct.Struct("<Q").unpack_from


def decode_link(body: bytes) -> tuple[Link, int]:
    """The link of a message, and its place in the order of creation (0 if that is not kept)."""
    check_version(body[0], 1)
    flags, kind, order, place = body[1], HARD, 0, 2
    if flags & 8:
        kind, place = body[place], place + 1
    if flags & 4:
        (order,), place = _ORDER(body, place), place + 8
    place += 1 if flags & 16 else 0  # character set: HDF5 has names in UTF-8, or bytes that nobody declared
    start = place + (1 << (flags & 3))
    length = int.from_bytes(taken(body, place, start - place), "little")
    raw = taken(body, start, length)
    place = start + length
    if kind == HARD:
        return make_link(raw, "hard", address=_ADDRESS(body, place)[0]), order
    (length,) = struct.unpack_from("<H", body, place)
    value = taken(body, place + 2, length)
    if kind == SOFT:
        return make_link(raw, "soft", value), order
    if kind == EXTERNAL:
        file, separator, path = value[1:].rstrip(b"\0").partition(b"\0")  # behind version and flags two C strings
        if separator:
            return make_link(raw, "external", file + b"\0" + path), order
    return make_link(raw, "unknown"), order


def make_link(
    raw: bytes, kind: Literal["hard", "soft", "external", "unknown"], target: bytes = b"", address: int = UNDEFINED
) -> Link:
    """A link of the name `raw`; of an unknown kind if nobody can ask for it by that name."""
    name = decoded(raw)
    if b"/" in raw or raw in (b"", b"."):  # it would be taken for a path
        return Link(name, "unknown")
    return Link(name, kind, decoded(target) if target else "", address)
