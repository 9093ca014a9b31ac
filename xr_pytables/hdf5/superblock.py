"""The superblock, where a file begins (II.A), and what its extension adds to it (II.C).

Tested in `tests/hdf5/test_structures.py` and `tests/hdf5/test_oracles.py`.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from ..errors import FormatError
from ..sources.source import Source
from . import checksum
from .damage import Damaged, Reading, Unsupported, check_version
from .metadata import UNDEFINED

SIGNATURE: Final = b"\x89HDF\r\n\x1a\n"
_LONGEST: Final = 100  # bytes of a superblock
_DEFAULT_CHUNK_K: Final = 32
_DRIVERS: Final = {
    b"NCSAmult": "one of the files into which HDF5's multi or split driver has divided a file",
    b"NCSAfami": "one member of a family of files, which HDF5's family driver has made",
}


class Superblock(NamedTuple):
    """What holds for a whole file."""

    version: int
    base: int
    """Where the file begins in bytes of the source: the size of the user block. All addresses count from here."""
    root: int
    """Address of the root group's header."""
    end: int
    """Bytes of the file, the user block included, when it was last closed or flushed."""
    chunk_k: int = _DEFAULT_CHUNK_K
    """Half the number of children that a node of a chunk's v1 B-tree has room for."""
    group_k: int = 16
    """Half the number of children that a node of a group's v1 B-tree has room for."""
    open_for_writing: bool = False
    """Whether a writer had it open, and may be at work or dead (versions 3 alone keep that)."""
    swmr: bool = False
    """Whether that writer wrote such that others may read at the same time."""
    extension: int = UNDEFINED
    """Address of a header with more messages."""
    driver: int = UNDEFINED
    """Address of the driver information block."""
    message_table: int = UNDEFINED
    """Address of the table of shared messages."""
    message_indexes: int = 0


def find_superblock(source: Source) -> Superblock:
    """The superblock of a file. Raises FormatError for what is no HDF5 file or is one that is cut off."""
    if not source.size:
        raise FormatError(f"{source.name}: the file is empty, not an HDF5 file")
    base = 0
    while base + 8 <= source.size:
        if source.read(base, 8) == SIGNATURE:
            break
        base = max(512, 2 * base)
    else:
        raise FormatError(f"{source.name}: not an HDF5 file (no HDF5 signature)")
    with Reading(source.name, "the superblock", base):
        found = decode_superblock(source.read(base, min(_LONGEST, source.size - base)), base)
        if found.end > source.size and not found.swmr:
            raise Damaged(
                f"a damaged or truncated HDF5 file of {source.size} bytes, which says that it has {found.end} bytes, "
                "or the first of a family of files, which HDF5's family driver made: h5repack makes one file of them"
            )
    return found


def decode_superblock(data: bytes, base: int) -> Superblock:
    """The superblock whose bytes begin with `data`; it stands at `base`, whatever it says itself."""
    version = data[8]
    check_version(version, 0, 1, 2, 3)
    sizes = data[13:15] if version < 2 else data[9:11]
    if sizes != b"\x08\x08":
        raise Unsupported(f"addresses of {sizes[0]} and lengths of {sizes[1]} bytes; only 8 and 8 are read here")
    if version >= 2:
        checksum.check(data[:48])
        flags, stated, extension, end, root = struct.unpack_from("<B4Q", data, 11)
        flags = flags if version == 3 else 0
        return Superblock(
            version, base, root, end + base - stated, open_for_writing=bool(flags & 1), swmr=bool(flags & 4),
            extension=extension,
        )  # fmt: skip
    group_k, chunk_k, place = struct.unpack_from("<H", data, 18)[0], _DEFAULT_CHUNK_K, 24
    if version == 1:
        (chunk_k,), place = struct.unpack_from("<H", data, 24), 28
    stated, _, end, driver, _, root = struct.unpack_from("<6Q", data, place)
    if not (group_k and chunk_k):
        raise Damaged("it gives the nodes of B-trees no room for a child")
    return Superblock(version, base, root, end + base - stated, chunk_k, group_k, driver=driver)


def with_b_tree_k(superblock: Superblock, message: bytes) -> Superblock:
    """The superblock with the numbers of a B-tree 'K' values message (IV.A.2.t)."""
    version, chunk_k, group_k = struct.unpack_from("<BHH", message)
    check_version(version, 0)
    if not (group_k and chunk_k):
        raise Damaged("the superblock extension gives the nodes of B-trees no room for a child")
    return superblock._replace(chunk_k=chunk_k, group_k=group_k)


def with_message_table(superblock: Superblock, message: bytes) -> Superblock:
    """The superblock with the place of a shared message table message (IV.A.2.p)."""
    version, address, count = struct.unpack_from("<BQB", message)
    check_version(version, 0)
    return superblock._replace(message_table=address, message_indexes=count)


def refuse_driver(identifier: bytes) -> None:
    """Raise Unsupported: the file was written by a driver that divides files (II.B, IV.A.2.u)."""
    what = _DRIVERS.get(identifier, f"written by the driver {identifier!r}")
    raise Unsupported(f"{what}. Such files are not read here; h5repack makes one file of them")
