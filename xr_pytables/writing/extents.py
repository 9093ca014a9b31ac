"""Which bytes of an HDF5 file are raw data of arrays: chunks, and the blocks of contiguous arrays.

Everything else may change whenever anything in the file does. Walks hard links alone and looks at every dataset, also
at those that readers do not show. Knows no xarray.

Tested in `tests/disk/test_journal.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from ..chunks.index import DAMAGED, MISSING
from ..hdf5.chunk_indexes import read_index
from ..hdf5.dataset import DatasetInfo
from ..hdf5.file import File
from ..model.leaves import storage_of
from ..sources.source import FormatError

Extents = NDArray[np.int64]
"""Rows of (offset, count) in bytes."""


def raw_extents(file: File) -> dict[int, Extents]:
    """The raw data of each dataset, by the address of its header.

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
    index = read_index(file.source, storage_of(info, file.base_address))
    stored = (index.address != MISSING) & (index.address != DAMAGED)
    return np.stack([index.address[stored].astype(np.int64), index.size[stored].astype(np.int64)], axis=1)


def others(
    size: int, extents: Mapping[int, Extents], *, changed: Collection[int], rewritten: Collection[int]
) -> list[tuple[int, int]]:
    """The byte ranges of a file of `size` bytes that are not raw data, or raw data that is going to change.

    The latter are all of the datasets with headers at `changed`, and of others the chunks at the offsets `rewritten`.
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
