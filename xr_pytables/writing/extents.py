"""Which bytes of an HDF5 file stay as they are while others are written: chunks, nodes of the v1 B-trees that say where
those are, and the blocks of contiguous arrays.

Everything else may change whenever anything in the file does. Walks hard links alone and looks at every dataset, also
at those that readers do not show. Knows no xarray.

Tested in `tests/disk/test_journal.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..chunks.index import DAMAGED, MISSING
from ..disk.files import FileIdentity
from ..errors import FormatError
from ..hdf5.chunk_indexes import index_nodes, read_index
from ..hdf5.dataset import DatasetInfo
from ..hdf5.file import File
from ..model.leaves import storage_of
from ..sources.source import Source

Extents = NDArray[np.int64]
"""Rows of (offset, count) in bytes."""
Ranges = list[tuple[int, int]]
"""The same, sorted and apart."""
_KNOWN_FILES: Final = 16
_known: dict[FileIdentity, Ranges] = {}  # of files that this process has just changed


def raw_extents(file: File) -> dict[int, Extents]:
    """Raw data and nodes of the chunk tree of each dataset, by the address of its header.

    Datasets whose data cannot be located are left out.
    """
    found = {}
    for info in _datasets(file):
        try:
            found[info.address] = _extents_of(info, file)
        except FormatError:
            continue
    return found


def _datasets(file: File) -> Iterator[DatasetInfo]:
    for address in file.paths():
        try:
            if file.kind(address) == "dataset":
                yield file.dataset(address)
        except FormatError:
            continue


def _extents_of(info: DatasetInfo, file: File) -> Extents:
    if info.layout == "contiguous" and info.offset is not None:
        return np.array([[info.offset, info.size]], np.int64)
    if info.layout != "chunked":
        return np.empty((0, 2), np.int64)
    index = read_index(file.source, storage_of(info, file.base_address), info=info)
    stored = (index.address != MISSING) & (index.address != DAMAGED)
    chunks = np.stack([index.address[stored].astype(np.int64), index.size[stored].astype(np.int64)], axis=1)
    return np.concatenate([chunks, index_nodes(file.source, file.base_address, info).within])


def others(
    size: int, extents: Mapping[int, Extents], *, changed: Collection[int], rewritten: Collection[int]
) -> list[tuple[int, int]]:
    """The byte ranges of a file of `size` bytes that are neither raw data nor chunk trees, or those that will change.

    The latter are all of the datasets with headers at `changed`, and of others what is at the offsets `rewritten`.
    """
    kept = [rows for header, rows in extents.items() if header not in changed and len(rows)]
    rows = np.concatenate(kept) if kept else np.empty((0, 2), np.int64)
    if rewritten:
        rows = rows[~np.isin(rows[:, 0], np.fromiter(rewritten, np.int64))]
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    ends = np.maximum.accumulate(np.concatenate([[0], rows.sum(axis=1)]))
    begins = np.concatenate([rows[:, 0], [size]])
    gaps = begins > ends
    return [(int(end), int(begin - end)) for end, begin in zip(ends[gaps], begins[gaps], strict=True)]


def other_ranges(source: Source, identity: FileIdentity) -> Ranges:
    """The ranges of a file that may always change; known at once if this process has made that version of it."""
    found = _known.pop(identity, None)
    return others(source.size, raw_extents(File(source)), changed=(), rewritten=()) if found is None else found


def remember(identity: FileIdentity, ranges: Ranges) -> None:
    """Keep what `other_ranges` shall find for a version of a file."""
    _known[identity] = ranges
    while len(_known) > _KNOWN_FILES:
        _known.pop(next(iter(_known)), None)


def together(*ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Ranges in one list; those that touch or share bytes become one."""
    joined: Ranges = []
    for offset, count in sorted(itertools.chain(*ranges)):
        if joined and sum(joined[-1]) >= offset:
            first, size = joined.pop()
            offset, count = first, max(size, offset + count - first)
        joined.append((offset, count))
    return joined


def without(ranges: Ranges, holes: Iterable[tuple[int, int]]) -> Ranges:
    """What is left of ranges outside of `holes`, which have no byte in common."""
    left = []
    pending = sorted(holes)[::-1]
    for offset, count in ranges:
        end = offset + count
        while pending and pending[-1][0] < end:
            first, size = pending[-1]
            if first > offset:
                left.append((offset, first - offset))
            offset = max(offset, first + size)
            if offset > end:
                break  # the rest of the hole may be part of the next range
            pending.pop()
        if offset < end:
            left.append((offset, end - offset))
    return left
