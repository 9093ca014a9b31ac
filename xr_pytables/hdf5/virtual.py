"""The mappings of a virtual dataset (III.F): which elements come from where.

Tested in `tests/hdf5/test_structures.py` and `tests/hdf5/test_oracles.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from . import checksum
from .damage import Damaged, check_version, decoded, terminated
from .selections import Selection, decode_selection

_SHARED_FILE, _SHARED_DATASET, _SAME_FILE = 1, 2, 4
_SMALLEST: Final = 32  # bytes of a mapping


class Mapping(NamedTuple):
    """A part of a virtual dataset and the elements of another dataset that are its values."""

    file: str
    """As written in the file: a path, or "." for the file itself. "%b" stands for the number of a block, see HDF5's
    documentation of `H5Pset_virtual`."""
    dataset: str
    """Path of the source dataset, in which "%b" means the same."""
    source: Selection
    virtual: Selection


def decode_mappings(data: bytes) -> tuple[Mapping, ...]:
    """The mappings of a global heap block."""
    version = data[0]
    check_version(version, 0, 1)
    checksum.check(data)
    (count,) = struct.unpack_from("<Q", data, 1)
    if count * _SMALLEST > len(data):
        raise Damaged(f"{count} mappings in {len(data)} bytes")
    place, found = 9, list[Mapping]()
    files, datasets = list[str](), list[str]()
    for _ in range(count):
        flags, place = (data[place], place + 1) if version else (0, place)
        if flags & _SAME_FILE:
            files.append(".")
        else:
            place = _name(data, place, files, shared=bool(flags & _SHARED_FILE))
        place = _name(data, place, datasets, shared=bool(flags & _SHARED_DATASET))
        source, place = decode_selection(data, place)
        virtual, place = decode_selection(data, place)
        found.append(Mapping(files[-1], datasets[-1], source, virtual))
    return tuple(found)


def _name(data: bytes, place: int, before: list[str], *, shared: bool) -> int:
    """Add a name, which is written or one of those before; where the bytes behind it begin."""
    if shared:
        before.append(_earlier(before, struct.unpack_from("<Q", data, place)[0]))
        return place + 8
    name, place = terminated(data, place)
    before.append(decoded(name))
    return place


def _earlier(names: Sequence[str], number: int) -> str:
    if number >= len(names):
        raise Damaged(f"a mapping shares a name with mapping {number}, there are {len(names)} before it")
    return names[number]
